"""A journal that 0.1.0 wrote is brought to this version, and its run is finished."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from pathlib import Path

from backfold.engine.demo.guest import qemu_img
from cli.command import Cli
from cli.conftest import Inside

FIXTURE = Path(__file__).parent / "data" / "journal-0.1.0.sql"
RUN = "c883f16bcb35"


def bring_back(cli: Cli) -> None:
    """The images as they were, and the journal with their identities."""
    base, top = cli.folder / "vda.qcow2", cli.folder / "vda.s1"
    qemu_img("create", "-q", "-f", "qcow2", base, "64M")
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
    command = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 8M", str(top)]
    subprocess.run(command, check=True, capture_output=True)
    text = FIXTURE.read_text()
    text = text.replace("@FOLDER@", str(cli.folder))
    text = text.replace("@DEVICE@", str(os.stat(base).st_dev))
    for image in (base, top):
        text = text.replace(f"@INODE:{image.name}@", str(os.stat(image).st_ino))
    assert not re.search(r"@[A-Z]+[@:]", text)
    cli.journal.parent.mkdir(mode=0o700)
    with sqlite3.connect(cli.journal) as db:
        db.execute("pragma journal_mode = wal")
        db.executescript(text)
    db.close()
    cli.journal.chmod(0o600)


def applied(cli: Cli) -> set[str]:
    with sqlite3.connect(cli.journal) as db:
        rows = db.execute("select name from _sqlite_migrations").fetchall()
    db.close()
    return {name for (name,) in rows}


def test_a_dry_run_reads_it_and_leaves_it_old(cli: Cli, inside: Inside) -> None:
    bring_back(cli)
    before = cli.journal.read_bytes()
    (seen,) = cli.lines("event", "recover", "--dry-run", status=6)

    assert (seen["run"], seen["state"]) == (RUN, "commit_per_disk")
    assert seen["started"].startswith("2026-")
    assert cli.journal.read_bytes() == before
    assert applied(cli) == {"version_1"}
    story = inside("log", RUN).out
    assert f"`backfold recover {RUN}` finishes it." in story
    assert "All checks passed: 8.0 MiB to copy on 1 disk; the domain is off." in story
    assert "Started a helper, a paused QEMU without a guest." in story
    assert applied(cli) == {"version_1"}


def test_its_open_deletion_is_completed(cli: Cli) -> None:
    bring_back(cli)
    result = cli.lines("event", "recover")[-1]
    base = str(cli.folder / "vda.qcow2")
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", "read -P 7 0 8M", base]
    read = subprocess.run(command, capture_output=True, text=True, check=True)

    assert (result["deletion"], result["state"]) == (RUN, "completed")
    assert "verification failed" not in read.stdout
    assert not (cli.folder / "vda.s1").exists()
    assert cli.json("snapshot-list", "snapshot", "list", "web")["snapshots"] == []
    assert "version_1" in applied(cli)


def test_its_open_deletion_can_be_given_up(cli: Cli) -> None:
    bring_back(cli)
    result = cli.lines("event", "recover", "--roll-back")[-1]
    (disk,) = cli.json("domain", "domain", "show", "web")["disks"]

    assert (result["deletion"], result["state"]) == (RUN, "rolled_back")
    assert disk["source"] == str(cli.folder / "vda.s1")
