"""How much a fold copies, and how much room it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..states.ports import Extent


@dataclass(frozen=True, slots=True)
class FoldSizes:
    """Bytes that a fold copies, and bytes by which its base may grow."""

    copy_bytes: int
    space_bytes: int


def fold_sizes(top: Sequence[Extent], base: Sequence[Extent]) -> FoldSizes:
    """What the top holds, and what of that the base does not hold yet.

    Zero clusters of the top count as needing space: an intermediate commit in an
    operator's QEMU writes them as data (measured). A thousandth and 1 MiB are added
    for the tables of qcow2 when anything grows.
    """
    held = [
        (extent.start, extent.start + extent.length)
        for extent in top
        if extent.allocated
    ]
    present = [
        (extent.start, extent.start + extent.length)
        for extent in base
        if extent.allocated and extent.data
    ]
    copied = sum(end - start for start, end in held)
    shared = sum(end - start for start, end in _overlaps(held, present))
    grows = copied - shared
    return FoldSizes(copied, grows + grows // 1000 + (1 << 20) if grows else 0)


def with_holes(image: Sequence[Extent], file: Sequence[Extent]) -> tuple[Extent, ...]:
    """The extents of an image whose data lies in another file, at the same places.

    What is a hole there is allocated, but takes no room yet: it counts as zeroes.
    """
    spans = [(e.start, e.start + e.length) for e in file if e.allocated]
    parts: list[Extent] = []
    for extent in image:
        at, end = extent.start, extent.start + extent.length
        here = list(_overlaps([(at, end)], spans)) if extent.data else []
        for start, stop in here:
            if at < start:
                parts.append(Extent(at, start - at, extent.allocated, False))
            parts.append(Extent(start, stop - start, extent.allocated, True))
            at = stop
        if at < end:
            parts.append(Extent(at, end - at, extent.allocated, False))
    return tuple(parts)


def _overlaps(
    left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
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
