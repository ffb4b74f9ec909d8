"""Commit or stream: the cheaper way, the safer one when they are near."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfold.engine.sizes import commit_sizes, stream_sizes
from backfold.engine.strategy import Costs, chosen
from backfold.states.ports import Extent

MIB = 1 << 20


@pytest.mark.parametrize(
    ("commit", "stream", "strategy"),
    [
        (100 * MIB, 10 * MIB, "stream"),
        (100 * MIB, 100 * MIB, "stream"),
        (100 * MIB, 125 * MIB, "stream"),
        (100 * MIB, 126 * MIB, "commit"),
        (0, 0, "stream"),
        (0, 1, "commit"),
    ],
)
def test_the_cheaper_way_is_taken_and_the_stream_when_near(
    commit: int, stream: int, strategy: str
) -> None:
    choice = chosen(Costs(commit, stream), "auto")

    assert choice.strategy == strategy
    assert choice.because


def test_what_is_impossible_or_leaves_something_behind_is_not_taken() -> None:
    assert chosen(Costs(1, 9, no_commit="others need it"), "auto").strategy == "stream"
    assert chosen(Costs(9, 1, no_stream="no qcow2"), "auto").strategy == "commit"
    left = chosen(Costs(9, 1, against_stream="it would stay"), "auto")
    assert (left.strategy, left.because) == ("commit", "it would stay")


@pytest.mark.parametrize("wanted", ["commit", "stream"])
def test_what_was_asked_for_is_taken_and_left_to_the_checks(wanted: str) -> None:
    costs = Costs(1, 9, "impossible", "impossible", "left over")

    assert chosen(costs, wanted).strategy == wanted


layers = st.lists(
    st.lists(st.booleans(), min_size=8, max_size=8), min_size=2, max_size=5
)


def extents(blocks: list[bool]) -> list[Extent]:
    return [Extent(n, 1, held, held) for n, held in enumerate(blocks)]


def streams(parts: list[list[bool]]) -> int:
    return stream_sizes([extents(part) for part in parts]).copy_bytes


def commits(parts: list[list[bool]]) -> int:
    return commit_sizes([extents(part) for part in parts]).copy_bytes


def union(*parts: list[bool]) -> list[bool]:
    return [any(blocks) for blocks in zip(*parts, strict=True)]


@given(layers)
def test_one_pass_is_never_dearer_than_several(parts: list[list[bool]]) -> None:
    """Whatever is folded first, downwards or upwards: what the plan says of it."""
    down, at = 0, parts[0]
    for _, lower in pairwise(parts):
        down += commits([at, lower])
        at = union(at, lower)
    up, at = 0, parts[-1]
    for upper in reversed(parts[:-1]):
        up += streams([upper, at])
        at = union(at, upper)

    assert commits(parts) <= down
    assert streams(parts) <= up


@given(layers)
def test_what_a_stream_copies_is_what_the_top_lacks(parts: list[list[bool]]) -> None:
    lacking = sum(
        not held and below
        for held, below in zip(parts[0], union(*parts[1:]), strict=True)
    )

    assert streams(parts) == lacking
    assert commits(parts) == sum(union(*parts[:-1]))
