"""The one place where transitions are recorded and effects happen."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from sqlite_utils import Database
from structlog.testing import capture_logs

from backfold.engine import deletion_run, seeds
from backfold.engine.deletion_run import DeletionRun
from backfold.engine.events import AlarmEvent, Event, OnEvent, StateEvent
from backfold.engine.runner import Runner, announces, crash_points
from backfold.engine.seeds import MACHINES
from backfold.journal import runs
from backfold.journal.errors import (
    CommitUnknown,
    JournalBusy,
    JournalError,
    Superseded,
    Undeclared,
)
from backfold.journal.model import Plan
from backfold.journal.runs import Author, DeletionRow, RunKey, TransitionRow
from backfold.journal.schema import Seeds
from backfold.journal.store import Store
from backfold.states.context import Context, Move
from backfold.states.machine import Declaration, Edge, Recovery, State, Step
from backfold.states.options import Options

RUN = "0123456789ab"
NOW = "2025-01-01T00:00:00.000000+00:00"

#: A small machine with one step of every kind.
TOY = Declaration(
    "deletion",
    "A toy",
    states=(
        State(
            "cold",
            "Does things.",
            steps=(
                Step("heat", "heats", "", Recovery.REPEAT),
                Step("hum", "hums", "", Recovery.REPEAT, covered_by="heat"),
                Step("release_votes", "lets go", "", Recovery.REPEAT),
            ),
        ),
        State("warm", "Does nothing."),
        State("gone", "Is over.", final=True),
    ),
    edges=(
        Edge("go", "cold", "gone", "ready", ("is_ready",)),
        Edge("go", "cold", "warm", "not ready"),
        Edge("end", "warm", "gone", "always", ("may_end",)),
    ),
)
SEEDS = Seeds(
    tuple((TOY.name, state.name) for state in TOY.states), tuple(TOY.transitions()), ()
)


class StillClock:
    """A clock that shows one time."""

    def now(self) -> str:
        return NOW

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        pass

    def new_id(self) -> str:
        return RUN

    def boot_id(self) -> str:
        return "boot"


class Witness:
    """A probe that reads the journal's file as another process would."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seen: list[tuple[str, str, str]] = []
        self.rows: list[list[tuple[str, str]]] = []
        self.dies_at: tuple[str, str, str] | None = None

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        assert machine == TOY.name
        self.seen.append((state, step, str(moment)))
        self.rows.append(on_disk(self.path))
        if self.dies_at == self.seen[-1]:
            raise KeyboardInterrupt


class ToyModel:
    """What the toy's guards look at."""

    state = TOY.initial

    def __init__(self, ready: bool, may_end: bool) -> None:
        self._ready, self._may_end = ready, may_end

    def is_ready(self) -> bool:
        return self._ready

    def may_end(self) -> bool:
        return self._may_end


class ToyRun(Runner):
    """A run of the toy."""

    declaration = TOY
    row: DeletionRow
    ready = False
    may_end = True

    @property
    def state(self) -> str:
        return self.row.state

    @property
    def subject(self) -> tuple[str, str]:
        return self.row.domain, self.row.snapshot

    def model(self) -> ToyModel:
        return ToyModel(self.ready, self.may_end)

    async def refresh(self) -> None:
        self.row = await self.store.read(lambda db: runs.deletion(db, RUN))


def on_disk(path: Path) -> list[tuple[str, str]]:
    """Kind and trigger of what is durable, by a connection of its own."""
    with closing(sqlite3.connect(path)) as other:
        found = other.execute("select kind, trigger from transitions order by id")
        return [(kind, trigger) for kind, trigger in found if trigger != "claim"]


def running(
    tmp_path: Path,
    use: Callable[[ToyRun, Witness], Awaitable[None]],
    on_event: OnEvent | None = None,
) -> list[TransitionRow]:
    """Use a run of the toy; returns its history without the claim."""
    path = tmp_path / "journal.db"

    async def main() -> list[TransitionRow]:
        store = await Store.open(path, SEEDS)
        try:
            author = Author("me", NOW)
            key = await store.write(
                lambda db: runs.begin_deletion(
                    db, RUN, "d", "s", {}, TOY.initial, author
                )
            )
            witness = Witness(path)
            run = ToyRun(key, store, StillClock(), witness, "me", on_event)
            await run.refresh()
            await use(run, witness)
            rows = await store.read(lambda db: list(runs.history(db, RUN)))
            return [row for row in rows if row.trigger != "claim"]
        finally:
            await store.close()

    return asyncio.run(main())


async def nothing() -> None:
    """A step's work."""


def reason(text: str) -> Callable[[Database], None]:
    """A unit that can be seen in the run's row."""

    def unit(db: Database) -> None:
        db.execute("update deletions set reason = ?", (text,))

    return unit


# Edges


def test_an_edge_changes_the_state_and_is_told(tmp_path: Path) -> None:
    """The first guard that agrees decides where it leads."""
    heard: list[Event] = []

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.fire(Move("go", {"why": "cold"}, reason("written with it")))
        assert (run.state, run.row.finished) == ("warm", None)
        assert run.row.reason == "written with it"

    (row,) = running(tmp_path, use, heard.append)

    assert (row.kind, row.source, row.trigger, row.dest) == (
        "edge",
        "cold",
        "go",
        "warm",
    )
    assert (row.detail, row.who, row.at) == ({"why": "cold"}, "me", NOW)
    assert heard == [
        StateEvent(RUN, "d", "s", "warm", {"why": "cold"}, "deletion", NOW, "cold")
    ]


def test_a_final_state_ends_the_run(tmp_path: Path) -> None:
    """And only a final one."""

    async def use(run: ToyRun, witness: Witness) -> None:
        run.ready = True
        await run.fire(Move("go"))
        assert (run.state, run.row.finished) == ("gone", NOW)

    running(tmp_path, use)


@pytest.mark.parametrize("trigger", ["end", "heat", "fly", "to_gone", ""])
def test_an_edge_that_the_state_does_not_have_is_undeclared(
    tmp_path: Path, trigger: str
) -> None:
    """Nothing is written, nobody is told, and the probe does not see it."""
    heard: list[Event] = []

    async def use(run: ToyRun, witness: Witness) -> None:
        with pytest.raises(Undeclared):
            await run.fire(Move(trigger, unit=reason("no")))
        await run.refresh()
        assert (run.state, run.row.reason) == ("cold", None)
        assert witness.seen == []

    assert running(tmp_path, use, heard.append) == []
    assert heard == []


def test_an_edge_that_its_guards_forbid_is_undeclared(tmp_path: Path) -> None:
    """`transitions` only returns False: that must not pass for done."""

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.fire(Move("go"))
        run.may_end = False
        with pytest.raises(Undeclared):
            await run.fire(Move("end"))
        assert run.state == "warm"

    assert len(running(tmp_path, use)) == 1


def test_an_edge_whose_unit_fails_is_not_taken(tmp_path: Path) -> None:
    """State and unit change together or not at all."""

    async def use(run: ToyRun, witness: Witness) -> None:
        def unit(db: Database) -> None:
            reason("half")(db)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await run.fire(Move("go", unit=unit))
        await run.refresh()
        assert (run.state, run.row.reason) == ("cold", None)

    assert running(tmp_path, use) == []


def test_a_run_that_was_taken_over_takes_no_edge(tmp_path: Path) -> None:
    """The generation in the key is compared."""

    async def use(run: ToyRun, witness: Witness) -> None:
        author = Author("other", NOW)
        await run.store.write(lambda db: runs.claim(db, "deletion", RUN, author))
        with pytest.raises(Superseded):
            await run.fire(Move("go", unit=reason("no")))
        with pytest.raises(Superseded):
            await run.perform("heat", nothing)
        await run.refresh()
        assert (run.state, run.row.reason) == ("cold", None)

    assert running(tmp_path, use) == []


def test_an_edge_is_on_disk_when_the_probe_hears_that_it_is_noted(
    tmp_path: Path,
) -> None:
    """Announced: not yet there. Noted: there, for any process to see."""

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.fire(Move("go"))
        assert witness.seen == [("cold", "go", "announced"), ("cold", "go", "noted")]
        assert witness.rows == [[], [("edge", "go")]]

    running(tmp_path, use)


def test_the_last_edge_tells_what_the_journal_took(tmp_path: Path) -> None:
    """Only it, and of the COMMITs before it: its own is not over when it is written."""

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.perform("heat", nothing)
        await run.alarm("smoke")
        await run.store.write(lambda db: None)
        await run.fire(Move("go", {"why": "cold"}))
        await run.fire(Move("end", {"why": "warm"}))

    *others, last = running(tmp_path, use)

    told = last.detail["journal"]
    assert last.detail["why"] == "warm"
    # Announcement, note, alarm and the first edge; not the row of somebody else.
    assert told["commits"] == 4
    assert 0 < told["longest"] <= told["seconds"]
    assert all("journal" not in row.detail for row in others)


# Steps


def test_a_step_is_announced_done_and_noted(tmp_path: Path) -> None:
    """Intent before effect: its row is on disk before the work begins."""
    order: list[str] = []

    async def use(run: ToyRun, witness: Witness) -> None:
        async def work() -> int:
            order.extend(str(row) for row in on_disk(witness.path))
            order.append("work")
            return 7

        assert await run.perform("heat", work, intent={"to": 90}) == 7
        assert witness.seen == [
            ("cold", "heat", "announced"),
            ("cold", "heat", "done"),
            ("cold", "heat", "noted"),
        ]
        announced, done, noted = witness.rows
        assert announced == done == [("announce", "heat")]
        assert noted == [("announce", "heat"), ("note", "heat")]

    rows = running(tmp_path, use)

    assert order == ["('announce', 'heat')", "work"]
    assert [(row.kind, row.detail) for row in rows] == [
        ("announce", {"to": 90}),
        ("note", {}),
    ]


def test_units_are_written_with_announcement_and_note(tmp_path: Path) -> None:
    """Both are seen by the run afterwards; the second knows the work's result."""

    async def use(run: ToyRun, witness: Witness) -> None:
        async def work() -> str:
            await run.refresh()
            assert run.row.reason == "announced"
            return "result"

        await run.perform("heat", work, announcing=reason("announced"), noting=reason)
        assert run.row.reason == "result"
        await run.perform("heat", nothing, noting=lambda _: None)
        assert run.row.reason == "result"

    assert [row.kind for row in running(tmp_path, use)] == ["announce", "note"] * 2


def test_a_covered_step_writes_nothing(tmp_path: Path) -> None:
    """While a guest stands still, nothing but the decision is made durable."""

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.perform("hum", nothing)
        assert [moment for _, _, moment in witness.seen] == [
            "announced",
            "done",
            "noted",
        ]

    assert running(tmp_path, use) == []


def test_a_covered_step_is_noted_if_it_has_something_to_note(tmp_path: Path) -> None:
    """As the release of the guest has its downtime."""

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.perform("hum", nothing, noting=lambda _: reason("hummed"))
        assert run.row.reason == "hummed"
        assert witness.rows[:2] == [[], []]

    assert [row.kind for row in running(tmp_path, use)] == ["note"]


def test_a_note_says_what_was_told_of_the_result(tmp_path: Path) -> None:
    async def use(run: ToyRun, witness: Witness) -> None:
        async def work() -> int:
            return 7

        await run.perform("heat", work, told=lambda degrees: {"degrees": degrees})

    announced, noted = running(tmp_path, use)

    assert (announced.detail, noted.detail) == ({}, {"degrees": 7})


def test_what_a_covered_step_told_is_in_the_next_row(tmp_path: Path) -> None:
    """It adds no row of its own, and no later row repeats it."""
    heard: list[Event] = []

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.perform("hum", nothing, told=lambda _: {"tone": "a"})
        assert on_disk(witness.path) == []
        await run.fire(Move("go", {"why": "cold"}))
        run.ready = True
        await run.fire(Move("end"))

    first, last = running(tmp_path, use, heard.append)

    told = {"why": "cold", "steps": {"hum": {"tone": "a", "seconds": 0.0}}}
    assert first.detail == told
    assert "steps" not in last.detail
    assert isinstance(heard[0], StateEvent)
    assert heard[0].detail == told


def test_what_a_covered_step_told_waits_for_a_row_that_is_written(
    tmp_path: Path,
) -> None:
    async def use(run: ToyRun, witness: Witness) -> None:
        await run.perform("hum", nothing, told=lambda _: {"tone": "a"})
        with pytest.raises(Undeclared):
            await run.fire(Move("end"))
        await run.perform("release_votes", nothing, told=lambda _: {"sent": "cont"})

    (row,) = running(tmp_path, use)

    assert row.trigger == "release_votes"
    assert row.detail == {
        "sent": "cont",
        "seconds": 0.0,
        "steps": {"hum": {"tone": "a", "seconds": 0.0}},
    }


@pytest.mark.parametrize(
    "told", [lambda _: {"it": object()}, lambda _: 1 / 0, lambda _: None]
)
def test_what_cannot_be_told_breaks_nothing(tmp_path: Path, told: Any) -> None:
    """The step was done; only the log hears that it cannot be told."""

    async def use(run: ToyRun, witness: Witness) -> None:
        with capture_logs() as logs:
            await run.perform("heat", nothing, told=told)
        assert "deletion.telling_failed" in [log["event"] for log in logs]

    rows = running(tmp_path, use)

    assert [(row.kind, row.detail) for row in rows] == [("announce", {}), ("note", {})]


def test_why_a_run_is_left_open_is_recorded_if_it_can_be(tmp_path: Path) -> None:
    async def use(run: ToyRun, witness: Witness) -> None:
        await run.left_open("It is stuck.", "Nothing is lost.", "Pull.")

        async def refuses(*_: Any) -> Any:
            raise JournalError("the journal cannot be used")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run.store, "write", refuses)
            await run.left_open("It is stuck again.", "", "")

    (row,) = running(tmp_path, use)

    assert (row.kind, row.trigger) == ("remark", "left_open")
    assert row.detail == {
        "what": "It is stuck.",
        "data": "Nothing is lost.",
        "remedy": "Pull.",
    }


def test_votes_are_released_without_an_announcement(tmp_path: Path) -> None:
    """A journal that cannot be written must not freeze a guest."""
    done: list[str] = []

    async def use(run: ToyRun, witness: Witness) -> None:
        async def work() -> None:
            assert on_disk(witness.path) == []
            done.append("released")

        await run.perform("release_votes", work)
        assert done == ["released"]

        async def refuses(*how: Any, **more: Any) -> Any:
            raise JournalError("the journal cannot be used")

        async def again() -> None:
            done.append("again")

        run.store.write = refuses  # type: ignore[method-assign]
        with pytest.raises(JournalError):
            await run.perform("release_votes", again)
        assert done == ["released", "again"]

    assert [row.kind for row in running(tmp_path, use)] == ["note"]


@pytest.mark.parametrize("step", ["melt", "go", "alarm", "claim"])
def test_a_step_that_the_state_does_not_have_is_undeclared(
    tmp_path: Path, step: str
) -> None:
    """Its work is never begun."""

    async def use(run: ToyRun, witness: Witness) -> None:
        async def work() -> None:
            pytest.fail("this must not happen")

        with pytest.raises(Undeclared):
            await run.perform(step, work)
        assert witness.seen == []

    assert running(tmp_path, use) == []


def test_a_step_that_cannot_be_announced_is_not_done(tmp_path: Path) -> None:
    """Invariant 3, when the journal fails."""

    async def use(run: ToyRun, witness: Witness) -> None:
        async def work() -> None:
            pytest.fail("this must not happen")

        def fails(db: Database) -> None:
            raise CommitUnknown("the journal reported an error")

        with pytest.raises(CommitUnknown):
            await run.perform("heat", work, announcing=fails)
        assert witness.seen == []

    assert running(tmp_path, use) == []


def test_a_step_that_fails_is_not_noted(tmp_path: Path) -> None:
    """Its announcement stays: recovery has to look."""

    async def use(run: ToyRun, witness: Witness) -> None:
        async def work() -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await run.perform("heat", work, noting=lambda _: reason("no"))
        assert [moment for _, _, moment in witness.seen] == ["announced"]
        assert run.row.reason is None

    assert [row.kind for row in running(tmp_path, use)] == ["announce"]


@pytest.mark.parametrize(
    ("moment", "kinds"),
    [
        ("announced", ["announce"]),
        ("done", ["announce"]),
        ("noted", ["announce", "note"]),
    ],
)
def test_a_probe_can_stop_the_run_at_each_moment(
    tmp_path: Path, moment: str, kinds: list[str]
) -> None:
    """What it raises is not swallowed: crash tests stand on that."""
    done: list[str] = []

    async def use(run: ToyRun, witness: Witness) -> None:
        witness.dies_at = ("cold", "heat", moment)

        async def work() -> None:
            done.append("work")

        try:
            await run.perform("heat", work)
        except KeyboardInterrupt:
            done.append("died")

    rows = running(tmp_path, use)

    assert [row.kind for row in rows] == kinds
    assert done == (["died"] if moment == "announced" else ["work", "died"])


# Listeners, alarms, logs


def test_a_listener_that_fails_aborts_nothing(tmp_path: Path) -> None:
    """It is logged; the run goes on."""

    def listener(event: Event) -> None:
        raise ZeroDivisionError

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.fire(Move("go"))
        await run.fire(Move("end"))
        assert run.state == "gone"

    with capture_logs() as logs:
        running(tmp_path, use, listener)

    failed = [entry for entry in logs if "listener_failed" in entry["event"]]
    assert [entry["log_level"] for entry in failed] == ["error", "error"]


def test_an_alarm_is_recorded_logged_and_told(tmp_path: Path) -> None:
    """Something unexpected must be found in the history later."""
    heard: list[Event] = []

    async def use(run: ToyRun, witness: Witness) -> None:
        await run.alarm("smoke")

    with capture_logs() as logs:
        (row,) = running(tmp_path, use, heard.append)

    assert heard == [AlarmEvent(RUN, "d", "s", "smoke", NOW)]
    assert (row.kind, row.trigger, row.detail) == ("remark", "alarm", {"what": "smoke"})
    assert [e["log_level"] for e in logs if e["event"] == "deletion.alarm"] == [
        "warning"
    ]


# What the declarations promise about the runner


def test_only_covered_steps_and_the_release_are_not_announced() -> None:
    """Of all machines."""
    silent = {
        step.name
        for machine in MACHINES
        for state in machine.states
        for step in state.steps
        if not announces(step)
    }
    covered = {
        step.name
        for machine in MACHINES
        for state in machine.states
        for step in state.steps
        if step.covered_by is not None
    }

    assert silent == covered | {"release_votes"}


def test_crash_points_are_what_the_probe_is_told_of(tmp_path: Path) -> None:
    """Each moment of each step and edge once, and none that never comes."""

    async def use(run: ToyRun, witness: Witness) -> None:
        for step in ("heat", "hum", "release_votes"):
            await run.perform(step, nothing)
        await run.fire(Move("go"))
        await run.fire(Move("end"))
        points = crash_points(TOY)
        assert len(set(points)) == len(points)
        assert set(points) == set(witness.seen)

    running(tmp_path, use)


# The decision


class FailingCommit:
    """A connection whose COMMIT reports an error, before or after it happened."""

    def __init__(self, connection: sqlite3.Connection, happens: bool) -> None:
        self._connection = connection
        self._happens = happens

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.startswith("COMMIT"):
            if self._happens:
                self._connection.execute(sql)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Decision:
    """A deletion of no disks that is about to decide, and what came of it."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.released_in: list[str] = []
        self.blind = False
        self.options = Options(max_downtime_ms=50)
        self._monkeypatch = monkeypatch
        self._other: sqlite3.Connection | None = None
        self.waits_elsewhere(0.05)
        monkeypatch.setattr(deletion_run, "release_votes", self._release)

    def waits_elsewhere(self, seconds: float) -> None:
        """How long writes wait that are not the decision."""
        self._monkeypatch.setattr("backfold.journal.store.BUSY_TIMEOUT", seconds)

    async def _release(self, ctx: Context) -> None:
        self.released_in.append(self.state())
        self.unlock()

    def lock(self) -> None:
        """Take the write lock, as another process would, until the release."""
        self._other = sqlite3.connect(self.path, isolation_level=None)
        self._other.execute("begin immediate")

    def unlock(self) -> None:
        """Let go of the write lock, if it was taken."""
        if self._other is not None:
            self._other.close()
            self._other = None

    def state(self) -> str:
        """The state that is durable."""
        with closing(sqlite3.connect(self.path)) as other:
            return str(other.execute("select state from deletions").fetchone()[0])

    def take(self, unit: Callable[[Database], None] | None = None) -> None:
        """Decide, with ``unit`` in the transaction."""

        async def fire(run: DeletionRun) -> None:
            await run.fire(Move("decide", unit=unit))

        self.use(fire)

    def use(self, what: Callable[[DeletionRun], Awaitable[None]]) -> None:
        """Do something with the run, which is in `vote` with a hold."""
        author = Author("me", NOW)

        def begin(db: Database) -> DeletionRow:
            key = runs.begin_deletion(db, RUN, "d", "s", {}, "vote", author)
            runs.update_deletion(db, key, hold={"disks": [], "stops_guest": True})
            return runs.deletion(db, RUN)

        async def main() -> None:
            store = await Store.open(self.path, seeds.SEEDS)

            async def refresh() -> None:
                if self.blind:
                    raise JournalError("the journal cannot be read")
                ctx.row = await store.read(lambda db: runs.deletion(db, RUN))

            try:
                row = await store.write(begin)
                key = RunKey("deletion", RUN, 1)
                ctx = SimpleNamespace(
                    id=RUN,
                    key=key,
                    row=row,
                    options=self.options,
                    plan=Plan("d", "s", ("s",), None, "running", "domain", "boot", ()),
                    voted=frozenset(),
                    author=author,
                    interrupted=lambda: False,
                    refresh=refresh,
                )
                probe = SimpleNamespace(reached=lambda *_: None)
                run = DeletionRun(key, store, StillClock(), probe, "me", None)
                run.ctx = cast(Context, ctx)
                await what(run)
            finally:
                self.unlock()
                await store.close()

        asyncio.run(main())


@pytest.fixture
def decision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Decision:
    return Decision(tmp_path / "journal.db", monkeypatch)


def test_a_decision_that_is_durable_stands(decision: Decision) -> None:
    """Nothing is released then."""
    decision.take()

    assert decision.state() == "pivot"
    assert decision.released_in == []


@pytest.mark.parametrize("happens", [True, False])
def test_a_decision_of_unknown_outcome_is_annulled(
    decision: Decision, happens: bool
) -> None:
    """An annulment is durable before anything is released, whatever had happened."""

    def unit(db: Database) -> None:
        vars(db)["conn"] = FailingCommit(db.conn, happens)

    with pytest.raises(CommitUnknown):
        decision.take(unit)

    assert decision.released_in == ["vote"]
    rows = on_disk(decision.path)
    if happens:
        assert rows == [("edge", "decide"), ("edge", "annul")]
    else:
        assert rows == [("remark", "alarm")]


def test_a_decision_that_was_not_written_is_released(decision: Decision) -> None:
    """The disk is full, say: the guest goes on at once."""

    def unit(db: Database) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.raises(JournalError):
        decision.take(unit)

    assert decision.released_in == ["vote"]
    assert on_disk(decision.path) == []


def test_a_durable_decision_is_not_released_because_it_cannot_be_read(
    decision: Decision,
) -> None:
    """After it there is only forward: the guard or `recover` finishes it."""
    decision.blind = True

    with pytest.raises(JournalError, match="cannot be read"):
        decision.take()

    assert decision.state() == "pivot"
    assert decision.released_in == []


def test_a_decision_of_a_run_that_was_taken_over_is_not_released(
    decision: Decision,
) -> None:
    """The votes are the other engine's now."""

    def unit(db: Database) -> None:
        runs.claim(db, "deletion", RUN, Author("other", NOW))

    with pytest.raises(Superseded):
        decision.take(unit)

    assert (decision.state(), decision.released_in) == ("vote", [])


def voting(
    decision: Decision, monkeypatch: pytest.MonkeyPatch, *triggers: str
) -> list[str]:
    """Let `vote` end so, time after time; the journal is locked at the first one."""
    left, fired = list(triggers), list[str]()

    async def vote(ctx: Context) -> Move:
        if not fired:
            decision.lock()
        fired.append(left.pop(0))
        return Move(fired[-1])

    monkeypatch.setitem(deletion_run.HANDLERS, "vote", vote)
    return fired


async def until_pivot(run: DeletionRun) -> None:
    await run.run(lambda state: state == "pivot")


def test_a_decision_that_comes_too_late_is_released_and_made_again(
    decision: Decision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No guest stands for longer than its downtime because others write."""
    decision.waits_elsewhere(30)
    fired = voting(decision, monkeypatch, "decide", "decide")
    began = time.monotonic()

    decision.use(until_pivot)

    assert time.monotonic() - began < 5
    assert fired == ["decide", "decide"]
    assert decision.released_in == ["vote"]
    assert decision.state() == "pivot"
    assert on_disk(decision.path) == [("edge", "decide")]


def test_an_edge_that_decides_nothing_waits_for_long_and_ends_the_run(
    decision: Decision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is held then: the run stays open for `recover`."""
    decision.options = Options(max_downtime_ms=60_000)
    voting(decision, monkeypatch, "back_off")

    with pytest.raises(JournalBusy):
        decision.use(until_pivot)

    assert (decision.state(), decision.released_in) == ("vote", [])
