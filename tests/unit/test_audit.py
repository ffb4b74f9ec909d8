"""A journal that Backfold wrote is never complained of; others are."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils import Database

from backfold.engine.diagnosis import diagnose
from backfold.engine.seeds import SEEDS
from backfold.journal import audit, runs
from backfold.journal.errors import JournalBusy, JournalDamaged, JournalError
from backfold.journal.store import Store

AUTHOR = runs.Author("tester", "2026-01-01T00:00:00+00:00")
#: Edges that a deletion takes, in order; annul and replan come back.
EDGES = (
    ("validate", "accept", "prepare"),
    ("prepare", "proceed", "commit_per_disk"),
    ("commit_per_disk", "replan", "prepare"),
    ("prepare", "proceed", "commit_per_disk"),
    ("commit_per_disk", "proceed", "vote"),
    ("vote", "decide", "pivot"),
    ("pivot", "annul", "vote"),
    ("vote", "abandon", "roll_back"),
    ("roll_back", "proceed", "rolled_back"),
)


def with_runs(db: Database) -> None:
    """A history in which everything has happened, also what comes back."""
    for number in range(3):
        run = f"{number:012x}"
        key = runs.begin_deletion(db, run, f"d{number}", "s", {}, "validate", AUTHOR)
        for source, trigger, dest in EDGES[: 3 * (number + 1)]:
            runs.announce(db, key, source, "claim", AUTHOR, {})
            final = dest == "rolled_back"
            runs.move(db, key, source, trigger, dest, AUTHOR, {}, final=final)
        if number < 2:
            runs.claim(db, "deletion", run, AUTHOR)


def journal_at(path: Path, *units: Callable[[Database], None]) -> Path:
    async def make() -> None:
        store = await Store.open(path, SEEDS)
        for unit in units:
            await store.write(unit)
        await store.close()

    asyncio.run(make())
    return path


def failing(db: Database) -> None:
    """A unit that is rolled back must not leave a hole in the history."""
    runs.begin_deletion(db, "f" * 12, "d9", "s", {}, "validate", AUTHOR)
    raise RuntimeError("never mind")


def test_a_history_of_every_kind_is_sound(tmp_path: Path) -> None:
    path = journal_at(tmp_path / "j" / "journal.db", with_runs)

    async def fail() -> None:
        store = await Store.open(path, SEEDS)
        with pytest.raises(RuntimeError):
            await store.write(failing)
        await store.write(lambda db: runs.request_cancel(db, "0" * 12, AUTHOR))
        await store.close()

    asyncio.run(fail())
    with audit.private_copy(path) as copy:
        found = audit.examine(copy)

    assert found.complaints == []
    assert [run.id for run in found.open_runs] == ["0" * 12, f"{1:012x}"]
    assert diagnose(path) is None


def test_rows_that_are_only_in_the_log_are_seen(tmp_path: Path) -> None:
    path = journal_at(tmp_path / "j" / "journal.db")
    reader = sqlite3.connect(path)
    reader.execute("begin").close()
    reader.execute("select * from transitions").fetchall()
    journal_at(path, with_runs)
    with audit.private_copy(path) as copy:
        found = audit.examine(copy)
    reader.close()

    assert found.complaints == []
    assert len(found.runs) == 3


def test_a_column_that_a_later_version_added_is_no_complaint(tmp_path: Path) -> None:
    """Migrated, and killed before the log went into the file."""
    path = journal_at(tmp_path / "j" / "journal.db", with_runs)
    reader = sqlite3.connect(path)
    reader.execute("begin").close()
    reader.execute("select * from transitions").fetchall()
    with sqlite3.connect(path) as other:
        other.execute("alter table transitions add column added text")
    other.close()
    copied = tmp_path / "copied" / "journal.db"
    copied.parent.mkdir()
    for name in ("journal.db", "journal.db-wal"):
        shutil.copy(path.with_name(name), copied.with_name(name))
    reader.close()

    assert diagnose(copied) is None


def test_a_journal_that_changes_all_the_time_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never a copy that is half of the one and half of the other."""
    path = journal_at(tmp_path / "j" / "journal.db")
    monkeypatch.setattr(audit, "TRIES", 3)
    real, lock = shutil.copyfile, threading.Lock()

    def copy(source: Path, target: Path) -> None:
        real(source, target)
        with lock, open(path, "ab") as file:
            file.write(b"\0")

    monkeypatch.setattr("backfold.journal.audit.shutil.copyfile", copy)
    with pytest.raises(JournalBusy), audit.private_copy(path):
        pass


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(JournalError), audit.private_copy(tmp_path):
        pass


def test_an_empty_file_is_damage_and_a_link_is_the_stores_business(
    tmp_path: Path,
) -> None:
    (tmp_path / "empty.db").touch()
    (tmp_path / "link.db").symlink_to(tmp_path / "empty.db")
    found = diagnose(tmp_path / "empty.db")

    assert found is not None
    assert isinstance(found.problem, JournalDamaged)
    assert diagnose(tmp_path / "link.db") is None
    assert diagnose(tmp_path / "missing.db") is None
