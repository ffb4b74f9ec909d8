"""Names and order of adopted snapshots."""

from __future__ import annotations

from graphlib import CycleError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfold.engine.adoption_names import free_name, name_of
from backfold.engine.adoption_order import merged


@pytest.mark.parametrize(
    ("overlay", "below", "name"),
    [
        ("/x/web.s1", "/x/web.qcow2", "s1"),
        ("/x/web.s2", "/x/web.s1", "s2"),
        ("/x/web.s2.qcow2", "/x/web.s1.qcow2", "s2"),
        ("/x/web.s1.more", "/x/web.s1", "s1.more"),
        ("/y/web.s1.snap", "/x/web.img", "s1"),
        ("/x/web.qcow2", "/x/golden.qcow2", "web"),
        ("/x/web.qcow2", "/x/web.raw", "web"),
        ("/x/web", "/x/web.raw", "web"),
        ("/x/other.s1", "/x/web.qcow2", "other.s1"),
        ("/x/web.a b/c".replace("/c", "ü"), "/x/web.qcow2", "a_b_"),
        ("/x/web.-dash", "/x/web.qcow2", "_dash"),
        ("/x/.qcow2", "/x/web.qcow2", "_qcow2"),
        ("/x/" + "y" * 200, "/x/web.qcow2", "y" * 100),
    ],
)
def test_a_snapshot_has_the_name_of_its_overlay(
    overlay: str, below: str, name: str
) -> None:
    assert name_of(overlay, below) == name


def test_a_name_that_is_taken_gets_a_number() -> None:
    assert free_name("a", {"b"}) == "a"
    assert free_name("a", {"a", "a-2"}) == "a-3"
    assert free_name("y" * 100, {"y" * 100}) == "y" * 98 + "-2"


@given(st.permutations(list("abcdef")), st.data())
def test_orders_of_disks_are_merged(line: list[str], data: st.DataObject) -> None:
    sequences = [
        [name for name in line if name in chosen]
        for chosen in data.draw(st.lists(st.sets(st.sampled_from(line)), max_size=4))
    ]
    ages = {name: (data.draw(st.integers(0, 3)), name) for name in line}
    order = merged(sequences, ages)

    assert sorted(order) == sorted({name for names in sequences for name in names})
    for names in sequences:
        assert names == [name for name in order if name in names]


def test_age_decides_what_the_disks_leave_open() -> None:
    ages = {"a": (3, "a"), "b": (1, "b"), "c": (2, "c")}

    assert merged([["a"], ["b"], ["c"]], ages) == ["b", "c", "a"]
    assert merged([["a", "b"], ["c"]], ages) == ["c", "a", "b"]
    with pytest.raises(CycleError):
        merged([["a", "b"], ["b", "c"], ["c", "a"]], ages)
