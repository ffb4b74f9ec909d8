"""Runs: compare-and-set, declared edges, folds, and the history that only grows."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal import runs
from backfold.journal.errors import Refused, Superseded, Undeclared, UsageError
from backfold.journal.model import (
    CreationPlan,
    DiskReversion,
    FileId,
    FileStamp,
    Image,
    OverlayPlan,
    Plan,
    ReversionPlan,
)
from backfold.journal.runs import Author, RunKey
from backfold.journal.schema import migrate
from backfold.states.creation import CREATION
from backfold.states.deletion import DELETION
from backfold.states.fold import ALLOWED, FOLD
from backfold.states.machine import Declaration
from backfold.states.reversion import REVERSION

ME = Author("me@host:1", "2025-01-01T00:00:00.000000+00:00")
LATER = Author("me@host:1", "2025-01-02T00:00:00.000000+00:00")
RUN = "0123456789ab"
STAMPS = (FileStamp(10, 11), FileStamp(20, 21))
PLAN = CreationPlan(
    "d",
    "s",
    "off",
    "boot",
    (
        OverlayPlan(
            "vda", Image("/a", "raw", FileId(1, 2), 512), "/a.s", "a", FileStamp(1, 2)
        ),
    ),
)
BACK = ReversionPlan(
    "d",
    "s",
    "boot",
    tuple(
        DiskReversion(one, one.frozen, FileStamp(3, 4), 512, "s", None)
        for one in PLAN.overlays
    ),
    untouched=("vdb",),
)


@pytest.fixture
def db() -> Iterator[Database]:
    """An empty journal in memory."""
    with closing(journal()) as db:
        yield db


def empty() -> Database:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    db = Database(connection, strict=True, execute_plugins=False)
    db.execute("pragma foreign_keys = on")
    return db


@cache
def template() -> bytes:
    with closing(empty()) as db:
        migrate(db, SEEDS)
        return db.conn.serialize()


def journal() -> Database:
    """An empty journal in memory."""
    db = empty()
    db.conn.deserialize(template())
    return db


def dump(db: Database) -> str:
    return "\n".join(db.conn.iterdump())


def begin(
    db: Database, state: str = "validate", run: str = RUN, domain: str = "d"
) -> RunKey:
    """A deletion that stands in a state."""
    return runs.begin_deletion(db, run, domain, "s", {"timeout": 5}, state, ME)


def place_folds(db: Database, state: str) -> None:
    """Two folds that stand in a state, whatever led there."""
    for target in ("vda", "vdb"):
        db.execute(
            "insert into folds (deletion, target, state, top_stamp, base_stamp)"
            " values (?, ?, ?, '[1, 2]', '[3, 4]')",
            (RUN, target, state),
        )


def move(
    db: Database,
    key: RunKey,
    source: str = "validate",
    trigger: str = "accept",
    dest: str = "prepare",
    *,
    final: bool = False,
) -> None:
    runs.move(db, key, source, trigger, dest, LATER, {"why": "so"}, final=final)


def refused(db: Database, error: type[Exception], unit: Callable[[], object]) -> None:
    """As a unit of the store: it raises, and nothing of it stays."""
    before = dump(db)
    with pytest.raises(error), db.atomic():
        unit()
    assert dump(db) == before


# Compare-and-set


def test_a_move_changes_state_and_history_together(db: Database) -> None:
    """One row of history for one change of state."""
    key = begin(db)

    move(db, key)

    row = runs.deletion(db, RUN)
    last = list(runs.history(db, RUN))[-1]
    assert (row.state, row.finished, row.generation) == ("prepare", None, 1)
    assert (last.kind, last.source, last.trigger, last.dest) == (
        "edge",
        "validate",
        "accept",
        "prepare",
    )
    assert (last.who, last.at, last.detail) == (LATER.who, LATER.at, {"why": "so"})


def test_a_move_from_another_state_is_superseded(db: Database) -> None:
    """A late or repeated order does not move the run a second time."""
    key = begin(db)
    move(db, key)

    refused(db, Superseded, lambda: move(db, key))


ORDERS: dict[str, Callable[[Database, RunKey], object]] = {
    "move": lambda db, key: move(db, key, "vote", "decide", "pivot"),
    "announce": lambda db, key: runs.announce(db, key, "vote", "hold", ME, {}),
    "note": lambda db, key: runs.note(db, key, "vote", "hold", ME, {}),
    "update_deletion": lambda db, key: runs.update_deletion(db, key, reason="x"),
    "put_folds": lambda db, key: runs.put_folds(db, key, ["vda"], "planned"),
    "move_fold": lambda db, key: runs.move_fold(
        db, key, "vda", "converged", "diverge", "copying", ME
    ),
}


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_orders_of_a_former_engine_are_refused(
    db: Database, order: Callable[[Database, RunKey], object]
) -> None:
    """After `claim`, the engine that was thought dead can write nothing."""
    old = begin(db, "vote")
    place_folds(db, "converged")
    new = runs.claim(db, "deletion", RUN, LATER)

    refused(db, Superseded, lambda: order(db, old))

    assert new.generation == 2
    order(db, new)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_finished_run_is_history(
    db: Database, order: Callable[[Database, RunKey], object]
) -> None:
    """Nothing changes a run that has ended, not even its own engine."""
    key = begin(db, "vote")
    place_folds(db, "converged")
    db.execute("update deletions set finished = 'now'")

    refused(db, Superseded, lambda: order(db, key))


@pytest.mark.parametrize("name", ["announce", "note"])
def test_a_step_of_a_state_that_was_left_is_refused(db: Database, name: str) -> None:
    """The row says in which state the step is about to be done: that must be true."""
    key = begin(db, "prepare")

    refused(db, Superseded, lambda: ORDERS[name](db, key))


def test_a_run_that_is_claimed_twice_belongs_to_the_last(db: Database) -> None:
    """Each claim is a row of the history."""
    begin(db)
    first = runs.claim(db, "deletion", RUN, ME)
    second = runs.claim(db, "deletion", RUN, LATER)

    refused(db, Superseded, lambda: move(db, first))
    move(db, second)

    claims = [row for row in runs.history(db, RUN) if row.trigger == "claim"]
    assert [row.generation for row in claims] == [1, 2, 3]
    assert [row.who for row in claims] == [ME.who, ME.who, LATER.who]


def test_a_creation_is_compared_and_set_as_well(db: Database) -> None:
    """The same rules for the other machine."""
    old = runs.begin_creation(db, RUN, PLAN, "planned", ME)
    new = runs.claim(db, "creation", RUN, LATER)

    def made(key: RunKey) -> None:
        runs.move(db, key, "planned", "made", "overlays_made", ME, {}, final=False)

    refused(db, Superseded, lambda: made(old))
    made(new)
    refused(db, Superseded, lambda: made(new))
    assert runs.creation(db, RUN).state == "overlays_made"
    assert runs.creation(db, RUN).plan == PLAN


# Only what is declared


def triggers(machine: Declaration) -> set[str]:
    return {edge.trigger for edge in machine.edges}


def test_only_declared_edges_of_a_deletion_can_be_recorded(db: Database) -> None:
    """Every other combination of states and triggers is refused by the file."""
    key = begin(db)
    declared = {(edge.source, edge.trigger, edge.dest) for edge in DELETION.edges}
    names = [state.name for state in DELETION.states]

    accepted = set()
    for edge in itertools.product(names, sorted(triggers(DELETION)), names):
        db.execute("update deletions set state = ?", (edge[0],))
        try:
            with db.atomic():
                move(db, key, *edge)
                accepted.add(edge)
                raise InterruptedError
        except (InterruptedError, sqlite3.IntegrityError):
            pass

    assert accepted == declared


def test_only_declared_edges_of_a_fold_can_be_recorded(db: Database) -> None:
    """The same for the machine of a fold."""
    key = begin(db)
    place_folds(db, "planned")
    declared = {(edge.source, edge.trigger, edge.dest) for edge in FOLD.edges}
    names = [state.name for state in FOLD.states]

    accepted = set()
    for source, trigger, dest in itertools.product(
        names, sorted(triggers(FOLD)), names
    ):
        db.execute("update folds set state = ?", (source,))
        try:
            with db.atomic():
                runs.move_fold(db, key, "vda", source, trigger, dest, ME)
                accepted.add((source, trigger, dest))
                raise InterruptedError
        except (InterruptedError, sqlite3.IntegrityError):
            pass

    assert accepted == declared


@pytest.mark.parametrize("order", [runs.announce, runs.note])
def test_only_declared_steps_can_be_recorded(
    db: Database, order: Callable[..., None]
) -> None:
    """A step of another state is refused by the file."""
    key = begin(db, "vote")

    refused(
        db, sqlite3.IntegrityError, lambda: order(db, key, "vote", "finalize", ME, {})
    )


@pytest.mark.parametrize("state", [state.name for state in FOLD.states])
@pytest.mark.parametrize(
    "edge", DELETION.edges, ids=lambda e: f"{e.source}-{e.trigger}-{e.dest}"
)
def test_a_move_is_refused_when_a_fold_does_not_fit(
    db: Database, edge: tuple[str, str, str], state: str
) -> None:
    """All disks or none: one fold in the wrong state keeps the deletion back."""
    source, trigger, dest = edge.source, edge.trigger, edge.dest  # type: ignore[attr-defined]
    key = begin(db, source)
    place_folds(db, next(iter(ALLOWED[dest]), state))
    db.execute("update folds set state = ? where target = 'vdb'", (state,))

    def order() -> None:
        move(db, key, source, trigger, dest)

    if state in ALLOWED[dest]:
        order()
    else:
        refused(db, Undeclared, order)


@pytest.mark.parametrize(
    "machine", [DELETION, CREATION, REVERSION], ids=lambda m: m.name
)
def test_only_a_final_state_finishes_a_run(db: Database, machine: Declaration) -> None:
    """Until then it is open: it bars other runs, and `recover` finds it."""
    for number, edge in enumerate(machine.edges):
        run, domain = f"{number:012x}", f"d{number}"
        final = edge.dest in machine.final
        if machine is DELETION:
            key = begin(db, edge.source, run, domain)
        elif machine is CREATION:
            plan = replace(PLAN, domain=domain)
            key = runs.begin_creation(db, run, plan, edge.source, ME)
        else:
            back = replace(BACK, domain=domain)
            key = runs.begin_reversion(db, run, back, edge.source, ME)
        move(db, key, edge.source, edge.trigger, edge.dest, final=final)

        read: Mapping[str, Callable[[Database, str], Any]] = {
            "deletion": runs.deletion,
            "creation": runs.creation,
            "reversion": runs.reversion,
        }
        row = read[machine.name](db, run)
        assert (row.finished is not None) is final
        assert bool(runs.open_run_reasons(db, domain)) is not final


# Folds


def test_folds_are_replaced_by_a_new_plan(db: Database) -> None:
    """Planned again: the folds are those of the new plan, in its order."""
    key = begin(db, "prepare")
    runs.put_folds(db, key, ["vdb", "vda"], "planned")
    runs.move_fold(db, key, "vdb", "planned", "start", "copying", ME)

    runs.put_folds(db, key, ["vdc", "vdb"], "planned")

    folds = runs.deletion(db, RUN).folds
    assert [(fold.target, fold.state) for fold in folds] == [
        ("vdc", "planned"),
        ("vdb", "planned"),
    ]


def test_folds_can_be_put_in_a_declared_state_only(db: Database) -> None:
    """The file refuses others, and the old folds stay."""
    key = begin(db, "prepare")
    runs.put_folds(db, key, ["vda"], "planned")

    refused(
        db, sqlite3.IntegrityError, lambda: runs.put_folds(db, key, ["vdb"], "ready")
    )


def test_a_vote_carries_its_stamps_and_keeps_them(db: Database) -> None:
    """Recovery compares the images with what they were at the decision."""
    key = begin(db, "vote")
    place_folds(db, "converged")

    runs.move_fold(db, key, "vda", "converged", "vote", "voted", ME, STAMPS)
    runs.move_fold(db, key, "vda", "voted", "switch", "switched", ME)

    fold, other = runs.deletion(db, RUN).folds
    assert (fold.target, fold.state) == ("vda", "switched")
    assert (fold.top_stamp, fold.base_stamp) == STAMPS
    assert (other.state, other.top_stamp) == ("converged", FileStamp(1, 2))


def test_a_second_vote_replaces_the_stamps(db: Database) -> None:
    """A disk that was kept and folded again is judged by its last vote."""
    key = begin(db, "pivot")
    place_folds(db, "voted")
    runs.move_fold(db, key, "vda", "voted", "keep", "copying", ME)
    runs.move_fold(db, key, "vda", "copying", "converge", "converged", ME)
    runs.move_fold(db, key, "vda", "converged", "vote", "voted", ME, STAMPS)

    assert runs.deletion(db, RUN).folds[0].top_stamp == STAMPS[0]


def test_a_vote_without_stamps_is_refused(db: Database) -> None:
    """A decision that recovery could not check must not be written."""
    key = begin(db, "vote")
    runs.put_folds(db, key, ["vda"], "converged")

    refused(
        db,
        sqlite3.IntegrityError,
        lambda: runs.move_fold(db, key, "vda", "converged", "vote", "voted", ME),
    )


def test_a_fold_that_moved_on_is_superseded(db: Database) -> None:
    """Compare-and-set, for each fold."""
    key = begin(db, "commit_per_disk")
    place_folds(db, "copying")

    def start(target: str, source: str) -> None:
        runs.move_fold(db, key, target, source, "start", "copying", ME)

    refused(db, Superseded, lambda: start("vda", "planned"))
    refused(db, Superseded, lambda: start("vdz", "copying"))


# One open run per domain


def test_a_second_open_run_of_a_domain_is_refused(db: Database) -> None:
    """One writer per domain, of whatever kind; other domains are free."""
    key = begin(db)

    refused(db, Refused, lambda: begin(db, run="f" * 12))
    refused(db, Refused, lambda: runs.begin_creation(db, "f" * 12, PLAN, "planned", ME))
    begin(db, run="e" * 12, domain="other")

    (reason,) = runs.open_run_reasons(db, "d")
    assert reason.code == "deletion_open"
    assert RUN in reason.message and RUN in reason.remedy
    assert runs.open_run_reasons(db, "d", but=RUN) == ()
    move(db, key, "validate", "refuse", "refused", final=True)
    begin(db, run="f" * 12)


def test_an_open_creation_bars_a_deletion(db: Database) -> None:
    """Its reason has a code of its own."""
    runs.begin_creation(db, RUN, PLAN, "planned", ME)

    refused(db, Refused, lambda: begin(db, run="f" * 12))

    assert [r.code for r in runs.open_run_reasons(db, "d")] == ["creation_open"]
    assert [row.id for row in runs.open_creations(db)] == [RUN]


def test_an_open_reversion_bars_a_creation_and_says_why_it_ended(db: Database) -> None:
    """And it is found, read back, and taken over as any other run."""
    old = runs.begin_reversion(db, RUN, BACK, "planned", ME)

    refused(db, Refused, lambda: runs.begin_creation(db, "f" * 12, PLAN, "planned", ME))

    assert [r.code for r in runs.open_run_reasons(db, "d")] == ["reversion_open"]
    assert [row.plan for row in runs.open_reversions(db)] == [BACK]
    assert runs.find(db, RUN[:4]) == ("reversion", RUN)
    new = runs.claim(db, "reversion", RUN, LATER)
    refused(db, Superseded, lambda: runs.put_reason(db, old, "too late"))
    runs.put_reason(db, new, "it was in use")
    move(db, new, "planned", "undo", "undone", final=True)
    assert runs.reversion(db, RUN).reason == "it was in use"
    assert runs.open_reversions(db) == []


# Cancel


def test_a_cancel_is_a_request_to_whoever_works_on_it(db: Database) -> None:
    """It needs no generation, moves nothing, and is remembered."""
    key = begin(db, "vote")
    runs.claim(db, "deletion", RUN, ME)

    runs.request_cancel(db, RUN, LATER)

    row = runs.deletion(db, RUN)
    assert (row.cancel_requested, row.state) == (True, "vote")
    last = list(runs.history(db, RUN))[-1]
    assert (last.trigger, last.kind, last.generation) == ("request_cancel", "remark", 2)
    assert key.generation == 1


def test_a_cancel_of_a_finished_run_changes_nothing(db: Database) -> None:
    """And one of an unknown run is an error."""
    key = begin(db)
    move(db, key, "validate", "refuse", "refused", final=True)
    before = dump(db)

    runs.request_cancel(db, RUN, LATER)

    assert dump(db) == before
    with pytest.raises(KeyError):
        runs.request_cancel(db, "f" * 12, LATER)


# Reading


def test_a_run_is_found_by_an_unambiguous_prefix(db: Database) -> None:
    """Of deletions and creations alike."""
    begin(db, run="abc000000000")
    runs.begin_creation(db, "abd000000000", replace(PLAN, domain="e"), "planned", ME)

    assert runs.find(db, "abc") == ("deletion", "abc000000000")
    assert runs.find(db, "abd000000000") == ("creation", "abd000000000")


@pytest.mark.parametrize(
    ("prefix", "what"),
    [
        ("ab", "ambiguous"),
        ("f", "not the id of any run"),
        ("abc0000000001", "not the id of any run"),
        ("", "not the id of a run"),
        ("ABC", "not the id of a run"),
        ("ab*", "not the id of a run"),
        ("[a]", "not the id of a run"),
        ("abc\n", "not the id of a run"),
        ("' or 1 --", "not the id of a run"),
    ],
)
def test_a_prefix_that_names_no_run_is_a_usage_error(
    db: Database, prefix: str, what: str
) -> None:
    """Patterns and quotes of a hostile command line name nothing."""
    begin(db, run="abc000000000")
    begin(db, run="abd000000000", domain="e")

    with pytest.raises(UsageError, match=what):
        runs.find(db, prefix)


@given(st.text(max_size=14))
def test_find_never_matches_by_pattern(prefix: str) -> None:
    """Whatever is asked for: the run that begins with it, or `UsageError`."""
    with closing(journal()) as db:
        begin(db)
        try:
            assert runs.find(db, prefix) == ("deletion", RUN)
            assert RUN.startswith(prefix) and prefix
        except UsageError:
            assert not prefix or not RUN.startswith(prefix)


def test_history_is_what_was_recorded_in_order(db: Database) -> None:
    """Of this run only, its folds included; the same second is no tie."""
    key = begin(db, "vote")
    begin(db, run="f" * 12, domain="e")
    runs.put_folds(db, key, ["vda"], "converged")
    runs.announce(db, key, "vote", "hold", ME, {"disks": ["vda"]})
    runs.note(db, key, "vote", "hold", ME, {})
    runs.move_fold(db, key, "vda", "converged", "vote", "voted", ME, STAMPS)
    move(db, key, "vote", "decide", "pivot")
    runs.remark(db, key, "pivot", "alarm", ME, {"what": "ö"})

    rows = list(runs.history(db, RUN))

    assert [(row.machine, row.kind, row.trigger) for row in rows] == [
        ("deletion", "remark", "claim"),
        ("deletion", "announce", "hold"),
        ("deletion", "note", "hold"),
        ("fold", "edge", "vote"),
        ("deletion", "edge", "decide"),
        ("deletion", "remark", "alarm"),
    ]
    assert [row.detail for row in rows] == [
        {"began": True},
        {"disks": ["vda"]},
        {},
        {"disk": "vda"},
        {"why": "so"},
        {"what": "ö"},
    ]


def test_deletions_are_listed_the_newest_first(db: Database) -> None:
    """Open ones alone if asked for, and not without end."""
    for number in range(5):
        author = replace(ME, at=f"2025-01-0{number + 1}")
        run = f"{number:012x}"
        runs.begin_deletion(db, run, f"d{number}", "s", {}, "validate", author)
    key = RunKey("deletion", f"{3:012x}", 1)
    move(db, key, "validate", "refuse", "refused", final=True)

    def listed(**asked: int) -> list[int]:
        only_open = bool(asked.pop("only_open", False))
        rows = runs.list_deletions(db, only_open=only_open, **asked)
        return [int(row.id, 16) for row in rows]

    assert listed() == [4, 3, 2, 1, 0]
    assert listed(only_open=True) == [4, 2, 1, 0]
    assert listed(limit=2) == [4, 3]


def test_no_open_deletion_is_left_out(db: Database) -> None:
    """`recover` and `domain show` go by this list: after a power cut there are many."""
    for number in range(60):
        begin(db, run=f"{number:012x}", domain=f"d{number}")

    assert len(runs.list_deletions(db, only_open=True)) == 60


def test_what_is_stored_of_a_deletion_is_read_back(db: Database) -> None:
    """Options, plan, helper, hold, stamps: as they were given."""
    key = begin(db)
    plan = Plan("d", "s", ("s",), None, "off", "helper", "boot", ())
    helper = {"socket": "/run/x", "pid": None}
    hold = {"disks": ["vda"], "fences": {}}

    runs.update_deletion(
        db, key, plan=plan.to_json(), helper=helper, hold=hold, downtime_ms=1.5
    )

    row = runs.deletion(db, RUN)
    assert (row.options, row.plan) == ({"timeout": 5}, plan)
    assert (row.helper, row.hold, row.downtime_ms) == (helper, hold, 1.5)
    assert (row.started, row.cancel_requested, row.folds) == (ME.at, False, ())
    runs.update_deletion(db, key, helper=None, hold=None)
    assert runs.deletion(db, RUN).helper is None
    assert runs.deletion(db, RUN).hold is None


def test_an_unknown_run_is_a_key_error(db: Database) -> None:
    """Neither machine invents one."""
    with pytest.raises(KeyError):
        runs.deletion(db, RUN)
    with pytest.raises(KeyError):
        runs.creation(db, RUN)


def test_a_plan_of_another_version_does_not_hide_the_run(db: Database) -> None:
    """`status` and `recover` must still list it, and the domain stays barred."""
    key = begin(db)
    runs.update_deletion(db, key, plan='{"version": 99, "folds": []}')

    (row,) = runs.list_deletions(db, only_open=True)
    assert (row.id, row.plan, row.has_foreign_plan) == (RUN, None, True)
    runs.update_deletion(db, key, plan=None)
    assert not runs.deletion(db, RUN).has_foreign_plan


def test_announcements_of_a_step_are_found_done_or_not(db: Database) -> None:
    key = runs.begin_deletion(db, RUN, "d", "s", {}, "commit_per_disk", ME)
    runs.announce(db, key, "commit_per_disk", "start_job", ME, {"disk": "vda"})
    runs.note(db, key, "commit_per_disk", "start_job", ME, {})
    runs.announce(db, key, "commit_per_disk", "resume_job", ME, {"disk": "vda"})
    runs.announce(db, key, "commit_per_disk", "start_job", LATER, {"disk": "vdb"})

    found = runs.announced(db, RUN, "start_job")

    assert [(row.detail["disk"], row.at) for row in found] == [
        ("vda", ME.at),
        ("vdb", LATER.at),
    ]


def test_a_failed_flush_counts_for_the_boot_that_it_was_in(db: Database) -> None:
    """Whichever run it was, and without reading all of the history."""
    key = runs.begin_deletion(db, RUN, "d", "s", {}, "vote", ME)
    for path, boot in (("/a", "first"), ("/b", "second")):
        detail = {"path": path, "boot": boot}
        runs.remark(db, key, "vote", "flush_failed", ME, detail)

    assert runs.failed_flushes(db, "first") == {"/a": ME.at}
    assert runs.failed_flushes(db, "second") == {"/b": ME.at}
    assert runs.failed_flushes(db, "third") == {}
    plan = str(
        db.execute(
            "explain query plan select detail, at from transitions"
            " where trigger = 'flush_failed' order by at"
        ).fetchall()
    )
    assert "failed_flushes" in plan
