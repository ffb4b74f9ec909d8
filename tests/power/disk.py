"""A disk behind a page cache: what was issued, and what a power cut may leave of it.

The rules, all of them pessimistic:

- A page (4 KiB) of a file is on the disk as it was at some moment since the file's
  last flush: the kernel may write it back at any time. A flush makes durable what
  was complete when it began, and only when it has returned.
- A file's size and its modification time are as at some moment since the last flush,
  each for itself. ``fdatasync`` makes the size durable, the time is left to chance.
- Names of one directory change in their order; how far that has come on the disk is
  left to chance beyond the last fsync of the directory. A flush of a file does not
  make its name durable.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

PAGE: Final = 4096
_ZEROES: Final = bytes(PAGE)


class Version(NamedTuple):
    """One page, size or time as a call left it. ``exit`` is None if never seen."""

    entry: int
    exit: int | None
    value: bytes | int


@dataclass(slots=True)
class Inode:
    """A file: what is durable, and every version since, oldest first."""

    number: int
    stable: bytearray = field(default_factory=bytearray)
    stable_size: int = 0
    stable_mtime: int = 0
    pages: dict[int, list[Version]] = field(default_factory=dict)
    sizes: list[Version] = field(default_factory=list)
    mtimes: list[Version] = field(default_factory=list)
    #: Counts flushes, so that two states of the file can be told apart cheaply.
    flushes: int = 0

    @property
    def size(self) -> int:
        """The size as everybody sees it now."""
        return int(self.sizes[-1].value) if self.sizes else self.stable_size

    def page(self, number: int) -> bytes:
        """A page as everybody sees it now, filled up with zeroes."""
        if versions := self.pages.get(number):
            return versions[-1].value  # type: ignore[return-value]
        return self.stable_page(number)

    def stable_page(self, number: int) -> bytes:
        """A page as the last flush left it, filled up with zeroes."""
        found = bytes(self.stable[number * PAGE : (number + 1) * PAGE])
        return found if len(found) == PAGE else found.ljust(PAGE, b"\0")

    def write(
        self, entry: int, exit: int | None, at: int, offset: int, data: bytes
    ) -> None:
        """Put data into the page cache."""
        done = 0
        while done < len(data):
            number, start = divmod(offset + done, PAGE)
            part = data[done : done + PAGE - start]
            old = self.page(number)
            new = old[:start] + part + old[start + len(part) :]
            self.pages.setdefault(number, []).append(Version(entry, exit, new))
            done += len(part)
        if offset + len(data) > self.size:
            self.sizes.append(Version(entry, exit, offset + len(data)))
        self.mtimes.append(Version(entry, exit, at))

    def zero(
        self, entry: int, exit: int | None, at: int, offset: int, length: int
    ) -> None:
        """Make a hole within the file's size."""
        length = min(length, self.size - offset)
        for start in range(offset, offset + length, PAGE):
            part = _ZEROES[: min(PAGE, offset + length - start)]
            self.write(entry, exit, at, start, part)

    def resize(self, entry: int, exit: int | None, at: int, size: int) -> None:
        """Cut off, or append a hole."""
        if size < self.size:
            self.zero(entry, exit, at, size, self.size - size)
        if size != self.size:
            self.sizes.append(Version(entry, exit, size))
            self.mtimes.append(Version(entry, exit, at))

    def observed(self, entry: int, mtime: int) -> None:
        """A stat told the real time of the newest version."""
        if self.mtimes:
            last = self.mtimes[-1]
            if last.exit is not None and last.exit < entry:
                self.mtimes[-1] = last._replace(value=mtime)
        else:
            self.stable_mtime = mtime

    def flush(self, before: int, *, data_only: bool) -> None:
        """Make durable what was complete at the place ``before`` in the order."""
        self.flushes += 1
        sizes, self.sizes = _split(self.sizes, before)
        if sizes:
            self.stable_size = int(sizes[-1].value)
        for number in list(self.pages):
            flushed, rest = _split(self.pages[number], before)
            if flushed:
                self._settle(number, flushed[-1].value)  # type: ignore[arg-type]
            if rest:
                self.pages[number] = rest
            else:
                del self.pages[number]
        if not data_only:
            mtimes, self.mtimes = _split(self.mtimes, before)
            if mtimes:
                self.stable_mtime = int(mtimes[-1].value)

    def _settle(self, number: int, content: bytes) -> None:
        end = (number + 1) * PAGE
        if len(self.stable) < end:
            self.stable.extend(bytes(end - len(self.stable)))
        self.stable[number * PAGE : end] = content


class NameChange(NamedTuple):
    """One change in a directory: a name that goes, a name that comes, or both."""

    entry: int
    exit: int | None
    folder: str
    gone: str | None
    new: str | None
    inode: Inode


class Disk:
    """The files of some folders, driven through a recording."""

    def __init__(self, folders: Iterable[str]) -> None:
        """Watch these folders (absolute paths, not those within them)."""
        self.folders = frozenset(folders)
        self.names: dict[str, Inode] = {}
        self.stable_names: dict[str, Inode] = {}
        self.changes: list[NameChange] = []
        #: What had a name once: a descriptor's path may be older than a rename.
        self.former: dict[str, Inode] = {}

    def watches(self, path: str) -> bool:
        """Whether this file is in one of the folders."""
        return os.path.dirname(path) in self.folders

    def inode(self, path: str) -> Inode | None:
        """The file of this name as everybody sees it now."""
        return self.names.get(path) or self.former.get(path)

    def change(self, change: NameChange) -> None:
        """Change names, as everybody sees it."""
        self.changes.append(change)
        if change.gone is not None:
            self.names.pop(change.gone, None)
            self.former[change.gone] = change.inode
        if change.new is not None:
            self.names[change.new] = change.inode

    def flush_folder(self, folder: str, before: int) -> None:
        """Make durable what was changed in a directory up to ``before``."""
        rest: list[NameChange] = []
        stopped = False
        for change in self.changes:
            if change.folder != folder:
                rest.append(change)
                continue
            stopped = stopped or change.exit is None or change.exit >= before
            if stopped:
                rest.append(change)
            else:
                apply_change(self.stable_names, change)
        self.changes = rest

    def settle(self, before: int) -> None:
        """Make everything durable: all this is older than what is looked at."""
        for inode in {id(i): i for i in self.names.values()}.values():
            inode.flush(before, data_only=False)
        for folder in self.folders:
            self.flush_folder(folder, before)


def apply_change(names: dict[str, Inode], change: NameChange) -> None:
    """Change names in a table."""
    if change.gone is not None and names.get(change.gone) is change.inode:
        del names[change.gone]
    if change.new is not None:
        names[change.new] = change.inode


def _split(versions: list[Version], before: int) -> tuple[list[Version], list[Version]]:
    """Up to the last one that was complete at a place in the order, and the rest."""
    count = 0
    for place, version in enumerate(versions, 1):
        if version.exit is not None and version.exit < before:
            count = place
    return versions[:count], versions[count:]
