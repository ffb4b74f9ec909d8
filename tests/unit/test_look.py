"""Looking at a journal from outside: right beside a writer, and without a trace."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlite_utils import Database

from backfold.engine.history import History
from backfold.engine.seeds import SEEDS
from backfold.journal import catalog
from backfold.journal.errors import (
    JournalDamaged,
    JournalError,
    JournalNewer,
    UsageError,
)
from backfold.journal.look import check_whole, look, look_at_nothing
from backfold.journal.overview import overview
from backfold.journal.rows import Rows
from backfold.journal.store import Store

TRIES = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0).execute("begin immediate")
"""
OLD = Path(__file__).parents[1] / "cli" / "data" / "journal-0.1.0.sql"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with one image that nobody has open."""
    path = tmp_path / "state" / "journal.db"
    put(path, "/a")
    return path


def put(path: Path, *names: str) -> None:
    """Open the journal, write, close it."""

    async def main() -> None:
        store = await Store.open(path, SEEDS)
        for name in names:
            await store.write(image(name))
        await store.close()

    asyncio.run(main())


def image(name: str) -> Callable[[Database], None]:
    return lambda db: catalog.put_image(db, name, "raw", None)


def images(db: Rows) -> list[str]:
    return [str(row[0]) for row in db.execute("select path from images order by path")]


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file of a folder, and when it was changed."""
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.iterdir()}


def test_a_journal_that_nobody_has_open_is_read_without_a_trace(path: Path) -> None:
    """No log and no index of a log, which SQLite itself would leave behind."""
    before = content(path.parent)

    assert look(path, images) == ["/a"]
    assert content(path.parent) == before
    assert before.keys() == {"journal.db"}


def test_a_journal_in_a_folder_that_cannot_be_written_is_read(path: Path) -> None:
    path.chmod(0o400)
    path.parent.chmod(0o500)
    try:
        assert look(path, images) == ["/a"]
    finally:
        path.parent.chmod(0o700)


def test_beside_a_writer_what_is_durable_is_seen_and_nobody_waits(path: Path) -> None:
    """In one process, too: the locks of the store are not dropped by the look."""

    async def main() -> list[list[str]]:
        store = await Store.open(path, SEEDS)
        await store.write(image("/b"))
        # Names only: to read the files here would drop the store's own locks.
        before = set(path.parent.iterdir())
        seen = [look(path, images)]
        assert set(path.parent.iterdir()) == before

        def both(db: Database) -> None:
            image("/c")(db)
            seen.append(look(path, images))

        await store.write(both)
        # Another process has to wait for the writer: it still has its lock.
        command = [sys.executable, "-c", TRIES, str(path)]

        def tries(db: Database) -> None:
            look(path, images)
            done = subprocess.run(command, capture_output=True, text=True)
            assert "database is locked" in done.stderr

        await store.write(tries)
        seen.append(look(path, images))
        await store.close()
        return seen

    assert asyncio.run(main()) == [["/a", "/b"], ["/a", "/b"], ["/a", "/b", "/c"]]


def test_what_a_killed_writer_left_in_its_log_is_seen(path: Path) -> None:
    """And stays where it is: the log is replayed by whoever recovers."""
    copy = path.parent.parent / "copy"
    copy.mkdir()
    # Another process has to copy it: see above.
    command = ["cp", "-t", str(copy), str(path), f"{path}-wal"]

    async def main() -> None:
        store = await Store.open(path, SEEDS)
        await store.write(image("/b"))
        await store.read(lambda db: subprocess.run(command, check=True))
        await store.close()

    asyncio.run(main())
    before = content(copy)

    assert look(copy / "journal.db", images) == ["/a", "/b"]
    after = content(copy)
    assert {name: after[name] for name in before} == before


def test_what_was_read_while_somebody_opened_it_is_read_again(path: Path) -> None:
    """A file that was taken for unchanging and changed may be of two times."""
    asked: list[list[str]] = []

    def query(db: Rows) -> list[str]:
        asked.append(images(db))
        if len(asked) == 1:
            put(path, "/b")
        if len(asked) == 2:
            put(path, "/c")
            raise sqlite3.DatabaseError("torn")
        return asked[-1]

    assert look(path, query) == ["/a", "/b", "/c"]
    assert len(asked) == 3


def test_an_older_journal_is_brought_to_this_version_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    script = re.sub(r"@(?:DEVICE|INODE:[^@]*)@", "1", OLD.read_text())
    with closing(sqlite3.connect(path)) as db:
        db.execute("pragma journal_mode = wal")
        db.executescript(script.replace("@FOLDER@", "/images"))
    before = content(tmp_path)

    def query(db: Rows) -> list[int]:
        tables = ("deletions", "reversions")
        return [db.execute(f"select count(*) from {t}").fetchone()[0] for t in tables]

    assert look(path, query) == [1, 0]
    assert content(tmp_path) == before


def test_a_missing_journal_is_not_made(tmp_path: Path) -> None:
    for missing in (tmp_path / "journal.db", tmp_path / "state" / "journal.db"):
        with pytest.raises(JournalError, match="There is no journal"):
            look(missing, images)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(path: Path) -> None:
    """As the engine does not: it would be another journal than that of a deletion."""
    link = path.parent / "link.db"
    link.symlink_to(path)

    with pytest.raises(JournalError):
        look(link, images)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 1000)


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("create table notes (text)")


def _torn(path: Path) -> None:
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2] + b"\0" * (size // 2))


@pytest.mark.parametrize("harm", [_empty, _garbage, _foreign, _torn])
def test_damage_is_reported_and_not_touched(
    path: Path, harm: Callable[[Path], None]
) -> None:
    harm(path)
    before = content(path.parent)

    def query(db: Rows) -> None:
        check_whole(db)

    with pytest.raises(JournalDamaged) as caught:
        look(path, query)
    assert str(path) in caught.value.what
    assert content(path.parent) == before


def test_a_value_that_makes_no_sense_is_damage(path: Path) -> None:
    def query(db: Rows) -> None:
        int("many")

    with pytest.raises(JournalDamaged, match="invalid literal"):
        look(path, query)


def test_a_newer_journal_is_not_read(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at)"
            " values ('backfold', 'version_999', '2026-01-01')"
        )
        db.commit()

    with pytest.raises(JournalNewer):
        look(path, images)


def test_a_journal_that_is_not_there_is_empty_and_cannot_be_written() -> None:
    assert look_at_nothing(images) == []
    assert look_at_nothing(overview) == []
    with pytest.raises(UsageError, match="not the id of any run"):
        look_at_nothing(lambda rows: History(rows).find("0"))


def test_a_name_with_marks_of_an_address(path: Path) -> None:
    strange = path.rename(path.with_name("a?mode=memory&b#c%41.db"))

    assert look(strange, images) == ["/a"]


def test_the_runs_of_an_old_journal_are_told(tmp_path: Path) -> None:
    """Their tables are those of its own version."""
    old, run = tmp_path / "journal.db", "c883f16bcb35"
    text = re.sub(r"@(DEVICE|INODE:[^@]*)@", "1", OLD.read_text())
    with closing(sqlite3.connect(old)) as db:
        db.execute("pragma journal_mode = wal")
        db.executescript(text.replace("@FOLDER@", "/srv"))
    before = content(tmp_path)

    def told(rows: Rows) -> list[object]:
        history = History(rows)
        (found,) = history.deletions()
        last = [row.dest for row in history.log(run) if row.machine == "deletion"][-1]
        assert history.find(run[:5]) == history.deletion(run) == found
        assert history.creations() == []
        return [found.id, found.state, last, history.reversions()]

    assert look(old, told) == [run, "commit_per_disk", "commit_per_disk", []]
    assert [line.id for line in look(old, overview)] == [run]
    assert content(tmp_path) == before


def test_a_path_that_the_system_refuses_is_no_bug(tmp_path: Path) -> None:
    """As one in a folder that is closed to us, which is not closed to root."""
    with pytest.raises(JournalError, match=r"cannot be used: .*name too long"):
        look(tmp_path / ("x" * 300), images)
