"""How much is copied and how much room it needs, against a map of single blocks."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from backfold.engine.sizes import FoldSizes, commit_sizes, with_holes
from backfold.states.ports import Extent

#: One block each: not allocated, zero, data.
HOLE, ZERO, DATA = range(3)
blocks = st.lists(st.sampled_from([HOLE, ZERO, DATA]), max_size=40)


def extents(image: Sequence[int], cuts: set[int], block: int) -> list[Extent]:
    """The map of an image, split where its blocks differ and at ``cuts`` besides."""
    starts = [
        at
        for at in range(len(image))
        if at == 0 or at in cuts or image[at] != image[at - 1]
    ]
    ends = [*starts[1:], len(image)]
    return [
        Extent(
            start * block,
            (end - start) * block,
            image[start] is not HOLE,
            image[start] is DATA,
        )
        for start, end in zip(starts, ends, strict=bool(image))
        if image
    ]


@given(image=blocks, file=blocks, block=st.sampled_from([1, 512, 65536]))
@example(image=[DATA] * 3, file=[DATA, HOLE, DATA], block=1)
def test_holes_of_a_data_file_are_no_data(
    image: list[int], file: list[int], block: int
) -> None:
    """Block by block: data only where both have it, allocated as before."""
    file = [*file, *[HOLE] * len(image)][: len(image)]
    joined = with_holes(extents(image, set(), block), extents(file, set(), block))

    found = [
        (part.start + at, part.allocated, part.data)
        for part in joined
        for at in range(0, part.length, block)
    ]
    assert found == [
        (at * block, here is not HOLE, here is DATA and there is not HOLE)
        for at, (here, there) in enumerate(zip(image, file, strict=True))
    ]


@given(
    top=blocks,
    base=blocks,
    top_cuts=st.sets(st.integers(0, 40)),
    base_cuts=st.sets(st.integers(0, 40)),
    block=st.sampled_from([1, 512, 65536, 1 << 30]),
)
@example(top=[], base=[], top_cuts=set(), base_cuts=set(), block=1)
@example(top=[DATA], base=[], top_cuts=set(), base_cuts=set(), block=1)
@example(top=[DATA] * 9, base=[DATA] * 3, top_cuts={4}, base_cuts={2}, block=512)
def test_sizes_are_those_of_single_blocks(
    top: list[int],
    base: list[int],
    top_cuts: set[int],
    base_cuts: set[int],
    block: int,
) -> None:
    """However extents are split: what the top holds, and what the base lacks of it."""
    copied = sum(here is not HOLE for here in top)
    padded = [*base, *[HOLE] * len(top)]
    lacking = sum(
        here is not HOLE and there is not DATA
        for here, there in zip(top, padded, strict=False)
    )

    layers = [extents(top, top_cuts, block), extents(base, base_cuts, block)]
    sizes = commit_sizes(layers)

    assert sizes.copy_bytes == copied * block
    grows = lacking * block
    assert sizes.space_bytes == (grows + grows // 1000 + (1 << 20) if grows else 0)


def test_an_empty_overlay_costs_nothing() -> None:
    """A snapshot that was just taken can be deleted on a full file system."""
    base = [Extent(0, 1 << 30, True, True)]

    assert commit_sizes([[], base]) == FoldSizes(0, 0)
    assert commit_sizes([[Extent(0, 1 << 30, False, False)], base]) == FoldSizes(0, 0)


def test_zeros_of_the_top_may_become_data_in_the_base() -> None:
    """Measured: an intermediate commit writes zero clusters out."""
    zeros = [Extent(0, 1000, True, False)]

    assert commit_sizes([zeros, []]) == FoldSizes(1000, 1001 + (1 << 20))
    assert commit_sizes([zeros, [Extent(0, 1000, True, True)]]) == FoldSizes(1000, 0)
    assert commit_sizes([zeros, zeros]).space_bytes > 1000


def test_room_for_the_tables_comes_with_the_first_byte() -> None:
    """A base that grows needs more than the data itself."""
    sizes = commit_sizes([[Extent(0, 1 << 40, True, True)], []])

    assert sizes.space_bytes - sizes.copy_bytes > (1 << 40) // 1000
