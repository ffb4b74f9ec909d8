"""The one place where transitions are recorded and effects happen.

Every transition reaches the journal through `Runner.fire`, every effect of a state
happens in `Runner.perform`: announce, do, note. The probe is told of each moment,
so that crash tests can stop at every one of them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import JournalError, Undeclared
from ..journal.meter import CommitMeter
from ..journal.runs import Author, RunKey
from ..journal.store import Store
from ..states.context import Move, Unit
from ..states.machine import Declaration, Moment, Step
from ..states.ports import Clock, Probe
from . import log
from .events import AlarmEvent, Event, OnEvent, StateEvent

T = TypeVar("T")


class Runner(ABC):
    """One run of one machine, driven by this engine."""

    declaration: Declaration

    def __init__(
        self,
        key: RunKey,
        store: Store,
        clock: Clock,
        probe: Probe,
        who: str,
        on_event: OnEvent | None,
    ) -> None:
        """``on_event`` hears of states and progress; ``probe`` of every moment."""
        self.key = key
        self.store = store
        self.clock = clock
        self._probe = probe
        self._who = who
        self._on_event = on_event
        #: What this engine's rows of the run took to become durable.
        self._meter = CommitMeter()
        #: What steps without a row of their own have told, by step.
        self._untold: dict[str, Mapping[str, Any]] = {}

    @property
    @abstractmethod
    def state(self) -> str:
        """The state that the journal has."""

    @property
    @abstractmethod
    def subject(self) -> tuple[str, str]:
        """Domain and snapshot of the run."""

    @abstractmethod
    def model(self) -> Any:
        """What the guards of the machine look at."""

    @abstractmethod
    async def refresh(self) -> None:
        """Read the run again, after rows of it were written."""

    def patience(self, move: Move) -> float | None:
        """How long an edge may wait for the journal, in seconds; None for long."""
        return None

    async def not_recorded(self, move: Move, error: Exception) -> None:
        """What has to be undone when an edge could not be written."""
        return

    @property
    def author(self) -> Author:
        """Who writes rows, now."""
        return Author(self._who, self.clock.now())

    async def write(
        self, unit: Callable[[Database], None], patience: float | None = None
    ) -> None:
        """Write rows of this run; see `Store.write`."""
        await self.store.write(unit, patience, self._meter)

    def _commits(self) -> Mapping[str, Any]:
        """What the last edge tells of the journal; its own COMMIT is not in it."""
        times = self._meter.times
        return {
            "journal": {
                "commits": times.count,
                "seconds": round(times.seconds, 6),
                "longest": round(times.longest, 6),
            }
        }

    async def fire(self, move: Move) -> None:
        """Take an edge: state and transition change in one transaction.

        Raises `Undeclared` for an edge that the machine does not have here, or that
        its guards forbid; `Superseded` when another engine has taken the run over.
        """
        source = self.state
        model = self.model()
        machine = self.declaration.bind(model, source)
        if move.trigger not in machine.get_triggers(source):
            raise Undeclared(f"{move.trigger} is not an edge of {source}")
        if not machine.events[move.trigger].trigger(model):
            raise Undeclared(f"{move.trigger} is not allowed in {source} now")
        dest = str(model.state)
        final = dest in self.declaration.final
        detail = self._with_untold(move.detail)

        def unit(db: Database) -> None:
            if move.unit is not None:
                move.unit(db)
            runs.move(
                db,
                self.key,
                source,
                move.trigger,
                dest,
                self.author,
                {**detail, **self._commits()} if final else detail,
                final=final,
            )

        self._reach(source, move.trigger, Moment.ANNOUNCED)
        try:
            await self.write(unit, self.patience(move))
        except Exception as error:
            await self.not_recorded(move, error)
            raise
        self._untold.clear()
        self._reach(source, move.trigger, Moment.NOTED)
        await self.refresh()
        self.tell_state(detail, source)

    async def perform(
        self,
        step: str,
        work: Callable[[], Awaitable[T]],
        *,
        intent: Mapping[str, Any] | None = None,
        announcing: Unit | None = None,
        noting: Callable[[T], Unit | None] | None = None,
        told: Callable[[T], Mapping[str, Any]] | None = None,
    ) -> T:
        """Announce a declared step, do it, note it.

        The announcement is durable before ``work`` begins (invariant 3), except for
        steps that another row covers and for `release_votes`, which needs none: a
        journal that cannot be written must not freeze a guest. ``announcing`` and
        ``noting`` write into the same transactions. What ``told`` says of the result
        is the detail of the note; of a step without a row it goes, with the seconds
        that the step took, into the next row that is written anyway.
        """
        state = self.state
        declared = self.declaration.state(state).step(step)
        if declared is None:
            raise Undeclared(f"{step} is not a step of {state}")

        def announcement(db: Database) -> None:
            runs.announce(db, self.key, state, step, self.author, intent or {})
            if announcing is not None:
                announcing(db)

        if announces(declared):
            await self.write(announcement)
        self._reach(state, step, Moment.ANNOUNCED)
        began = self.clock.monotonic()
        result = await work()
        took = round(self.clock.monotonic() - began, 6)
        self._reach(state, step, Moment.DONE)
        unit = None if noting is None else noting(result)
        facts = {} if told is None else self._facts(step, lambda: told(result))
        if not announces(declared):
            facts["seconds"] = took

        def notice(db: Database) -> None:
            detail = self._with_untold(facts)
            runs.note(db, self.key, state, step, self.author, detail)
            if unit is not None:
                unit(db)

        if unit is not None or declared.covered_by is None:
            await self.write(notice)
            self._untold.clear()
        else:
            self._untold[step] = facts
        self._reach(state, step, Moment.NOTED)
        if announcing is not None or unit is not None:
            await self.refresh()
        disk = (intent or {}).get("disk")
        self.say("debug", f"{state}.{step}", **({} if disk is None else {"disk": disk}))
        return result

    async def alarm(self, what: str) -> None:
        """Record something unexpected, and go on."""
        self.say("warning", "alarm", what=what)
        self.tell(AlarmEvent(self.key.id, *self.subject, what, self.clock.now()))
        await self.write(
            lambda db: runs.remark(
                db, self.key, self.state, "alarm", self.author, {"what": what}
            )
        )

    async def left_open(self, what: str, data: str, remedy: str) -> None:
        """Record why this engine leaves the run open, if the journal can be had."""
        told = {"what": what, "data": data, "remedy": remedy}
        with suppress(JournalError):
            await self.write(
                lambda db: runs.remark(
                    db, self.key, self.state, "left_open", self.author, told
                )
            )

    def say(self, level: str, event: str, **values: object) -> None:
        """Log an event of this run, named after state or step; see `log_events`."""
        machine = self.declaration.name
        domain, snapshot = self.subject
        subject = {machine: self.key.id, "domain": domain, "snapshot": snapshot}
        log.say(level, f"{machine}.{event}", **subject, **values)

    def tell_state(self, detail: Mapping[str, Any], source: str | None = None) -> None:
        """Log and tell the state that the run is in; ``source`` is the one before."""
        self.say("info", self.state, source=source)
        self.tell(
            StateEvent(
                self.key.id,
                *self.subject,
                self.state,
                detail,
                self.declaration.name,
                self.clock.now(),
                source,
            )
        )

    def tell(self, event: Event) -> None:
        """Call the listener; what it raises is logged and aborts nothing."""
        if self._on_event is None:
            return
        try:
            self._on_event(event)
        except Exception as error:
            self.say("error", "listener_failed", error=repr(error))

    def _facts(
        self, step: str, told: Callable[[], Mapping[str, Any]]
    ) -> dict[str, Any]:
        """What a step tells of itself; what cannot be told breaks no run."""
        try:
            facts = dict(told())
            json.dumps(facts)
        except Exception as error:
            self.say("error", "telling_failed", step=step, error=repr(error))
            return {}
        return facts

    def _with_untold(self, detail: Mapping[str, Any]) -> Mapping[str, Any]:
        """The detail of a row, with what steps without a row have told before it."""
        return {**detail, "steps": dict(self._untold)} if self._untold else detail

    def _reach(self, state: str, step: str, moment: Moment) -> None:
        self._probe.reached(self.declaration.name, state, step, moment)


def announces(step: Step) -> bool:
    """Whether a step has a durable row of its own before it is done."""
    return step.covered_by is None and step.name != "release_votes"


def crash_points(declaration: Declaration) -> list[tuple[str, str, str]]:
    """Every moment that the probe can be told of: (state, step or trigger, moment)."""
    points = [
        (state.name, step.name, moment.value)
        for state in declaration.states
        for step in state.steps
        for moment in Moment
    ]
    for edge in declaration.edges:
        for moment in (Moment.ANNOUNCED, Moment.NOTED):
            points.append((edge.source, edge.trigger, moment.value))
    return list(dict.fromkeys(points))
