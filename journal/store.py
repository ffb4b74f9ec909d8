"""The journal's file: how it is opened, and the one thread that writes to it.

WAL and ``synchronous=FULL``: a unit is durable when `Store.write` returns. Units
that wait at the same time share one fsync. Several processes may share a journal;
each write takes SQLite's write lock first (``BEGIN IMMEDIATE``). The event loop
never waits for the disk.
"""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from sqlite_utils import Database

from .errors import CommitUnknown, JournalError
from .faults import refuse_foreign, refuse_unusable, translated
from .meter import CommitMeter
from .schema import Seeds, is_current, migrate

T = TypeVar("T")

#: How long a write waits for other processes, in seconds.
BUSY_TIMEOUT: Final = 30.0
#: How many units share one transaction at the most.
GROUP_LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class _Unit:
    """Work for the writer thread; ``patience`` is how long it may wait, in seconds.

    ``meters`` hear how long its COMMIT took.
    """

    writes: bool
    run: Callable[[Database], Any]
    future: Future[Any]
    patience: float = BUSY_TIMEOUT
    meters: tuple[CommitMeter, ...] = ()


class Store:
    """An open journal. Use `Store.open`, then `read` and `write`, then `close`."""

    def __init__(self, path: Path, seeds: Seeds) -> None:
        """Use `Store.open`."""
        self.path = path
        self._seeds = seeds
        self._units: queue.SimpleQueue[_Unit | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._serve, name="backfold-journal", daemon=True
        )
        self._opened: Future[None] = Future()
        self._closed = False
        self._carried: _Unit | None = None
        #: Every COMMIT of this store, whoever asked for it.
        self.meter = CommitMeter()

    @classmethod
    async def open(cls, path: Path, seeds: Seeds) -> Store:
        """Open or make the journal at ``path``: directory 0700, file 0600.

        Raises `JournalNewer`, `JournalDamaged` or `JournalError`.
        """
        store = cls(path, seeds)
        store._thread.start()
        await asyncio.wrap_future(store._opened)
        return store

    async def write(
        self,
        unit: Callable[[Database], T],
        patience: float | None = None,
        meter: CommitMeter | None = None,
    ) -> T:
        """Run ``unit`` in a transaction; when this returns, it is durable.

        ``patience`` bounds the wait for other processes, in seconds. ``meter`` is told
        how long the COMMIT took that made it durable.

        Cancelling the caller does not cancel the unit. Raises what ``unit`` raises
        (nothing is written then), `CommitUnknown` when the COMMIT failed,
        `JournalBusy` when others held the journal for too long, and `JournalError`
        when the transaction could not begin.
        """
        wait = BUSY_TIMEOUT if patience is None else patience
        meters = (self.meter,) if meter is None else (self.meter, meter)
        return cast(T, await self._submit(_Unit(True, unit, Future(), wait, meters)))

    async def read(self, query: Callable[[Database], T]) -> T:
        """Run a query that sees everything written before it."""
        return cast(T, await self._submit(_Unit(False, query, Future())))

    async def close(self) -> None:
        """Finish what was submitted and close the file."""
        self._closed = True
        self._units.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _submit(self, unit: _Unit) -> Any:
        if self._closed:
            raise JournalError(f"The journal {self.path} is closed.")
        unit.future.set_running_or_notify_cancel()
        self._units.put(unit)
        return await asyncio.wrap_future(unit.future)

    def _serve(self) -> None:
        """The writer thread: it alone uses the connection."""
        self._opened.set_running_or_notify_cancel()
        try:
            db = _open(self.path, self._seeds)
        except BaseException as error:
            self._opened.set_exception(translated(error, self.path))
            return
        self._opened.set_result(None)
        connected: Database | None = db
        while (group := self._next_group()) is not None:
            if connected is None:
                connected = self._connect_again(group)
            if connected is None:
                continue
            if not group[0].writes:
                _answer(connected, group[0], self.path)
            elif not _commit(connected, group, self.path):
                connected.close()
                connected = None
        if connected is not None:
            connected.close()

    def _next_group(self) -> list[_Unit] | None:
        """One query, or the writes that wait; None when the store is closed."""
        first = self._carried or self._units.get()
        self._carried = None
        if first is None:
            return None
        group = [first]
        while first.writes and len(group) < GROUP_LIMIT and not self._units.empty():
            unit = self._units.get()
            if unit is None or not unit.writes or unit.patience != first.patience:
                self._carried = unit
                if unit is None:
                    self._units.put(None)
                break
            group.append(unit)
        return group

    def _connect_again(self, group: list[_Unit]) -> Database | None:
        """A new connection after a failed COMMIT; these units fail if there is none."""
        try:
            return _connect(self.path)
        except sqlite3.Error as error:
            for unit in group:
                unit.future.set_exception(translated(error, self.path))
            return None


def _commit(db: Database, group: list[_Unit], path: Path) -> bool:
    """Run a group in one transaction; False when its COMMIT failed."""
    done: list[tuple[Future[Any], Any]] = []
    failed: list[tuple[Future[Any], BaseException]] = []
    meters: set[CommitMeter] = set()
    try:
        db.execute(f"PRAGMA busy_timeout = {int(group[0].patience * 1000)}")
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        for unit in group:
            unit.future.set_exception(translated(error, path))
        return True
    for unit in group:
        try:
            with db.atomic():
                result = unit.run(db)
        except BaseException as error:
            failed.append((unit.future, error))
        else:
            done.append((unit.future, result))
            meters.update(unit.meters)
    began = time.monotonic()
    try:
        db.conn.execute("COMMIT" if done else "ROLLBACK")
    except sqlite3.Error as error:
        for future, _ in done:
            unknown = CommitUnknown(
                f"The journal {path} reported an error at COMMIT: {error}.",
                data="Whether the last step is recorded is unknown until it is read"
                " again; the images are untouched by this.",
                remedy="Look at the file system of the journal, then run recover.",
            )
            unknown.__cause__ = error
            future.set_exception(unknown)
        return False
    else:
        took = time.monotonic() - began
        for meter in meters:
            meter.add(took)
        for future, result in done:
            future.set_result(result)
        return True
    finally:
        for future, reason in failed:
            future.set_exception(translated(reason, path))


def _answer(db: Database, unit: _Unit, path: Path) -> None:
    future = unit.future
    try:
        result = unit.run(db)
    except BaseException as error:
        future.set_exception(translated(error, path))
    else:
        future.set_result(result)


def _open(path: Path, seeds: Seeds) -> Database:
    _make_private(path)
    db = _connect(path)
    try:
        _bring_up_to_date(db, path, seeds)
    except BaseException:
        db.close()
        raise
    return db


def _bring_up_to_date(db: Database, path: Path, seeds: Seeds) -> None:
    refuse_foreign(db, path)
    if is_current(db, seeds):
        return
    _enable_wal(db)
    db.execute("BEGIN IMMEDIATE")
    try:
        migrate(db, seeds)
    except BaseException:
        db.rollback()
        raise
    db.commit()


def _enable_wal(db: Database) -> None:
    """Change to WAL; SQLite does not wait for others that do so at the same time."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            return db.enable_wal()
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _make_private(path: Path) -> None:
    """Make directory and file before SQLite would, with modes of our own.

    A file that exists is never opened here: closing it would drop every POSIX lock
    that another connection of this process holds on it.
    """
    missing = [f for f in (path.parent, *path.parent.parents) if not f.exists()]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in reversed(missing):
        # SQLite syncs the names in the last one, nobody those of the folders.
        _sync(folder.parent)
    refuse_unusable(path)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        os.close(os.open(path, flags, 0o600))
    except FileExistsError:
        pass


def _sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _connect(path: Path) -> Database:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    db = Database(connection, strict=True, execute_plugins=False)
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")
    return db
