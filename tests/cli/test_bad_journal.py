"""Journals that recovery must not use: reported, never guessed at, never written.

Each begins as the journal of a deletion that was killed together with its helper
while the active images were fenced, with its last rows in the log.
"""

from __future__ import annotations

import hashlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.guest import qemu_img
from cli.command import Cli, disks, kill_at, parsed
from cli.conftest import Inside

POINT = "vote.fence.done"


def fingerprints(folder: Path) -> dict[str, str]:
    """Every file below a folder: images, and the journal with all its companions."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="session")
def killed(tmp_path_factory: pytest.TempPathFactory, bytecode: Path) -> Cli:
    """Killed with its images fenced; the row of the hold is in the log only.

    Made once. Nothing may change its images, and tests have a journal of their own.
    """
    return kill_when_fenced(Cli(tmp_path_factory.mktemp("killed"), bytecode))


def with_a_snapshot(cli: Cli) -> Cli:
    made = {}
    for target in ("vda", "vdb"):
        made[target] = cli.folder / f"{target}.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", made[target], "16M")
    cli.run("domain", "add", "web", *disks(made))
    cli.run("snapshot", "create", "web", "s1")
    return cli


def kill_when_fenced(cli: Cli) -> Cli:
    kill_at(with_a_snapshot(cli), "delete", "s1", POINT, "helper,self")
    # The index of the log is memory that was mapped, not data.
    cli.journal.with_name("journal.db-shm").unlink(missing_ok=True)
    return cli


@pytest.fixture
def fenced(killed: Cli, cli: Cli) -> Cli:
    """A journal of its own, over the images that were left behind."""
    shutil.copytree(killed.journal.parent, cli.journal.parent)
    assert log(cli).stat().st_size > 0
    return cli


def log(cli: Cli) -> Path:
    return cli.journal.with_name("journal.db-wal")


def run_id(killed: Cli) -> str:
    (fence,) = killed.folder.glob("vda.s1.backfold-*")
    return fence.name.rpartition("-")[2]


def diagnosed(inside: Inside, code: str, *folders: Path) -> dict[str, Any]:
    """What recover says, in both forms; nothing at all is written by it."""
    before = [fingerprints(folder) for folder in folders]
    told = parsed("event", inside("--json", "recover", status=6).out)
    said = inside("recover", status=6)
    dry = inside("recover", "--dry-run", status=6)

    assert [(line["event"]) for line in told] == ["diagnosis", "result"]
    assert told[0]["code"] == told[1]["error"]["code"] == code
    assert said.out == dry.out == ""
    assert said.err == dry.err
    assert said.err.startswith("backfold: The journal ")
    assert "\n  next: " in said.err
    assert "What can still be read" in said.err
    assert [fingerprints(folder) for folder in folders] == before
    return told[0]


def test_a_database_without_its_log_is_older_than_the_disks(
    killed: Cli, fenced: Cli, inside: Inside
) -> None:
    log(fenced).unlink()
    seen = diagnosed(inside, "journal_older", killed.folder, fenced.folder)

    assert (seen["found"], seen["open"]) == ([], [])
    assert {fence["run"] for fence in seen["fences"]} == {run_id(killed)}
    assert [fence["image"] for fence in seen["fences"]] == [
        str(killed.folder / f"{target}.s1") for target in ("vda", "vdb")
    ]
    # Nothing else is begun on these images either.
    images = fingerprints(killed.folder)
    refused = inside.json("event", "delete", "web", "s1", "--yes", status=3)
    assert {reason["code"] for reason in refused["reasons"]} == {"missing_image"}
    assert fingerprints(killed.folder) == images


def test_a_backup_from_before_the_fence_is_older_than_the_disks(
    cli: Cli, inside: Inside
) -> None:
    """It knows the deletion, but not that it has come so far."""
    with_a_snapshot(cli)
    kill_at(cli, "delete", "s1", "commit_per_disk.start_job.noted", "helper,self")
    backup = cli.folder / "backup"
    shutil.copytree(cli.journal.parent, backup)
    kill_at(cli, "recover", "s1", POINT, "helper,self")
    shutil.rmtree(cli.journal.parent)
    shutil.copytree(backup, cli.journal.parent)
    seen = diagnosed(inside, "journal_older", cli.folder)

    assert [run["run"] for run in seen["open"]] == [run_id(cli)]
    assert [run["state"] for run in seen["open"]] == ["commit_per_disk"]
    assert [disk["target"] for disk in seen["open"][0]["disks"]] == ["vda", "vdb"]


def test_a_log_of_another_journal(
    killed: Cli, fenced: Cli, inside: Inside, bytecode: Path
) -> None:
    """SQLite replays it without an error; the history that it takes away tells."""
    (fenced.folder / "other").mkdir()
    other = kill_when_fenced(Cli(fenced.folder / "other", bytecode))
    shutil.copy(log(other), log(fenced))
    seen = diagnosed(inside, "journal_damaged", killed.folder, fenced.folder)

    assert seen["found"]


def noise(good: bytes) -> bytes:
    half = len(good) // 2
    return good[:4096] + random.Random(7).randbytes(half) + good[4096 + half :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: b"",
        lambda good: b"not a journal at all\n" * 400,
        lambda good: good[:100],
        lambda good: good[: len(good) // 2],
        lambda good: good[:-4096],
        noise,
    ],
    ids=["empty", "text", "header only", "half", "last page gone", "noise"],
)
def test_a_damaged_database(
    killed: Cli, fenced: Cli, inside: Inside, damage: Callable[[bytes], bytes]
) -> None:
    """The database is damaged and its log was lost with the machine."""
    with sqlite3.connect(fenced.journal) as db:
        db.execute("pragma wal_checkpoint(truncate)")
    db.close()
    log(fenced).unlink(missing_ok=True)
    fenced.journal.with_name("journal.db-shm").unlink(missing_ok=True)
    fenced.journal.write_bytes(damage(fenced.journal.read_bytes()))
    seen = diagnosed(inside, "journal_damaged", killed.folder, fenced.folder)

    assert seen["found"]


def test_an_empty_database_beside_its_log(
    killed: Cli, fenced: Cli, inside: Inside
) -> None:
    fenced.journal.write_bytes(b"")
    seen = diagnosed(inside, "journal_damaged", killed.folder, fenced.folder)

    assert seen["found"] == ["the file is empty, but its log is not"]


@pytest.mark.parametrize(
    "change",
    [
        "update deletions set state = 'pivot'",
        "drop trigger transitions_stay;"
        " delete from transitions where trigger = 'proceed'",
        "drop trigger transitions_stay;"
        " delete from transitions where id = (select max(id) - 1 from transitions)",
        "pragma foreign_keys = off; delete from declared_transitions",
    ],
    ids=["state", "edges", "a hole", "declarations"],
)
def test_rows_that_contradict_each_other(
    killed: Cli, fenced: Cli, inside: Inside, change: str
) -> None:
    """Sound for SQLite, and still not what any Backfold has written."""
    with sqlite3.connect(fenced.journal) as db:
        db.executescript(change)
    db.close()
    seen = diagnosed(inside, "journal_damaged", killed.folder, fenced.folder)

    assert seen["found"]
    assert [run["run"] for run in seen["open"]] == [run_id(killed)]


def test_a_newer_version_is_refused_and_what_it_says_is_shown(
    killed: Cli, fenced: Cli, inside: Inside
) -> None:
    with sqlite3.connect(fenced.journal) as db:
        db.execute(
            "insert into _sqlite_migrations (migration_set, name, applied_at)"
            " values ('backfold', 'version_999', '2030-01-01')"
        )
    db.close()
    seen = diagnosed(inside, "journal_newer", killed.folder, fenced.folder)

    assert [run["run"] for run in seen["open"]] == [run_id(killed)]
    assert [disk["state"] for disk in seen["open"][0]["disks"]] == ["converged"] * 2
    assert {disk["target"] for disk in seen["disks"]} == {"vda", "vdb"}
    text = inside("recover", status=6).err
    assert f"deletion {run_id(killed)} of snapshot s1 of web, in vote" in text
