"""Events of deletions that anybody on this host works on, read from the journal.

States, downtime and alarms are what the journal has; bytes are what whoever works on
a run tells beside it (`beacon`). No lock is taken, no monitor touched, no row written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final

from sqlite_utils import Database

from ..journal import runs
from ..journal.runs import DeletionRow, TransitionRow
from ..journal.standing import OpenRun, open_runs
from .beacon import look
from .driver import Driver
from .events import AlarmEvent, DowntimeEvent, Event, ProgressEvent, StateEvent
from .liveness import Work, held_locks, work_on

#: How often is looked, and how long nobody may work on a run until it counts as
#: interrupted, seconds.
POLL: Final = 0.5
PATIENCE: Final = 5.0


class Following:
    """Follows one deletion, or all that are open or will be meanwhile."""

    def __init__(self, driver: Driver, run: str | None) -> None:
        """Nothing is read yet."""
        self._driver = driver
        self._run = run
        self._heard: dict[str, int] = {}
        self._downtime: dict[str, float | None] = {}
        self._bytes: dict[tuple[str, str], tuple[int, int]] = {}
        #: Since when nobody has worked on a run (monotonic seconds).
        self._alone: dict[str, float] = {}

    async def events(self) -> AsyncIterator[Event]:
        """What happens, from the present state of each run on.

        Ends when each run is finished, or nobody has worked on it for `PATIENCE`. One
        that another host works on is waited for: nobody here sees whether he does.
        """
        while True:
            found, is_open = await self._driver.store.read(self._look)
            for row, history in found:
                for event in self._news(row, history, is_open.get(row.id)):
                    yield event
            if all(row.finished or self._is_left(row.id) for row, _ in found):
                return
            await self._driver.world.clock.sleep(POLL)

    def _look(
        self, db: Database
    ) -> tuple[list[tuple[DeletionRow, list[TransitionRow]]], dict[str, OpenRun]]:
        if self._run is not None:
            rows = [runs.deletion(db, self._run)]
        else:
            rows = runs.list_deletions(db, only_open=True)
            gone = set(self._heard) - {row.id for row in rows}
            rows += [runs.deletion(db, run) for run in sorted(gone)]
        found = [(row, list(runs.history(db, row.id))) for row in rows]
        return found, {run.id: run for run in open_runs(db)}

    def _news(
        self, row: DeletionRow, history: list[TransitionRow], run: OpenRun | None
    ) -> Iterator[Event]:
        about = row.id, row.domain, row.snapshot
        heard = self._heard.get(row.id)
        new = history[heard:] if heard is not None else _entry(row, history)
        self._heard[row.id] = len(history)
        for told in new:
            if told.machine != "deletion":
                continue
            if told.kind == "edge" or heard is None:
                source = told.source if told.kind == "edge" else None
                yield StateEvent(
                    *about, told.dest, told.detail, at=told.at, source=source
                )
            elif told.trigger == "alarm":
                yield AlarmEvent(*about, str(told.detail.get("what")), told.at)
        if row.downtime_ms != self._downtime.get(row.id):
            self._downtime[row.id] = row.downtime_ms
            if row.downtime_ms is not None:
                yield DowntimeEvent(*about, row.downtime_ms, history[-1].at)
        yield from self._progress(row, run)

    def _progress(self, row: DeletionRow, run: OpenRun | None) -> Iterator[Event]:
        told = None
        if run is not None:
            told = look(self._driver.world.lock_directory, row.id)
        if told is None and (run is None or self._is_alone(run)):
            self._alone.setdefault(row.id, self._driver.world.clock.monotonic())
            return
        self._alone.pop(row.id, None)
        if told is None:
            return
        at = self._driver.world.clock.now()
        for disk in {fold.target for fold in row.folds} & told.keys():
            if self._bytes.get((row.id, disk)) != told[disk]:
                self._bytes[row.id, disk] = told[disk]
                yield ProgressEvent(
                    row.id,
                    disk,
                    *told[disk],
                    domain=row.domain,
                    snapshot=row.snapshot,
                    at=at,
                )

    def _is_alone(self, run: OpenRun) -> bool:
        """Whether nobody works on a run that tells no bytes, as far as can be seen.

        Whoever does may be another user, or have nowhere to tell them.
        """
        held = held_locks()
        work = work_on(run, held, self._driver.world.lock_directory)
        return held is None or work is Work.INTERRUPTED

    def _is_left(self, run: str) -> bool:
        since = self._alone.get(run)
        now = self._driver.world.clock.monotonic()
        return since is not None and now - since >= PATIENCE


def _entry(row: DeletionRow, history: list[TransitionRow]) -> list[TransitionRow]:
    """The row with which the present state was entered; the first one began it."""
    for told in reversed(history):
        if (told.machine, told.kind, told.dest) == ("deletion", "edge", row.state):
            return [told]
    return history[:1]
