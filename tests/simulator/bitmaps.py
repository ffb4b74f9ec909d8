"""Dirty bitmaps of simulated images, as QEMU 7.2 keeps them.

A persistent bitmap lies in its file. A QEMU that opens the file for writing marks it
as in use, has it in memory, and stores it when it closes the image or reopens it
read-only: killed before that, the bitmap is inconsistent for ever.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from backfold.states.ports import Bitmap

from .files import CLUSTER, File


@dataclass(slots=True)
class Dirt:
    """One bitmap; ``clusters`` are those that were written while it was recording."""

    recording: bool = True
    persistent: bool = True
    inconsistent: bool = False
    granularity: int = CLUSTER
    clusters: set[int] = field(default_factory=set)

    def copy(self) -> Dirt:
        """A copy that shares nothing that can change."""
        return replace(self, clusters=self.clusters.copy())

    def shown(self, name: str) -> Bitmap:
        """As QEMU tells of it."""
        return Bitmap(
            name=name,
            granularity=self.granularity,
            recording=self.recording and not self.inconsistent,
            persistent=self.persistent,
            inconsistent=self.inconsistent,
            dirty=len(self.clusters) * CLUSTER,
        )


Dirts = dict[str, Dirt]


def copied(dirts: Dirts) -> Dirts:
    """All of them once more."""
    return {name: dirt.copy() for name, dirt in dirts.items()}


def opened(file: File) -> Dirts:
    """What a QEMU has in memory when it opens a file."""
    found = copied(file.bitmaps)
    for dirt in found.values():
        if dirt.inconsistent:
            dirt.clusters.clear()
    return found


def mark_in_use(file: File) -> None:
    """The file is opened for writing."""
    for dirt in file.bitmaps.values():
        dirt.inconsistent = True


def store(file: File, dirts: Dirts) -> None:
    """The file is closed, or reopened read-only."""
    file.bitmaps = {n: d.copy() for n, d in dirts.items() if d.persistent}
