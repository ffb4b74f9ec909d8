"""A file system with a page cache: what a power cut takes, and what it leaves.

Every image is its clusters and its header. Each of them exists twice: as everybody
sees it (the page cache), and as it is on the storage. A flush copies the one to the
other; a power cut throws away what was not flushed, or any part of it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .bitmaps import Dirts

CLUSTER: Final = 64 << 10
#: A raw image counts as long as its disk; a qcow2 image begins with its tables.
TABLES: Final = 3
#: A name of a directory, and the inode that it has now; None: no name any more.
Binding = tuple[str, int | None]


@dataclass(frozen=True, slots=True)
class Header:
    """What the first cluster of an image says."""

    virtual_size: int
    backing: str | None = None
    backing_format: str | None = None


@dataclass(slots=True)
class File:
    """One inode. ``header`` is None while it is no image (yet)."""

    inode: int
    format: str
    header: Header | None
    clusters: dict[int, int] = field(default_factory=dict)
    mtime: int = 0
    safe_header: Header | None = None
    safe_clusters: dict[int, int] = field(default_factory=dict)
    safe_mtime: int = 0
    #: As the file shows them; a power cut takes nothing of them.
    bitmaps: Dirts = field(default_factory=dict)

    def copy(self) -> File:
        """A copy that shares nothing that can change."""
        return replace(
            self,
            clusters=self.clusters.copy(),
            safe_clusters=self.safe_clusters.copy(),
            bitmaps={name: dirt.copy() for name, dirt in self.bitmaps.items()},
        )

    @property
    def size(self) -> int:
        """Bytes: an image grows with its clusters."""
        if self.header is None:
            return 0
        if self.format == "raw":
            return self.header.virtual_size
        return (TABLES + len(self.clusters)) * CLUSTER

    def flush(self) -> None:
        """As fdatasync does: data and header, but not the modification time."""
        if self.safe_clusters != self.clusters:
            self.safe_clusters = self.clusters.copy()
        self.safe_header = self.header

    def sync(self) -> None:
        """As fsync does."""
        self.flush()
        self.safe_mtime = self.mtime

    def cut(self, keep: random.Random | None) -> None:
        """The power goes: lose what was not flushed, or a random part of it."""
        if keep is None:
            self.clusters, self.header = self.safe_clusters.copy(), self.safe_header
            self.mtime = self.safe_mtime
            return
        for cluster in sorted(self.clusters.keys() | self.safe_clusters.keys()):
            old = self.safe_clusters.get(cluster)
            if self.clusters.get(cluster) != old and keep.random() < 0.5:
                if old is None:
                    del self.clusters[cluster]
                else:
                    self.clusters[cluster] = old
        if keep.random() < 0.5:
            self.header = self.safe_header
        if keep.random() < 0.5:
            self.mtime = self.safe_mtime
        self.sync()


class Files:
    """Names and inodes of one host; paths are absolute and without links."""

    def __init__(self) -> None:
        """Empty, in the first boot of the host."""
        self.device = 50
        self.names: dict[str, int] = {}
        self.inodes: dict[int, File] = {}
        self._safe_names: dict[str, int] = {}
        #: Directory changes that are not durable, in order; each is atomic.
        self._changes: list[tuple[Binding, ...]] = []
        self._next = 100

    def copy(self) -> Files:
        """A copy that shares nothing that can change."""
        other = Files.__new__(Files)
        other.device = self.device
        other.names = self.names.copy()
        other.inodes = {number: file.copy() for number, file in self.inodes.items()}
        other._safe_names = self._safe_names.copy()
        other._changes = self._changes.copy()
        other._next = self._next
        return other

    def file(self, path: str) -> File | None:
        """The file of that name."""
        number = self.names.get(path)
        return None if number is None else self.inodes[number]

    def create(self, path: str, format: str, header: Header | None, now: int) -> File:
        """A new file; not durable before it and its directory are synced."""
        assert path not in self.names
        file = File(self._next, format, header, mtime=now)
        self._next += 1
        self.inodes[file.inode] = file
        self._bind((path, file.inode))
        return file

    def rename(self, old: str, new: str) -> None:
        """Not durable before the directory is synced; both names change as one."""
        self._bind((new, self.names[old]), (old, None))

    def unlink(self, path: str) -> None:
        """Remove a name; who has the file open keeps it."""
        self._bind((path, None))

    def sync_names(self) -> None:
        """As an fsync of the directory."""
        self._safe_names = self.names.copy()
        self._changes.clear()

    def has_unsafe_names(self) -> bool:
        """Whether a power cut could take names back."""
        return bool(self._changes)

    def is_unsafe(self) -> bool:
        """Whether a power cut could take anything back."""
        return bool(self._changes) or any(
            file.clusters != file.safe_clusters
            or file.header != file.safe_header
            or file.mtime != file.safe_mtime
            for file in self.inodes.values()
        )

    def cut(self, keep: random.Random | None) -> None:
        """The power goes. With ``keep``, a random part survives.

        Directory changes survive in their order, as a journaling file system has it.
        """
        names = self._safe_names.copy()
        if keep is not None:
            count = keep.randint(0, len(self._changes))
            for bindings in self._changes[:count]:
                _apply(names, bindings)
        self.names = names
        self._safe_names = names.copy()
        self._changes = []
        for file in self.inodes.values():
            file.cut(keep)
        self.inodes = {n: self.inodes[n] for n in sorted(set(names.values()))}
        self.device += 1

    def _bind(self, *bindings: Binding) -> None:
        self._changes.append(bindings)
        _apply(self.names, bindings)


def _apply(names: dict[str, int], bindings: Iterable[Binding]) -> None:
    for path, number in bindings:
        if number is None:
            names.pop(path, None)
        else:
            names[path] = number
