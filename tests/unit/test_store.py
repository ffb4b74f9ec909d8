"""The journal's file: modes, durability, groups of units, damage, full disks."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal import catalog, runs
from backfold.journal.errors import (
    BackfoldError,
    CommitUnknown,
    JournalBusy,
    JournalDamaged,
    JournalError,
    JournalNewer,
)
from backfold.journal.meter import CommitMeter, CommitTimes
from backfold.journal.store import GROUP_LIMIT, Store

T = TypeVar("T")

#: What every child process begins with; its arguments are the journal and more.
PREAMBLE = """
import asyncio, os, resource, signal, sys, time
from pathlib import Path
from backfold.engine.seeds import SEEDS
from backfold.journal.catalog import put_image
from backfold.journal.errors import CommitUnknown
from backfold.journal.store import Store

path = Path(sys.argv[1])

def image(name):
    return lambda db: put_image(db, name, "raw", None)

def say(text):
    print(text, flush=True)

"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal will be; its directory is not there yet."""
    return tmp_path / "state" / "journal.db"


def using(path: Path, use: Callable[[Store], Awaitable[T]]) -> T:
    """Open the journal, use it, close it."""

    async def main() -> T:
        store = await Store.open(path, SEEDS)
        try:
            return await use(store)
        finally:
            await store.close()

    return asyncio.run(main())


def image(name: str) -> Callable[[Database], None]:
    """A unit that records one image."""
    return lambda db: catalog.put_image(db, name, "raw", None)


def images(db: Database) -> list[str]:
    """The images that the journal has."""
    return [str(row[0]) for row in db.execute("select path from images order by path")]


def reopened(path: Path) -> list[str]:
    """The images that a new process would find."""
    return using(path, lambda store: store.read(images))


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def heard(process: subprocess.Popen[str]) -> str:
    """The next line that a child says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def ended(process: subprocess.Popen[str]) -> None:
    """End a child and its pipes."""
    process.kill()
    process.communicate()


class Gate:
    """Keeps the writer thread busy, so that units have to wait together."""

    def __init__(self, store: Store) -> None:
        self._opened = threading.Event()
        self._task = asyncio.ensure_future(store.read(self._wait))

    def _wait(self, db: Database) -> None:
        assert self._opened.wait(10)

    async def open(self) -> None:
        self._opened.set()
        await self._task


class FailingCommit:
    """A connection whose COMMIT reports an error, before or after it happened."""

    def __init__(self, connection: sqlite3.Connection, happens: bool) -> None:
        self._connection = connection
        self._happens = happens

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        if sql.strip().upper().startswith("COMMIT"):
            if self._happens:
                self._connection.execute(sql)
            raise sqlite3.OperationalError("disk I/O error")
        return self._connection.execute(sql, *parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def breaking(name: str, *, happens: bool = False) -> Callable[[Database], None]:
    """A unit that records an image, and whose transaction fails at its COMMIT."""

    def unit(db: Database) -> None:
        image(name)(db)
        vars(db)["conn"] = FailingCommit(db.conn, happens)

    return unit


def pragmas(db: Database) -> dict[str, Any]:
    names = ("journal_mode", "synchronous", "foreign_keys")
    return {name: db.execute(f"pragma {name}").fetchone()[0] for name in names}


# How it is opened


def test_nobody_else_can_read_the_journal(path: Path) -> None:
    """Directory 0700, file and side files 0600, whatever the umask lets through."""

    async def modes(store: Store) -> list[int]:
        await store.write(image("/a"))
        assert len(list(path.parent.iterdir())) == 3
        found = [path.parent, *path.parent.iterdir()]
        return sorted({stat.S_IMODE(each.stat().st_mode) for each in found})

    old = os.umask(0)
    try:
        assert using(path, modes) == [0o600, 0o700]
    finally:
        os.umask(old)


def test_the_writer_has_wal_full_synchronous_and_foreign_keys(path: Path) -> None:
    """What `write` promises rests on these three, on every connection."""
    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}

    assert using(path, lambda store: store.read(pragmas)) == expected
    assert using(path, lambda store: store.read(pragmas)) == expected


@pytest.mark.parametrize("exists", [True, False])
def test_a_symlink_is_not_followed(path: Path, exists: bool) -> None:
    """Somebody who can plant a link must not choose the file that we write to."""
    target = path.parent / "elsewhere"
    path.parent.mkdir()
    if exists:
        target.write_bytes(b"")
    path.symlink_to(target)

    with pytest.raises(JournalError):
        reopened(path)

    assert target.exists() is exists
    assert not exists or target.read_bytes() == b""


def test_a_path_that_cannot_be_a_journal_is_an_error_of_ours(tmp_path: Path) -> None:
    """A directory, or a file where the directory should be: no traceback."""
    (tmp_path / "file").write_bytes(b"")

    for wrong in (tmp_path, tmp_path / "file" / "journal.db"):
        with pytest.raises(JournalError) as caught:
            reopened(wrong)
        assert str(wrong) in caught.value.what
        assert caught.value.remedy


def test_many_processes_open_a_new_journal_at_once(path: Path) -> None:
    """The first start of several engines is no race: all of them succeed."""
    code = """
async def main():
    say("ready")
    sys.stdin.readline()
    store = await Store.open(path, SEEDS)
    await store.write(image(sys.argv[2]))
    await store.close()
asyncio.run(main())
"""
    names = [f"/{number}" for number in range(4)]
    children = [child(code, path, name) for name in names]
    for each in children:
        assert heard(each) == "ready"
    for each in children:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.flush()
    for each in children:
        each.communicate(timeout=30)

    assert [each.returncode for each in children] == [0] * len(children)
    assert reopened(path) == names


def test_many_stores_open_a_new_journal_at_once(path: Path) -> None:
    """As above, in threads: more collisions than processes produce."""

    async def main() -> None:
        stores = await asyncio.gather(*(Store.open(path, SEEDS) for _ in range(12)))
        units = (s.write(image(f"/{n:02}")) for n, s in enumerate(stores))
        await asyncio.gather(*units)
        await asyncio.gather(*(store.close() for store in stores))

    asyncio.run(main())

    assert len(reopened(path)) == 12


def test_a_journal_can_be_opened_while_others_close_it(path: Path) -> None:
    """The last one to close removes the WAL: that must not look like damage."""

    async def again(count: int) -> None:
        for _ in range(count):
            store = await Store.open(path, SEEDS)
            await store.close()

    async def main() -> None:
        await again(1)
        await asyncio.gather(*(again(15) for _ in range(6)))

    asyncio.run(main())


def test_opening_a_journal_that_is_up_to_date_writes_nothing(path: Path) -> None:
    """Reading commands need no write lock and leave no trace on a quiet journal."""
    using(path, lambda store: store.write(image("/a")))
    before = path.read_bytes(), path.stat().st_mtime_ns

    assert reopened(path) == ["/a"]

    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert list(path.parent.iterdir()) == [path]


def test_opening_does_not_wait_for_a_writer(path: Path) -> None:
    """`status` must answer while another engine is in the middle of a write."""
    reopened(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    began = time.monotonic()

    assert reopened(path) == []

    assert time.monotonic() - began < 5
    other.close()


# Units


def test_a_unit_returns_its_result_and_a_read_sees_it(path: Path) -> None:
    """A read that is submitted after a write, awaited or not, sees that write."""

    async def use(store: Store) -> None:
        assert await store.write(lambda db: image("/a")(db) or 7) == 7
        writing = asyncio.ensure_future(store.write(image("/b")))
        await asyncio.sleep(0)
        assert await store.read(images) == ["/a", "/b"]
        await writing

    using(path, use)


def test_units_that_wait_together_share_one_commit(path: Path) -> None:
    """Many deletions at once cost one fsync, not one each."""
    statements: list[str] = []

    async def use(store: Store) -> None:
        await store.read(lambda db: db.conn.set_trace_callback(statements.append))
        gate = Gate(store)
        units = [store.write(image(f"/{number:02}")) for number in range(20)]
        waiting = asyncio.gather(*units)
        await asyncio.sleep(0.01)
        await gate.open()
        await waiting
        await store.read(lambda db: db.conn.set_trace_callback(None))

    using(path, use)

    assert statements.count("COMMIT") == 1
    assert statements.count("BEGIN IMMEDIATE") == 1
    assert len(reopened(path)) == 20


def test_a_group_has_a_limit(path: Path) -> None:
    """A flood of units cannot keep the first one waiting for ever."""
    statements: list[str] = []
    count = 2 * GROUP_LIMIT + 3

    async def use(store: Store) -> None:
        await store.read(lambda db: db.conn.set_trace_callback(statements.append))
        gate = Gate(store)
        waiting = asyncio.gather(
            *(store.write(image(f"/{number:03}")) for number in range(count))
        )
        await asyncio.sleep(0.01)
        await gate.open()
        await waiting
        await store.read(lambda db: db.conn.set_trace_callback(None))

    using(path, use)

    assert statements.count("COMMIT") == 3
    assert len(reopened(path)) == count


def test_reads_and_writes_keep_their_order_in_a_group(path: Path) -> None:
    """A read between two writes sees the first and not the second."""

    async def use(store: Store) -> list[list[str] | None]:
        gate = Gate(store)
        waiting = asyncio.gather(
            store.write(image("/a")),
            store.read(images),
            store.write(image("/b")),
            store.write(image("/c")),
            store.read(images),
        )
        await asyncio.sleep(0.01)
        await gate.open()
        return list(await waiting)

    _, first, _, _, second = using(path, use)

    assert first == ["/a"]
    assert second == ["/a", "/b", "/c"]


def test_a_failing_unit_fails_alone_and_leaves_nothing(path: Path) -> None:
    """Another deletion's mistake must not undo mine, though we share a COMMIT."""

    def fails(db: Database) -> None:
        image("/wrong")(db)
        raise ValueError("wrong")

    def forbidden(db: Database) -> None:
        image("/forbidden")(db)
        catalog.put_image(db, "relative", "raw", None)

    async def use(store: Store) -> list[object]:
        gate = Gate(store)
        waiting = asyncio.gather(
            store.write(image("/a")),
            store.write(fails),
            store.write(image("/b")),
            store.write(forbidden),
            store.write(image("/c")),
            return_exceptions=True,
        )
        await asyncio.sleep(0.01)
        await gate.open()
        return list(await waiting)

    outcomes = using(path, use)

    assert [type(outcome) for outcome in outcomes] == [
        type(None),
        ValueError,
        type(None),
        JournalError,
        type(None),
    ]
    assert reopened(path) == ["/a", "/b", "/c"]


def test_a_group_that_fails_whole_lets_go_of_the_write_lock(path: Path) -> None:
    """After a failed unit, other engines can write."""

    def fails(db: Database) -> None:
        image("/wrong")(db)
        raise KeyError

    async def use(store: Store) -> None:
        with pytest.raises(KeyError):
            await store.write(fails)
        other = sqlite3.connect(path, timeout=5, isolation_level=None)
        other.execute("insert into images values ('/other', 'raw', null)")
        other.close()
        assert await store.read(images) == ["/other"]

    using(path, use)


def test_a_unit_that_breaks_a_deferred_key_fails_alone(path: Path) -> None:
    """A constraint that SQLite checks at COMMIT is that unit's fault only."""

    def orphan(db: Database) -> None:
        db.execute("insert into domains values ('d', null, 'now', null)")
        db.execute(
            "insert into snapshots"
            " values ('d', 's', 'gone', 'now', 'valid', null, 0, null)"
        )

    async def use(store: Store) -> list[object]:
        gate = Gate(store)
        waiting = asyncio.gather(
            store.write(image("/a")), store.write(orphan), return_exceptions=True
        )
        await asyncio.sleep(0.01)
        await gate.open()
        return list(await waiting)

    good, bad = using(path, use)

    assert good is None
    assert bad is not None and not isinstance(bad, CommitUnknown)
    assert reopened(path) == ["/a"]


def test_a_cancelled_caller_does_not_cancel_its_unit(path: Path) -> None:
    """Ctrl-C between intent and effect must not make a row half-asked-for."""

    async def use(store: Store) -> None:
        gate = Gate(store)
        task = asyncio.ensure_future(store.write(image("/a")))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gate.open()
        assert await store.read(images) == ["/a"]

    using(path, use)


def test_close_finishes_what_was_submitted(path: Path) -> None:
    """Nothing that was handed over before `close` is dropped."""

    async def main() -> None:
        store = await Store.open(path, SEEDS)
        gate = Gate(store)
        units = [
            asyncio.ensure_future(store.write(image(f"/{n:03}"))) for n in range(100)
        ]
        await asyncio.sleep(0.01)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0.01)
        await gate.open()
        await closing
        await asyncio.gather(*units)

    asyncio.run(main())

    assert len(reopened(path)) == 100


def test_a_closed_store_answers_with_an_error(path: Path) -> None:
    """A unit that comes too late must not wait for ever."""

    async def main() -> None:
        store = await Store.open(path, SEEDS)
        await store.close()
        with pytest.raises(JournalError):
            await asyncio.wait_for(store.write(image("/a")), 0.5)

    asyncio.run(main())


def test_the_event_loop_runs_while_another_process_has_the_write_lock(
    path: Path,
) -> None:
    """QEMU's events are served while the journal is waited for."""

    async def use(store: Store) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        writing = asyncio.ensure_future(store.write(image("/a")))
        began = time.monotonic()
        for _ in range(20):
            await asyncio.sleep(0.005)
        assert time.monotonic() - began < 2
        assert not writing.done()
        other.execute("rollback")
        other.close()
        await writing
        assert await store.read(images) == ["/a"]

    using(path, use)


def test_a_write_lock_that_is_never_free_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written then, all waiting units hear of it, and later ones work."""
    monkeypatch.setattr("backfold.journal.store.BUSY_TIMEOUT", 0.05)

    async def use(store: Store) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        failed = await asyncio.gather(
            store.write(image("/a")), store.write(image("/b")), return_exceptions=True
        )
        assert [type(error) for error in failed] == [JournalBusy, JournalBusy]
        other.close()
        await store.write(image("/c"))
        assert await store.read(images) == ["/c"]

    using(path, use)


def test_a_write_waits_no_longer_than_its_patience(path: Path) -> None:
    """The decision is impatient, because a guest may stand; others wait for long."""

    async def use(store: Store) -> None:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("begin immediate")
        began = time.monotonic()
        with pytest.raises(JournalBusy):
            await store.write(image("/a"), 0.05)
        assert time.monotonic() - began < 5
        patient = asyncio.ensure_future(store.write(image("/b")))
        await asyncio.sleep(0.3)
        assert not patient.done()
        other.execute("rollback")
        other.close()
        await patient
        assert await store.read(images) == ["/b"]

    using(path, use)


def test_commits_are_measured_for_those_who_are_in_them(path: Path) -> None:
    """A group is one COMMIT; a unit that failed was not in it, nor was a query."""
    mine, other = CommitMeter(), CommitMeter()

    async def use(store: Store) -> CommitTimes:
        gate = Gate(store)
        group = [store.write(image(name), meter=mine) for name in ("/a", "/b")]
        group.append(store.write(failing, meter=other))
        writes = asyncio.gather(*group, return_exceptions=True)
        await asyncio.sleep(0)
        await gate.open()
        await writes
        await store.write(image("/c"))
        await store.read(images)
        with pytest.raises(CommitUnknown):
            await store.write(breaking("/d"), meter=other)
        return store.meter.times

    def failing(db: Database) -> None:
        raise ValueError("not today")

    everything = using(path, use)

    assert (everything.count, mine.times.count, other.times) == (2, 1, CommitTimes())
    assert everything.seconds > mine.times.seconds == mine.times.longest > 0
    assert everything.longest >= mine.times.longest


# Death


def test_a_row_survives_a_kill_right_after_write_returned(path: Path) -> None:
    """Intent before effect: what `write` has confirmed is there after SIGKILL."""
    code = """
async def main():
    store = await Store.open(path, SEEDS)
    for number in range(30):
        await store.write(image(f"/{number:02}"))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    process = child(code, path)
    process.communicate(timeout=30)

    assert process.returncode == -9
    assert len(reopened(path)) == 30


def test_a_kill_inside_a_unit_loses_all_of_it(path: Path) -> None:
    """A transition is whole or absent, and the journal can be used at once."""
    code = """
def unit(db):
    image("/half")(db)
    image("/rest")(db)
    say("inside")
    time.sleep(60)

async def main():
    store = await Store.open(path, SEEDS)
    await store.write(image("/before"))
    await store.write(unit)
asyncio.run(main())
"""
    process = child(code, path)
    assert heard(process) == "inside"
    ended(process)

    assert reopened(path) == ["/before"]


# A COMMIT that fails


@pytest.mark.parametrize("happens", [False, True])
def test_a_failed_commit_is_unknown_and_the_store_goes_on(
    path: Path, happens: bool
) -> None:
    """Nobody may act on it either way; what the file says now can be read."""

    async def use(store: Store) -> None:
        with pytest.raises(CommitUnknown) as caught:
            await store.write(breaking("/a", happens=happens))
        assert isinstance(caught.value.__cause__, sqlite3.Error)
        assert await store.read(images) == (["/a"] if happens else [])
        await store.write(image("/b"))
        assert await store.read(pragmas) == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
        }

    using(path, use)

    assert reopened(path) == (["/a", "/b"] if happens else ["/b"])


def test_a_failed_commit_is_unknown_for_every_unit_that_it_covered(path: Path) -> None:
    """All units of the group hear of it; one that had failed keeps its own error."""

    def fails(db: Database) -> None:
        raise ValueError

    async def use(store: Store) -> list[object]:
        gate = Gate(store)
        waiting = asyncio.gather(
            store.write(image("/a")),
            store.write(fails),
            store.write(breaking("/b")),
            return_exceptions=True,
        )
        await asyncio.sleep(0.01)
        await gate.open()
        return list(await waiting)

    outcomes = using(path, use)

    assert [type(outcome) for outcome in outcomes] == [
        CommitUnknown,
        ValueError,
        CommitUnknown,
    ]
    assert reopened(path) == []


def test_a_full_file_system_fails_the_commit_and_not_the_store(path: Path) -> None:
    """A real I/O error while the WAL is written; there is room again afterwards."""
    code = """
async def main():
    store = await Store.open(path, SEEDS)
    await store.write(image("/a"))
    wal = os.path.getsize(f"{path}-wal")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 100, hard))
    try:
        await store.write(image("/lost"))
        say("written")
    except CommitUnknown:
        say("unknown")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await store.write(image("/b"))
    await store.close()
asyncio.run(main())
"""
    process = child(code, path)
    said, _ = process.communicate(timeout=30)

    assert (process.returncode, said) == (0, "unknown\n")
    assert reopened(path) == ["/a", "/b"]


def test_a_unit_that_fills_the_disk_takes_its_group_with_it(path: Path) -> None:
    """SQLite rolls the whole transaction back then: nobody hears that it succeeded."""
    code = """
def flood(db):
    db.execute("pragma cache_size = 1")
    for number in range(300):
        image(f"/{number}" + "x" * 3000)(db)

async def main():
    store = await Store.open(path, SEEDS)
    await store.write(image("/a"))
    wal = os.path.getsize(f"{path}-wal")
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (wal + 10000, hard))
    gate = asyncio.ensure_future(store.read(lambda db: time.sleep(0.3)))
    await asyncio.sleep(0.05)
    outcomes = await asyncio.gather(
        store.write(image("/before")), store.write(flood), return_exceptions=True
    )
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    say(",".join(type(outcome).__name__ for outcome in outcomes))
    await store.write(image("/b"))
    await store.close()
asyncio.run(main())
"""
    process = child(code, path)
    said, _ = process.communicate(timeout=30)

    assert (process.returncode, said) == (0, "CommitUnknown,JournalError\n")
    assert reopened(path) == ["/a", "/b"]


def test_a_connection_that_cannot_be_made_again_is_an_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of file descriptors after a failed COMMIT: an error, never a hang."""

    def refuses(path: Path) -> Database:
        raise sqlite3.OperationalError("unable to open database file")

    async def use(store: Store) -> None:
        monkeypatch.setattr("backfold.journal.store._connect", refuses)
        with pytest.raises(CommitUnknown):
            await store.write(breaking("/a"))
        with pytest.raises(JournalError):
            await asyncio.wait_for(store.write(image("/b")), 0.5)

    using(path, use)


# Files that are not what we wrote


def made(path: Path) -> bytes:
    """A journal with something in it, closed."""
    using(path, lambda store: store.write(filled))
    return path.read_bytes()


def filled(db: Database) -> None:
    author = runs.Author("tester", "2025-01-01T00:00:00+00:00")
    for number in range(3):
        run = f"{number:012x}"
        key = runs.begin_deletion(db, run, f"d{number}", "s", {}, "validate", author)
        runs.announce(db, key, "validate", "claim", author, {})
        image(f"/{number}")(db)


def read_everything(db: Database) -> None:
    catalog.domains(db)
    images(db)
    for row in runs.list_deletions(db, only_open=False):
        list(runs.history(db, row.id))


def test_a_journal_of_a_newer_version_is_refused_and_unchanged(path: Path) -> None:
    """An older program must not write rows that a newer one would misread."""
    reopened(path)
    with sqlite3.connect(path) as other:
        other.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at)"
            " values ('backfold', 'version_99', '2030-01-01')"
        )
    other.close()
    before = path.read_bytes()

    with pytest.raises(JournalNewer) as caught:
        reopened(path)

    assert "version_99" in caught.value.what
    assert path.read_bytes() == before


def damages() -> list[tuple[str, Callable[[bytes], bytes]]]:
    noise = random.Random(7).randbytes
    return [
        ("text", lambda good: b"not a journal at all\n" * 400),
        ("a few bytes", lambda good: b"hi"),
        ("cut in the header", lambda good: good[:50]),
        ("cut after the header", lambda good: good[:100]),
        ("cut after a page", lambda good: good[:4096]),
        ("cut in half", lambda good: good[: len(good) // 2]),
        ("last page gone", lambda good: good[:-4096]),
        ("noise in front", lambda good: noise(len(good) // 2) + good[len(good) // 2 :]),
        ("noise behind", lambda good: good[:4096] + noise(len(good) - 4096)),
        ("zeros in front", lambda good: bytes(4096) + good[4096:]),
        ("zeros behind", lambda good: good[:4096] + bytes(len(good) - 4096)),
    ]


@pytest.mark.parametrize(
    "damage", [d for _, d in damages()], ids=[name for name, _ in damages()]
)
def test_a_damaged_journal_is_reported_and_not_touched(
    path: Path, damage: Callable[[bytes], bytes]
) -> None:
    """Never repaired by guessing; the operator's copy is as good as our report."""
    bad = damage(made(path))
    path.write_bytes(bad)

    with pytest.raises(JournalDamaged) as caught:
        reopened(path)

    assert "overlay" in caught.value.data
    assert path.read_bytes() == bad


@cache
def sound() -> bytes:
    """The bytes of a journal, made once."""
    with tempfile.TemporaryDirectory() as folder:
        return made(Path(folder) / "journal.db")


@settings(max_examples=40, deadline=None)
@given(
    page=st.integers(0, 63),
    offset=st.integers(0, 4095),
    size=st.sampled_from([8, 100, 1000, 4096]),
    seed=st.integers(0, 2**16),
)
def test_no_damage_ends_in_an_error_of_sqlite(
    page: int, offset: int, size: int, seed: int
) -> None:
    """Any page overwritten: it works, or the error is one of ours."""
    good = sound()
    start = page % (len(good) // 4096) * 4096 + min(offset, 4096 - size)
    noise = random.Random(seed).randbytes(size)
    bad = good[:start] + noise + good[start + size :]

    async def main(path: Path) -> None:
        path.write_bytes(bad)
        try:
            store = await Store.open(path, SEEDS)
        except JournalError:
            assert path.read_bytes() == bad
            return
        for submit in (store.read, store.write):
            try:
                await submit(read_everything)
            except BackfoldError:
                pass
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(Path(folder) / "journal.db"))


def test_a_schema_that_is_not_text_is_damage(path: Path) -> None:
    """SQLite quotes the broken statement, which Python cannot decode then."""
    bad = made(path).replace(b"CREATE TABLE folds", b"CREATE TABL\xff folds", 1)
    path.write_bytes(bad)

    with pytest.raises(JournalDamaged):
        reopened(path)


def test_a_damaged_index_is_damage_of_the_journal(path: Path) -> None:
    """SQLite has several codes for "malformed": all of them mean the same to us."""
    made(path)
    with sqlite3.connect(path) as other:
        row = ("index", "one_open_deletion")
        other.execute("pragma writable_schema = on")
        (sql,) = other.execute(
            "select sql from sqlite_master where type = ? and name = ?", row
        ).fetchone()
        wrong = sql.replace("(domain)", "(snapshot)")
        other.execute("update sqlite_master set sql = ? where sql = ?", (wrong, sql))
    other.close()

    def finish(db: Database) -> None:
        db.execute("delete from deletions")

    with pytest.raises(JournalDamaged):
        using(path, lambda store: store.write(finish))


def test_a_journal_that_was_cut_to_nothing_is_not_taken_for_a_new_one(
    path: Path,
) -> None:
    """Its WAL still holds open deletions: forgetting them would free the locks."""
    code = """
async def main():
    store = await Store.open(path, SEEDS)
    await store.write(image("/a"))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    child(code, path).communicate(timeout=30)
    os.truncate(path, 0)

    with pytest.raises(JournalError):
        reopened(path)


def test_a_database_of_another_program_is_not_touched(path: Path) -> None:
    """`--journal` with the wrong file must not change that file."""
    path.parent.mkdir()
    with sqlite3.connect(path) as other:
        other.execute("create table images (anything)")
    other.close()
    before = path.read_bytes()

    with pytest.raises(JournalError):
        reopened(path)

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        "options = '{'",
        "helper = 'x'",
        "hold = ''",
        "plan = 'x'",
        "plan = '{\"version\": 1}'",
    ],
)
def test_a_value_that_makes_no_sense_is_damage(path: Path, change: str) -> None:
    """A page may be sound for SQLite and still be nonsense for us."""
    made(path)
    with sqlite3.connect(path) as other:
        other.execute(f"update deletions set {change} where domain = 'd1'")
    other.close()

    with pytest.raises(JournalError):
        using(path, lambda store: store.read(read_everything))
