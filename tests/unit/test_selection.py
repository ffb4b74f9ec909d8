"""Which snapshots a deletion is about."""

from __future__ import annotations

import pytest

from backfold.engine.selection import selected, valid_options
from backfold.journal.errors import Refused, UsageError
from backfold.journal.model import Snapshot
from backfold.states.options import Options

#: s1 → {s2 → s3, s4 → s5}, parents first.
PARENTS = {"s1": None, "s2": "s1", "s4": "s1", "s3": "s2", "s5": "s4"}
FIVE = [
    Snapshot("d", name, parent, "", "valid", None, name == "s5", ())
    for name, parent in PARENTS.items()
]


def names(name: str, **options: str) -> list[str]:
    chosen = Options(**options)  # type: ignore[arg-type]
    return [snapshot.name for snapshot in selected("d", FIVE, name, chosen)]


def test_a_snapshot_a_range_and_a_subtree() -> None:
    assert names("s2") == ["s2"]
    assert names("s1", through="s3") == ["s1", "s2", "s3"]
    assert names("s4", through="s4") == ["s4"]
    assert names("s1", scope="children") == ["s1", "s2", "s4", "s3", "s5"]
    assert names("s1", scope="children-only") == ["s2", "s4", "s3", "s5"]
    assert names("s4", scope="children") == ["s4", "s5"]


@pytest.mark.parametrize(
    ("name", "options", "code"),
    [
        ("s9", {}, "unknown_snapshot"),
        ("s1", {"through": "s9"}, "unknown_snapshot"),
        ("s2", {"through": "s5"}, "not_a_descendant"),
        ("s3", {"through": "s2"}, "not_a_descendant"),
        ("s3", {"scope": "children-only"}, "no_children"),
    ],
)
def test_what_does_not_exist_is_refused(
    name: str, options: dict[str, str], code: str
) -> None:
    with pytest.raises(Refused) as caught:
        names(name, **options)

    assert [reason.code for reason in caught.value.reasons] == [code]
    assert all(reason.remedy for reason in caught.value.reasons)


@pytest.mark.parametrize(
    "options",
    [
        Options(scope="grandchildren"),
        Options(strategy="magic"),
        Options(scope="children", through="s3"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(options: Options) -> None:
    with pytest.raises(UsageError):
        valid_options(options)
