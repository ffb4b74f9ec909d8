"""What is said about an open run follows from its rows, in every state."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backfold.journal.model import CreationPlan, ReversionPlan
from backfold.journal.runs import (
    CreationRow,
    DeletionRow,
    FoldRow,
    ReversionRow,
    TransitionRow,
)
from backfold.states.creation import CREATION
from backfold.states.deletion import DELETION, UNDECIDED
from backfold.states.outlook import (
    DECIDED,
    of_creation,
    of_deletion,
    of_reversion,
    open_step,
)
from backfold.states.reversion import REVERSION

OPEN = [state.name for state in DELETION.states if not state.final]
ROW = DeletionRow(
    id="0123456789ab",
    domain="web",
    snapshot="s1",
    state="vote",
    generation=1,
    options={},
    plan=None,
    helper=None,
    hold=None,
    cancel_requested=False,
    downtime_ms=None,
    reason=None,
    started="2026-01-01T00:00:00+00:00",
    finished=None,
    folds=(FoldRow("vda", "voted", None, None), FoldRow("vdb", "voted", None, None)),
)


def entry(trigger: str, kind: str, machine: str = "deletion") -> TransitionRow:
    at = "2026-01-01T00:00:01+00:00"
    return TransitionRow(machine, "vote", trigger, "vote", kind, "root", 1, {}, at)


def test_every_open_state_is_decided_or_can_be_given_up() -> None:
    assert DECIDED | UNDECIDED == set(OPEN)
    assert not DECIDED & UNDECIDED


@pytest.mark.parametrize("roll_back", [False, True])
@pytest.mark.parametrize("state", OPEN)
def test_every_open_state_has_an_outlook(state: str, roll_back: bool) -> None:
    told = of_deletion(replace(ROW, state=state), [], roll_back=roll_back)

    assert told.happened and told.will and told.safe
    assert told.decided == (state in DECIDED)
    if roll_back and state in DECIDED:
        assert "Refuse to roll back" in told.will[-1]


@pytest.mark.parametrize("state", [s.name for s in CREATION.states if not s.final])
def test_every_open_state_of_a_creation_has_an_outlook(state: str) -> None:
    plan = CreationPlan("web", "s1", "off", "boot", ())
    row = CreationRow(
        "0123456789ab", "web", "s1", state, 1, plan, None, ROW.started, None
    )
    told = of_creation(row, [])

    assert told.happened and told.will and told.safe


@pytest.mark.parametrize("state", [s.name for s in REVERSION.states if not s.final])
def test_every_open_state_of_a_reversion_has_an_outlook(state: str) -> None:
    plan = ReversionPlan("web", "s1", "boot", ())
    row = ReversionRow(
        "0123456789ab", "web", "s1", state, 1, plan, None, ROW.started, None
    )
    told = of_reversion(row, [])

    assert told.happened and told.will and told.safe
    assert told.decided == (state == "recorded")


def test_a_guest_that_was_held_is_let_go_first() -> None:
    at = "2026-01-01T00:00:02+00:00"
    told = of_deletion(replace(ROW, hold={"stops_guest": True, "at": at}), [])

    assert told.held == at
    assert told.will[0].startswith("Let the guest go on")
    paused = of_deletion(replace(ROW, hold={"stops_guest": False, "at": at}), [])
    assert paused.held is None
    assert len(paused.will) == 1


def test_what_is_decided_is_counted() -> None:
    told = of_deletion(replace(ROW, state="pivot"), [])

    assert "It is decided: 2 of 2 disks have their data in the base." in told.happened
    assert "Nothing is decided." in of_deletion(ROW, []).happened


def test_a_cancel_that_was_asked_for_is_told() -> None:
    told = of_deletion(replace(ROW, cancel_requested=True), [])

    assert any("asked to cancel" in line for line in told.happened)


def test_a_plan_of_another_version_is_left_alone() -> None:
    told = of_deletion(replace(ROW, has_foreign_plan=True), [])

    assert told.will[-1].startswith("Nothing:")


@pytest.mark.parametrize(
    ("rows", "step"),
    [
        ([], None),
        ([entry("fence", "announce")], "fence"),
        ([entry("fence", "announce"), entry("fence", "note")], None),
        ([entry("fence", "announce"), entry("decide", "edge")], None),
        ([entry("fence", "announce"), entry("claim", "remark")], "fence"),
        ([entry("fence", "announce"), entry("vote", "edge", "fold")], "fence"),
        ([entry("hold", "announce"), entry("fence", "announce")], "fence"),
    ],
)
def test_the_step_that_may_have_happened(
    rows: list[TransitionRow], step: str | None
) -> None:
    assert open_step(rows) == step


def test_the_last_row_says_when_and_by_whom_it_was_left() -> None:
    told = of_deletion(ROW, [entry("fence", "announce")])

    assert (told.last, told.who) == ("2026-01-01T00:00:01+00:00", "root")
    assert (of_deletion(ROW, []).last, of_deletion(ROW, []).who) == (ROW.started, None)
