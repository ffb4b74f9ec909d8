"""What becomes of the images of a disk, against a model that only follows links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backfold.engine.tree import DiskTree, Outcome
from backfold.journal.model import FileId


def image(number: int) -> FileId:
    return FileId(1, number)


def tree(
    *below: int | None,
    active: int | None = None,
    kept: frozenset[int] = frozenset(),
    **labels: Any,
) -> DiskTree:
    """Images by number, each with the one below it; snapshots by their images."""
    named: dict[FileId, frozenset[str]] = {}
    for name, number in labels.items():
        named[image(number)] = named.get(image(number), frozenset()) | {name}
    return DiskTree(
        {image(n): None if b is None else image(b) for n, b in enumerate(below)},
        None if active is None else image(active),
        named,
        frozenset(map(image, kept)),
    )


def told(outcome: Outcome) -> tuple[list[int], list[tuple[int, list[int]]], list[int]]:
    """Retired images, segments as (top, lower), and shared ones, as numbers."""
    return (
        [file.inode for file in outcome.retired],
        [(s.top.inode, [file.inode for file in s.lower]) for s in outcome.segments],
        [file.inode for file in outcome.shared],
    )


def gone(*names: str) -> frozenset[str]:
    return frozenset(names)


#: s1 → {s2 → s3, s4 → s5}; the guest is on image 6.
FIVE = tree(None, 0, 1, 0, 3, 2, 4, active=6, s1=0, s2=1, s3=2, s4=3, s5=4)


def test_a_snapshot_in_a_line_is_one_fold_with_the_image_above() -> None:
    line = tree(None, 0, 1, 2, active=3, s1=0, s2=1, s3=2)

    assert told(line.without(gone("s2"))) == ([], [(2, [1])], [])
    assert told(line.without(gone("s3"))) == ([], [(3, [2])], [])


def test_a_range_is_one_fold_whatever_its_length() -> None:
    labels: dict[str, Any] = {f"s{n}": n for n in range(20)}
    line = tree(None, *range(20), active=20, **labels)
    names = gone(*(f"s{n}" for n in range(3, 20)))

    assert told(line.without(names)) == ([], [(20, list(range(19, 2, -1)))], [])


def test_a_leaf_is_retired_and_a_base_of_several_is_shared() -> None:
    branches = tree(None, 0, 1, 0, active=3, s1=0, s2=1, leaf=2)

    assert told(branches.without(gone("leaf"))) == ([2], [], [])
    assert told(branches.without(gone("s1"))) == ([], [], [0])
    assert told(branches.without(gone("s2", "leaf"))) == ([2, 1], [], [])


def test_what_was_kept_is_folded_when_one_branch_is_left() -> None:
    branches = tree(None, 0, 0, active=2, kept=frozenset({0}), leaf=1)

    outcome = branches.without(gone("leaf"))

    assert told(outcome) == ([1], [(2, [0])], [])
    # The leaf is still based on it: only a later pass may write into it.
    assert not outcome.segments[0].is_ready
    after = tree(None, 0, active=1, kept=frozenset({0}))
    assert after.without(frozenset()).segments[0].is_ready


def test_a_template_that_nobody_froze_is_never_touched() -> None:
    line = tree(None, 0, 1, active=2, s1=1)

    assert told(line.without(gone("s1"))) == ([], [(2, [1])], [])
    assert told(line.without(frozenset())) == ([], [], [])


def test_the_active_image_is_needed_whatever_froze_it() -> None:
    odd = tree(None, 0, active=1, s1=0, s2=1)

    assert told(odd.without(gone("s1", "s2"))) == ([], [(1, [0])], [])


def test_an_image_with_another_label_is_needed() -> None:
    twice = tree(None, 0, 1, active=2, a=0, b=0, c=1)

    assert told(twice.without(gone("a"))) == ([], [], [])
    assert told(twice.without(gone("a", "b"))) == ([], [(1, [0])], [])


@dataclass(frozen=True)
class Forest:
    """A random tree with random labels and a random choice of snapshots."""

    below: tuple[int | None, ...]
    labels: frozenset[int]
    names: frozenset[int]
    kept: frozenset[int]
    active: int


@st.composite
def forests(draw: st.DrawFn) -> Forest:
    size = draw(st.integers(1, 9))
    below = [None, *(draw(st.integers(0, n - 1)) for n in range(1, size))]
    numbers = st.frozensets(st.integers(0, size - 1))
    leaves = sorted(set(range(size)) - set(below))
    active = draw(st.sampled_from(leaves))
    labels = draw(numbers) - {active}
    return Forest(
        tuple(below),
        labels,
        frozenset(draw(st.sets(st.sampled_from(sorted(labels))))) if labels else labels,
        draw(numbers) - labels - {active},
        active,
    )


@given(forests())
def test_outcomes_keep_what_is_needed_and_nothing_else(forest: Forest) -> None:
    """Every unneeded image has one fate; the needed ones are the ends of all folds."""
    found = tree(
        *forest.below,
        active=forest.active,
        kept=forest.kept,
        **{f"s{n}": n for n in forest.labels},
    )
    outcome = found.without(frozenset(f"s{n}" for n in forest.names))
    retired, segments, shared = told(outcome)
    folded = [number for _, lower in segments for number in lower]
    unneeded = (forest.names | forest.kept) - {forest.active}
    above = {n: [m for m, b in enumerate(forest.below) if b == n] for n in range(9)}

    assert len(retired + folded + shared) == len({*retired, *folded, *shared})
    assert {*retired, *folded, *shared} == unneeded
    for number in retired:
        assert {*above[number]} <= {*retired[: retired.index(number)]}
    for number in shared:
        assert len([m for m in above[number] if m not in retired]) > 1
    for (top, lower), segment in zip(segments, outcome.segments, strict=True):
        assert top not in folded and top not in retired
        for higher, number in zip([top, *lower], lower, strict=False):
            assert [m for m in above[number] if m not in retired] == [higher]
        assert segment.is_ready == all(len(above[n]) == 1 for n in lower)
