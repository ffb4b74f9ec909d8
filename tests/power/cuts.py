"""The states that a power cut could leave: what of the un-flushed is on the disk."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from .disk import PAGE, Disk, Inode, Version, apply_change

#: What happens to un-flushed data: all of it lost, all kept, each page as at a moment
#: of its own, each sector so, or each file wholly lost or kept.
Fate = Literal["dropped", "kept", "pages", "sectors", "files"]
#: What happens to names and to modification times.
Luck = Literal["dropped", "kept", "random"]

_SECTOR: Final = 512


@dataclass(frozen=True, slots=True)
class Cut:
    """How a power cut falls: the fate of data and sizes, of names, and of times."""

    data: Fate
    names: Luck
    times: Luck

    def __str__(self) -> str:
        """As it is printed with a finding."""
        return f"data {self.data}, names {self.names}, times {self.times}"


DROPPED: Final = Cut("dropped", "dropped", "dropped")
KEPT: Final = Cut("kept", "kept", "kept")
#: One of these, in turn, at each moment besides the two above.
MIXED: Final = (
    Cut("pages", "random", "random"),
    Cut("dropped", "kept", "dropped"),
    Cut("files", "random", "random"),
    Cut("kept", "dropped", "dropped"),
    Cut("sectors", "random", "random"),
    Cut("dropped", "dropped", "kept"),
    Cut("kept", "kept", "dropped"),
    Cut("pages", "dropped", "kept"),
)


class Content:
    """What a file holds after the cut. Valid until the disk plays on."""

    __slots__ = ("inode", "key", "mtime", "pages", "size")

    def __init__(
        self, inode: Inode, pages: dict[int, bytes], size: int, mtime: int, key: object
    ) -> None:
        self.inode = inode
        self.pages = pages
        self.size = size
        self.mtime = mtime
        #: Equal keys mean equal bytes, within one recording.
        self.key = key

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file; beyond its end there are zeroes."""
        number, start = divmod(offset, PAGE)
        if start + length <= PAGE and offset + length <= self.size:
            page = self.pages.get(number)
            if page is None:
                found = bytes(self.inode.stable[offset : offset + length])
                return found.ljust(length, b"\0")
            return page[start : start + length]
        data = self.bytes(offset, min(offset + length, self.size))
        return data.ljust(length, b"\0")

    def bytes(self, start: int = 0, end: int | None = None) -> bytes:
        """A part of the file, or all of it."""
        end = self.size if end is None else end
        if start >= end:
            return b""
        first = start // PAGE
        pages = (
            self.pages.get(number) or self.inode.stable_page(number)
            for number in range(first, -(-end // PAGE))
        )
        return b"".join(pages)[start - first * PAGE : end - first * PAGE]


@dataclass(frozen=True, slots=True)
class State:
    """The files of the disk after a power cut."""

    files: dict[str, Content]


def states(disk: Disk, turn: int, seed: int) -> Iterator[tuple[Cut, State]]:
    """The states to look at now: all dropped, all kept, and one of the mixed ones."""
    for cut in (DROPPED, KEPT, MIXED[turn % len(MIXED)]):
        yield cut, state(disk, cut, random.Random(f"{seed}-{turn}"))


def state(disk: Disk, cut: Cut, rng: random.Random) -> State:
    """The files as this power cut leaves them."""
    names = dict(disk.stable_names)
    kept: dict[str, int] = {}
    for change in disk.changes:
        if change.folder not in kept:
            count = sum(c.folder == change.folder for c in disk.changes)
            luck = {"dropped": 0, "kept": count, "random": rng.randint(0, count)}
            kept[change.folder] = luck[cut.names]
        if kept[change.folder] > 0:
            kept[change.folder] -= 1
            apply_change(names, change)
    contents: dict[int, Content] = {}
    for inode in names.values():
        if id(inode) not in contents:
            contents[id(inode)] = _content(inode, cut, rng)
    return State({path: contents[id(inode)] for path, inode in names.items()})


def _content(inode: Inode, cut: Cut, rng: random.Random) -> Content:
    fate = cut.data
    if fate == "files":
        fate = rng.choice(("dropped", "kept"))
    pages: dict[int, bytes] = {}
    key: list[object] = [id(inode), inode.flushes]
    for number in sorted(inode.pages):
        versions = inode.pages[number]
        if fate == "sectors":
            page = _sectors(inode.stable_page(number), versions, rng)
            key.append((number, page))
        else:
            count = _pick(len(versions), fate, rng)
            if count == 0:
                continue
            page = versions[count - 1].value  # type: ignore[assignment]
            key.append((number, versions[count - 1].entry))
        pages[number] = page
    count = _pick(len(inode.sizes), fate, rng)
    size = int(inode.sizes[count - 1].value) if count else inode.stable_size
    key.append(size)
    times = [inode.stable_mtime, *(int(v.value) for v in inode.mtimes)]
    luck = {"dropped": times[0], "kept": times[-1], "random": rng.choice(times)}
    return Content(inode, pages, size, luck[cut.times], tuple(key))


def _pick(count: int, fate: str, rng: random.Random) -> int:
    """How many of some versions are on the disk."""
    if fate == "dropped":
        return 0
    return count if fate == "kept" else rng.randint(0, count)


def _sectors(old: bytes, versions: Sequence[Version], rng: random.Random) -> bytes:
    """A page whose sectors are of different moments: a torn write."""
    pages = [old, *(version.value for version in versions)]
    return b"".join(
        rng.choice(pages)[at : at + _SECTOR]  # type: ignore[index]
        for at in range(0, PAGE, _SECTOR)
    )
