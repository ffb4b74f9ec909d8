"""The real engine on a simulated world, with the journal's real code in memory.

The journal is an SQLite database in memory, written by the real transactions of
`journal.store` and `journal.runs`. What SQLite itself does at a kill is SQLite's
promise: a transaction is there or it is not. Here it is there as soon as its COMMIT
has returned, and a journal is copied as bytes.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from backfold.engine.driver import Driver
from backfold.engine.seeds import SEEDS
from backfold.journal import store as journal_store
from backfold.journal.errors import CommandFailed, CommitUnknown, JournalError
from backfold.journal.model import FileId
from backfold.journal.schema import migrate
from backfold.journal.store import Store
from backfold.states.ports import HookCall
from backfold.states.watch import Watch
from committing import CommittingEngine

from .hypervisor import SimHypervisor
from .images import SimImages
from .life import Life
from .world import World

_NOWHERE = Path("/simulated/journal.db")


def new_journal() -> bytes:
    """An empty journal, as the real migrations make it."""
    db = _database(None)
    db.execute("BEGIN IMMEDIATE")
    migrate(db, SEEDS)
    db.commit()
    data = db.conn.serialize()
    db.close()
    return data


class Journal:
    """A journal in memory; ``data`` is what a copy of its file would hold."""

    def __init__(self, data: bytes) -> None:
        """Open a copy."""
        self.db = _database(data)
        self._data = data
        self._changes = self.version

    @property
    def data(self) -> bytes:
        """Everything that is durable now."""
        if self._changes != self.version:
            self._changes = self.version
            self._data = self.db.conn.serialize()
        return self._data

    @property
    def version(self) -> int:
        """A number that changes with every row that is written."""
        return int(self.db.conn.total_changes)

    def close(self) -> None:
        """Forget it."""
        self.db.close()


class SimStore(Store):
    """The store without its thread: each unit runs at once, by the same code."""

    def __init__(self, journal: Journal, life: Life) -> None:
        """Use a journal for the time of one life."""
        super().__init__(_NOWHERE, SEEDS)
        self._journal = journal
        self._life = life

    async def _submit(self, unit: Any) -> Any:
        self._life.check()
        if self._closed:
            raise JournalError("The journal is closed.")
        unit.future.set_running_or_notify_cancel()
        if not unit.writes:
            journal_store._answer(self._journal.db, unit, self.path)
            return unit.future.result()
        fault, self._life.commit_fault = self._life.commit_fault, None
        if fault != "lost":
            journal_store._commit(self._journal.db, [unit], self.path)
            result = unit.future.result()
        if fault is not None:
            raise CommitUnknown(
                f"The journal {self.path} reported an error at COMMIT: disk I/O error.",
                data="Whether the last step is recorded is unknown.",
                remedy="Look at the file system of the journal, then run recover.",
            )
        return result

    async def close(self) -> None:
        """Nothing waits."""
        self._closed = True


class SimClock:
    """Time that passes only when somebody waits or calls."""

    def __init__(self, world: World, life: Life) -> None:
        """The clock of a world."""
        self._world = world
        self._life = life

    def now(self) -> str:
        """The time of day."""
        return datetime.fromtimestamp(self._world.now / 1e9, UTC).isoformat(
            timespec="microseconds"
        )

    def monotonic(self) -> float:
        """Seconds that only go up."""
        return self._world.now / 1e9

    async def sleep(self, seconds: float) -> None:
        """A moment of that length."""
        self._life.at("sleep")
        self._world.tick(int(seconds * 1e9))

    def new_id(self) -> str:
        """A new run's id."""
        return self._world.new_id()

    def boot_id(self) -> str:
        """Names this boot."""
        return self._world.boot_id


class SimGuard:
    """A guard that the world remembers: it acts when its engine has died."""

    def __init__(self, world: World, life: Life) -> None:
        """The guard of one engine."""
        self._world = world
        self._life = life

    async def start(self, watch: Watch) -> None:
        """It watches."""
        self._life.at("guard start")
        self._world.guarded = watch

    async def dismiss(self) -> None:
        """The hold is over."""
        self._life.check()
        self._world.guarded = None

    async def take_over(self) -> None:
        """It is due as if this engine had died; `play` lets it act."""
        self._life.check()


class SimHook:
    """The way to an owner who writes the disks of each call, one after the other.

    Whatever it is called for: ``disks`` are always right to be written. It can fail
    before, in the middle and at the end of its work; not in the middle while a
    snapshot is taken, since old and new images can both be booted then: a definition
    has to be replaced as a whole (see docs/hooks.md).
    """

    is_program = False

    def __init__(self, world: World, life: Life) -> None:
        """The owner of a world's definition."""
        self._world = world
        self._life = life

    def obstacle(self, hook: str) -> str | None:
        """It can always be tried."""
        return None

    async def call(self, call: HookCall) -> str:
        """Write the definition."""
        self._life.at("hook")
        definition = self._world.definition
        assert definition is not None
        for number, disk in enumerate(call.disks):
            if number and call.machine != "creation":
                self._life.at("hook half")
            definition[disk.target] = (disk.source, disk.format)
        if self._world.owner_is_broken:
            raise CommandFailed("The hook failed (exit status 1).")
        self._life.at("hook done")
        return "written"

    async def end_former(self, run: str) -> None:
        """A call ends with the engine that made it."""


class SimProbe:
    """Each moment of a step is a moment of the life, and the guest goes on in it."""

    def __init__(self, world: World, life: Life) -> None:
        """The probe of one engine."""
        self._world = world
        self._life = life

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Tell it."""
        self._life.check()
        self._world.tick()
        self._life.at(f"{state}.{step}.{moment}")


class SimEngine(CommittingEngine):
    """The public engine over simulated ports."""

    def __init__(self, world: World, journal: Journal, life: Life, locks: Path) -> None:
        """Not open yet."""
        super().__init__(
            _NOWHERE,
            hypervisor=SimHypervisor(world, life),
            images=SimImages(world, life),
            clock=SimClock(world, life),
            guard=SimGuard(world, life),
            probe=SimProbe(world, life),
            managed=_nobody,
            locks=locks,
        )
        hook = SimHook(world, life)
        self._world = dataclasses.replace(self._world, hook=hook)
        self._store = SimStore(journal, life)

    async def __aenter__(self) -> SimEngine:
        """Open the journal that it was given."""
        self.open()
        return self

    def open(self) -> None:
        """As `async with`, for whoever waits for nothing."""
        self._opened = Driver(self._store, self._world)


def run(loop: asyncio.AbstractEventLoop, work: Any) -> Any:
    """Run one engine's work to its end, on a loop that is used again."""
    return loop.run_until_complete(work)


def _nobody() -> Mapping[FileId, str]:
    return {}


def _database(data: bytes | None) -> Database:
    connection = sqlite3.connect(
        ":memory:", isolation_level=None, check_same_thread=False
    )
    if data is not None:
        connection.deserialize(data)
    db = Database(connection, strict=True, execute_plugins=False)
    db.execute("PRAGMA foreign_keys = ON")
    return db
