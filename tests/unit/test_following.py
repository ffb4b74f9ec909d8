"""What a watcher hears of runs that others work on, from the journal alone."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from backfold.engine import files
from backfold.engine.api import Engine
from backfold.engine.beacon import Beacon
from backfold.engine.clock import SystemClock
from backfold.engine.events import (
    AlarmEvent,
    DowntimeEvent,
    Event,
    StateEvent,
)
from backfold.engine.following import PATIENCE, POLL
from backfold.journal import catalog, runs
from backfold.journal.locks import Locks
from backfold.journal.model import Disk, Domain
from backfold.journal.runs import Author, RunKey

KEY = RunKey("deletion", "f825c66ac1f0", 1)
OTHER = RunKey("deletion", "a825c66ac1f0", 1)
ME = Author(f"me@{socket.gethostname()}:1", "2026-11-27T15:40:47.000000+00:00")


class Stage(SystemClock):
    """A clock on which something happens whenever somebody waits."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.acts: Iterator[Callable[[], Any] | None] = iter(())

    def now(self) -> str:
        return ME.at

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        act = next(self.acts, None)
        if act is not None:
            await act()


def followed(
    folder: Path,
    script: Callable[[Engine, Stage], Iterator[Callable[[], Any] | None]],
    run: str | None = None,
) -> tuple[list[Event], float]:
    """Follow while the script plays; returns what was heard, and how long it took."""

    async def play() -> tuple[list[Event], float]:
        stage = Stage()
        engine = Engine(folder / "journal.db", clock=stage, locks=folder)
        async with engine:
            stage.acts = script(engine, stage)
            first = next(stage.acts)
            if first is not None:
                await first()
            return [event async for event in engine.follow(run)], stage.seconds

    return asyncio.run(play())


def writes(engine: Engine, unit: Callable[[Database], Any]) -> Callable[[], Any]:
    return lambda: engine._driver.store.write(unit)


def begin(
    db: Database, key: RunKey = KEY, domain: str = "web", who: Author = ME
) -> None:
    disk = Disk("vda", f"/srv/{domain}.qcow2", "qcow2")
    catalog.add_domain(db, Domain(domain, None, (disk,)), [], ME.at)
    runs.begin_deletion(db, key.id, domain, "s1", {}, "validate", who)


def refuse(db: Database, key: RunKey = KEY) -> None:
    runs.move(
        db, key, "validate", "refuse", "refused", ME, {"because": "no"}, final=True
    )


def test_from_the_present_state_to_the_end(tmp_path: Path) -> None:
    beacon = Beacon(tmp_path, KEY.id)

    def script(engine: Engine, stage: Stage) -> Iterator[Callable[[], Any] | None]:
        def work(db: Database) -> None:
            begin(db)
            runs.remark(db, KEY, "validate", "alarm", ME, {"what": "long ago"})

        yield writes(engine, work)
        with beacon:
            yield None

            def go_on(db: Database) -> None:
                runs.remark(db, KEY, "validate", "alarm", ME, {"what": "smoke"})
                runs.update_deletion(db, KEY, downtime_ms=7.5)

            yield writes(engine, go_on)
            beacon.tell("nobody knows this disk", 1, 2)
            yield None
            yield writes(engine, refuse)

    heard, _ = followed(tmp_path, script)

    assert heard == [
        StateEvent(KEY.id, "web", "s1", "validate", {"began": True}, at=ME.at),
        AlarmEvent(KEY.id, "web", "s1", "smoke", ME.at),
        DowntimeEvent(KEY.id, "web", "s1", 7.5, ME.at),
        StateEvent(
            *(KEY.id, "web", "s1", "refused", {"because": "no"}),
            at=ME.at,
            source="validate",
        ),
    ]


def test_a_run_that_nobody_works_on_is_not_waited_for(tmp_path: Path) -> None:
    def script(engine: Engine, stage: Stage) -> Iterator[Callable[[], Any] | None]:
        yield writes(engine, begin)

    heard, took = followed(tmp_path, script, KEY.id[:4])

    assert [type(event) for event in heard] == [StateEvent]
    assert PATIENCE <= took <= PATIENCE + POLL


def test_whoever_works_on_a_run_need_not_tell_its_bytes(tmp_path: Path) -> None:
    """Another user, whose files are not trusted; or one who has nowhere to write."""
    image = tmp_path / "web.qcow2"
    image.touch()
    file = files.identify(str(image))
    assert file is not None

    def script(engine: Engine, stage: Stage) -> Iterator[Callable[[], Any] | None]:
        def work(db: Database) -> None:
            disk = Disk("vda", str(image), "qcow2")
            catalog.add_domain(db, Domain("web", None, (disk,)), [], ME.at)
            runs.begin_deletion(db, KEY.id, "web", "s1", {}, "validate", ME)

        yield writes(engine, work)
        with Locks(tmp_path) as locks:
            locks.acquire([file])
            while stage.seconds <= 2 * PATIENCE:
                yield None
        yield writes(engine, refuse)

    heard, _ = followed(tmp_path, script)

    assert [event.state for event in heard if isinstance(event, StateEvent)] == [
        *("validate", "refused"),
    ]


def test_a_run_of_another_host_is_waited_for(tmp_path: Path) -> None:
    """Nobody can say from here that it is left."""
    there = Author("me@elsewhere:1", ME.at)

    def script(engine: Engine, stage: Stage) -> Iterator[Callable[[], Any] | None]:
        yield writes(engine, lambda db: begin(db, who=there))
        while stage.seconds <= 2 * PATIENCE:
            yield None
        yield writes(engine, refuse)

    heard, _ = followed(tmp_path, script)

    assert isinstance(heard[-1], StateEvent) and heard[-1].state == "refused"


def test_a_pause_between_two_who_work_on_it_ends_nothing(tmp_path: Path) -> None:
    def script(engine: Engine, stage: Stage) -> Iterator[Callable[[], Any] | None]:
        yield writes(engine, begin)
        for _ in range(3):
            with Beacon(tmp_path, KEY.id):
                yield None
            while stage.seconds % PATIENCE < PATIENCE - 2 * POLL:
                yield None
        yield writes(engine, refuse)

    heard, took = followed(tmp_path, script)

    assert [event.state for event in heard if isinstance(event, StateEvent)] == [
        *("validate", "refused"),
    ]
    assert took > PATIENCE


def test_all_that_are_open_and_those_that_begin_meanwhile(tmp_path: Path) -> None:
    def script(engine: Engine, stage: Stage) -> Iterator[Callable[[], Any] | None]:
        yield writes(engine, begin)
        with Beacon(tmp_path, KEY.id), Beacon(tmp_path, OTHER.id):
            yield writes(engine, lambda db: begin(db, OTHER, "mail"))
            yield writes(engine, refuse)
            for _ in range(30):
                yield None
            yield writes(engine, lambda db: refuse(db, OTHER))

    heard, took = followed(tmp_path, script)

    states = [(e.domain, e.state) for e in heard if isinstance(e, StateEvent)]
    assert states == [
        *(("web", "validate"), ("mail", "validate")),
        *(("web", "refused"), ("mail", "refused")),
    ]
    assert took > PATIENCE


def test_nothing_open_is_nothing_to_wait_for(tmp_path: Path) -> None:
    def script(engine: Engine, stage: Stage) -> Iterator[Callable[[], Any] | None]:
        yield writes(engine, begin)
        yield writes(engine, refuse)

    assert len(followed(tmp_path, script)[0]) == 2
    assert followed(tmp_path, lambda engine, stage: iter([None])) == ([], 0)
    (end,) = followed(tmp_path, lambda engine, stage: iter([None]), KEY.id)[0]
    assert isinstance(end, StateEvent)
    assert end.state == "refused"
