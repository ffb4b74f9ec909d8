"""How much a fold copies, and how much room it needs. Pure, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..states.ports import Extent

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class FoldSizes:
    """Bytes that a fold copies, and bytes by which its survivor may grow."""

    copy_bytes: int
    space_bytes: int


def commit_sizes(layers: Sequence[Sequence[Extent]]) -> FoldSizes:
    """All layers but the lowest go into it; ``layers`` are given top first.

    What several of them hold is copied once. Zero clusters count as needing space:
    an intermediate commit in an operator's QEMU writes them as data (measured).
    """
    held = merged(part for layer in layers[:-1] for part in _allocated(layer))
    present = merged(
        (extent.start, extent.start + extent.length)
        for extent in layers[-1]
        if extent.allocated and extent.data
    )
    copied = _length(held)
    grows = copied - _length(overlaps(held, present))
    return FoldSizes(copied, _with_tables(grows))


def with_holes(image: Sequence[Extent], file: Sequence[Extent]) -> tuple[Extent, ...]:
    """The extents of an image whose data lies in another file, at the same places.

    What is a hole there is allocated, but takes no room yet: it counts as zeroes.
    """
    spans = [(e.start, e.start + e.length) for e in file if e.allocated]
    parts: list[Extent] = []
    for extent in image:
        at, end = extent.start, extent.start + extent.length
        here = list(overlaps([(at, end)], spans)) if extent.data else []
        for start, stop in here:
            if at < start:
                parts.append(Extent(at, start - at, extent.allocated, False))
            parts.append(Extent(start, stop - start, extent.allocated, True))
            at = stop
        if at < end:
            parts.append(Extent(at, end - at, extent.allocated, False))
    return tuple(parts)


def stream_sizes(layers: Sequence[Sequence[Extent]]) -> FoldSizes:
    """What the lower layers hold, and the top does not hold yet, goes into the top."""
    lower = merged(part for layer in layers[1:] for part in _allocated(layer))
    top = merged(_allocated(layers[0]))
    copied = _length(lower) - _length(overlaps(lower, top))
    return FoldSizes(copied, _with_tables(copied))


def held_bytes(extents: Sequence[Extent]) -> int:
    """What an image holds of its own."""
    return _length(merged(_allocated(extents)))


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same ranges, sorted, with nothing twice."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def overlaps(left: Sequence[Range], right: Sequence[Range]) -> Iterator[Range]:
    """The common parts of two sorted lists of ranges."""
    i = j = 0
    while i < len(left) and j < len(right):
        start = max(left[i][0], right[j][0])
        end = min(left[i][1], right[j][1])
        if start < end:
            yield start, end
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1


def _allocated(layer: Sequence[Extent]) -> Iterator[Range]:
    return ((e.start, e.start + e.length) for e in layer if e.allocated)


def _length(ranges: Iterable[Range]) -> int:
    return sum(end - start for start, end in ranges)


def _with_tables(grows: int) -> int:
    """A thousandth and 1 MiB more, for the tables of qcow2, when anything grows."""
    return grows + grows // 1000 + (1 << 20) if grows else 0
