"""A journal of real runs, opened in the real Datasette as the page says."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasette.app import Datasette
from sqlite_utils import Database

from backfold import Deletion, Disk, Engine
from backfold.engine.datasette import metadata
from backfold.engine.demo.guest import qemu_img
from backfold.engine.seeds import SEEDS
from backfold.journal import runs
from backfold.journal.descriptions import TABLES
from backfold.journal.questions import QUESTIONS
from backfold.journal.runs import Author, RunKey
from backfold.journal.store import Store
from histories import MIDDLE, ROLLED_BACK, History

OPEN, ROLLED, REFUSED = "000000000001", "000000000002", "0000000000aa"


class Opened:
    """A journal in Datasette."""

    def __init__(self, journal: Path, deletion: Deletion) -> None:
        self.journal = journal
        self.deletion = deletion
        self.datasette = Datasette([str(journal)], metadata=metadata(journal.stem))

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of a page."""

        async def ask() -> tuple[int, str]:
            answer = await self.datasette.client.get(path)
            return answer.status_code, answer.text

        return asyncio.run(ask())

    def rows(self, question: str, **parameters: str) -> list[dict[str, Any]]:
        """What a canned query answers."""
        more = "".join(f"&{name}={value}" for name, value in parameters.items())
        status, text = self.get(f"/journal/{question}.json?_shape=array{more}")
        assert status == 200, text
        found: list[dict[str, Any]] = json.loads(text)
        return found


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Two snapshots taken and the first deleted by the engine, and more history."""
    folder = tmp_path_factory.mktemp("datasette")
    image = folder / "web.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    journal = folder / "state" / "journal.db"

    async def main() -> Deletion:
        async with Engine(journal, managed=dict, locks=folder / "locks") as engine:
            await engine.add_domain("web", [Disk("vda", str(image), "qcow2")])
            for name in ("s1", "s2"):
                await engine.create_snapshot("web", name)
            deletion = await engine.delete("web", "s1")
        store = await Store.open(journal, SEEDS)
        await store.write(more)
        await store.close()
        return deletion

    deletion = asyncio.run(main())
    found = Opened(journal, deletion)
    yield found
    for database in found.datasette.databases.values():
        database.close()


def more(db: Database) -> None:
    """A run that was taken over and is open, one that failed, one that was refused."""
    history = History(db)
    key = history.deletion(MIDDLE, domain="db", seconds=10)
    history.pass_by(3600)
    later = Author("you@here:2", history.now.isoformat())
    key = runs.claim(db, "deletion", key.id, later)
    what = {"what": "vote: <b>QEMU</b> does not answer"}
    runs.remark(db, key, "commit_per_disk", "alarm", later, what)
    history.deletion(
        ROLLED_BACK, domain="db2", downtime_ms=412.5, reason="<b>no space</b>"
    )
    both = {"vda": ("stream", 7), "vdb": ("commit", 9)}
    history.deletion(domain="db4", folds=both, seconds=0.1)
    history.deletion_of_two_passes(both, domain="db5")
    refused = runs.begin_deletion(db, REFUSED, "db3", "s1", {}, "validate", later)
    reasons = [
        {"code": "no_space", "disk": "vda", "message": "There is no room."},
        {"code": "monitor_busy", "disk": None, "message": "Somebody has it."},
    ]
    end(db, refused, later, {"reasons": reasons})
    db.execute(
        "update snapshots set status = 'invalid', reason = 'written into'"
        " where name = 's2'"
    )


def end(db: Database, key: RunKey, author: Author, detail: dict[str, Any]) -> None:
    runs.move(db, key, "validate", "refuse", "refused", author, detail, final=True)


def test_every_table_and_query_has_a_page_that_says_what_it_is(opened: Opened) -> None:
    status, index = opened.get("/journal")
    assert status == 200
    for question in QUESTIONS:
        assert f'href="/journal/{question.name}"' in index
        status, page = opened.get(f"/journal/{question.name}?run=0")
        assert status == 200
        assert question.title.replace("'", "&#39;") in page
    for name, table in TABLES.items():
        status, page = opened.get(f"/journal/{name}")
        assert status == 200
        for column, says in table.columns.items():
            assert f"<dt>{column}</dt><dd>{escaped(says)}</dd>" in page, (name, column)


def escaped(text: str) -> str:
    for plain, entity in (("&", "&amp;"), ("'", "&#39;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(plain, entity)
    return text


def test_open_runs_have_their_last_row(opened: Opened) -> None:
    (row,) = opened.rows("open_runs")

    assert (row["id"], row["domain"], row["generation"]) == (OPEN, "db", 2)
    assert (row["last_was"], row["last_by"]) == ("commit_per_disk/alarm", "you@here:2")


def test_the_story_of_a_run_is_all_that_the_journal_has(opened: Opened) -> None:
    run = opened.deletion.id
    rows = opened.rows("story", run=run[:6])

    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    assert (rows[0]["trigger"], rows[0]["since_seconds"]) == ("claim", 0)
    edges = [row["dest"] for row in rows if row["kind"] == "edge"]
    assert edges[0] == "prepare" and edges[-1] == "completed"
    assert {row["disk"] for row in rows if row["machine"] == "fold"} == {"vda"}
    seconds = opened.deletion.seconds
    assert seconds is not None
    assert rows[-1]["since_seconds"] == pytest.approx(seconds, abs=0.002)


def test_states_are_ranked_by_the_time_that_they_took(opened: Opened) -> None:
    rows = opened.rows("slowest_states")
    totals = [row["total_seconds"] for row in rows]
    by_state = {(row["machine"], row["state"]): row for row in rows}

    assert totals == sorted(totals, reverse=True)
    first = by_state["deletion", "validate"]
    # The open one took ten seconds, the others two or less.
    assert (first["times"], first["longest_run"]) == (6, OPEN)
    assert first["longest_seconds"] == 10
    assert by_state["creation", "planned"]["times"] == 2
    assert ("deletion", "commit_per_disk") in by_state


def test_downtime_is_summed_up_by_domain(opened: Opened) -> None:
    assert opened.rows("downtime_per_domain") == [
        {
            "domain": "db2",
            "deletions": 1,
            "total_ms": 412.5,
            "longest_ms": 412.5,
            "longest_deletion": ROLLED,
        }
    ]


def test_what_failed_says_why(opened: Opened) -> None:
    (row,) = opened.rows("rollbacks")

    assert (row["id"], row["state"], row["domain"]) == (ROLLED, "rolled_back", "db2")
    assert row["reason"] == "<b>no space</b>"


def test_a_refusal_has_a_row_for_each_reason(opened: Opened) -> None:
    rows = opened.rows("refusals")

    assert {row["id"] for row in rows} == {REFUSED}
    assert [(row["code"], row["disk"], row["message"]) for row in rows] == [
        ("no_space", "vda", "There is no room."),
        ("monitor_busy", None, "Somebody has it."),
    ]


def test_invalid_snapshots_say_why(opened: Opened) -> None:
    (row,) = opened.rows("invalid_snapshots")

    assert (row["domain"], row["name"], row["reason"]) == ("web", "s2", "written into")


def test_takeovers_name_both_engines(opened: Opened) -> None:
    (row,) = opened.rows("takeovers")

    assert (row["run"], row["state"]) == (OPEN, "commit_per_disk")
    assert (row["taken_over_by"], row["from_whom"]) == (
        "you@here:2",
        "root@elsewhere:4711",
    )
    assert row["silent_since"] < row["at"]


def test_superseded_images_name_the_one_that_has_their_data(opened: Opened) -> None:
    """A stream goes up, a commit down, in every pass."""
    (disk,) = opened.deletion.disks
    held_by = disk.top if disk.strategy == "stream" else disk.base
    rows = opened.rows("superseded_images")
    found = {(row["deletion"], row["superseded"], row["held_by"]) for row in rows}

    assert found == {
        (opened.deletion.id, disk.superseded[0], held_by),
        ("000000000003", "/db4/vda.1", "/db4/vda.2"),
        ("000000000003", "/db4/vdb.2", "/db4/vdb.1"),
        ("000000000004", "/db5/vda.1", "/db5/vda.2"),
        ("000000000004", "/db5/vdb.2", "/db5/vdb.1"),
    }
    assert len(rows) == 5 and len(disk.superseded) == 1
    assert not Path(disk.superseded[0]).exists() and Path(held_by).exists()


def test_alarms_are_shown_as_text(opened: Opened) -> None:
    """What QEMU or an attacker said is nothing that a browser acts on."""
    (row,) = opened.rows("alarms")

    assert row["what"] == "vote: <b>QEMU</b> does not answer"
    for page in ("alarms", "rollbacks", "transitions", "deletions"):
        text = opened.get(f"/journal/{page}")[1]
        assert "&lt;b&gt;" in text and "<b>QEMU" not in text and "<b>no" not in text


def test_datasette_has_the_file_open_for_reading_only(opened: Opened) -> None:
    """SQLite refuses, whatever a plugin or a query would like to do."""
    database = opened.datasette.get_database("journal")

    def write(db: sqlite3.Connection) -> None:
        try:
            db.execute("delete from domains")
        finally:
            # Or this thread would see what is there now for ever.
            db.rollback()

    async def main() -> None:
        await database.execute_fn(write)

    with pytest.raises(sqlite3.OperationalError, match="readonly database"):
        asyncio.run(main())
    assert opened.get("/journal.db")[0] == 403


def test_what_an_engine_writes_meanwhile_is_seen(opened: Opened) -> None:
    """Of a database that Datasette takes for immutable it would not be."""
    image = opened.journal.parent / "other.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    page = "/journal/domains.json?_shape=array&_col=name"

    async def main() -> list[str]:
        async with Engine(opened.journal, managed=dict) as engine:
            await engine.add_domain("other", [Disk("vda", str(image), "qcow2")])
            answer = await opened.datasette.client.get(page)
            return [row["name"] for row in answer.json()]

    assert asyncio.run(main()) == ["other", "web"]
