"""The images of one disk as a tree, and what becomes of them when snapshots go.

Pure. A snapshot is a label on the image that it froze. An image is needed while it is
active or has a label. Of the others, one that nothing is based on is retired, those
with one dependent each become one with it, and those with several stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..journal.model import FileId


@dataclass(frozen=True, slots=True)
class Segment:
    """Images that become one: a top, and the unneeded ones below it, top down.

    ``is_ready``: nothing but the next layer is based on any of the lower ones, not
    even an image that is about to be retired.
    """

    top: FileId
    lower: tuple[FileId, ...]
    is_ready: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of the unneeded images of a disk; ``retired`` leaves first."""

    retired: tuple[FileId, ...]
    segments: tuple[Segment, ...]
    shared: tuple[FileId, ...]


@dataclass(frozen=True, slots=True)
class DiskTree:
    """``below`` are the links; ``labels`` the snapshots that froze an image.

    ``kept`` images have lost their snapshots already.
    """

    below: Mapping[FileId, FileId | None]
    active: FileId | None
    labels: Mapping[FileId, frozenset[str]]
    kept: frozenset[FileId] = frozenset()
    _above: dict[FileId, list[FileId]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Turn the links round."""
        for image, below in self.below.items():
            if below is not None:
                self._above.setdefault(below, []).append(image)

    def dependents(self, image: FileId) -> tuple[FileId, ...]:
        """The images that are based on this one."""
        return tuple(self._above.get(image, ()))

    def unneeded(self, snapshots: frozenset[str]) -> frozenset[FileId]:
        """The images that nothing needs for itself without these snapshots."""
        bare = {
            image for image, labels in self.labels.items() if labels <= snapshots
        } | {image for image in self.kept if not self.labels.get(image)}
        return frozenset(bare & set(self.below)) - {self.active}

    def without(self, snapshots: frozenset[str]) -> Outcome:
        """What becomes of the images when these snapshots are gone."""
        unneeded = self.unneeded(snapshots)
        retired: list[FileId] = []
        while leaves := [
            image
            for image in sorted(unneeded - set(retired), key=_order)
            if all(above in retired for above in self.dependents(image))
        ]:
            retired += leaves
        left = unneeded - set(retired)
        single: dict[FileId, FileId] = {}
        for image in left:
            above = [i for i in self.dependents(image) if i not in retired]
            if len(above) == 1:
                single[image] = above[0]
        segments = []
        for top in sorted(set(single.values()) - set(single), key=_order):
            segments.append(self._segment(top, single))
        shared = tuple(sorted(left - set(single), key=_order))
        return Outcome(tuple(retired), tuple(segments), shared)

    def _segment(self, top: FileId, single: Mapping[FileId, FileId]) -> Segment:
        lower: list[FileId] = []
        image = self.below[top]
        while image is not None and image in single:
            lower.append(image)
            image = self.below.get(image)
        ready = all(len(self.dependents(image)) == 1 for image in lower)
        return Segment(top, tuple(lower), ready)


def _order(image: FileId) -> tuple[int, int]:
    return image.device, image.inode
