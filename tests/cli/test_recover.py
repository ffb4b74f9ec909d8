"""`backfold recover` as an operator meets it: what is open, why it is safe, the end.

The runs are killed in a process of their own; everything else is the real command.
"""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from backfold.engine.demo.guest import qemu_img
from cli.command import (
    PATIENCE,
    Cli,
    Terminal,
    disks,
    kill_at,
    parsed,
    stop,
    wait_for_line,
)
from cli.conftest import Inside

#: So slow that copying `LENGTH` takes longer than any test waits.
SLOW = ["--bandwidth", "64K"]
LENGTH = 8 << 20


def write(image: Path) -> None:
    """Put data into an image that nobody has open."""
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {LENGTH}", str(image)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def filled(web: Cli, inside: Inside) -> Cli:
    """A domain that is off, with a snapshot that has something above it."""
    inside("snapshot", "create", "web", "s1")
    for target in ("vda", "vdb"):
        write(web.folder / f"{target}.s1")
    return web


def reads_seven(image: Path) -> bool:
    """Whether the data of `write` is in an image or below it."""
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P 7 0 {LENGTH}"]
    done = subprocess.run(
        [*command, str(image)], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and "verification failed" not in done.stdout


def around(journal: Path) -> dict[str, bytes]:
    """The journal's files, byte for byte. Its index of the log is memory, not data."""
    return {
        path.name: path.read_bytes()
        for path in journal.parent.iterdir()
        if not path.name.endswith("-shm")
    }


def test_a_dry_run_says_what_and_why_and_writes_nothing(filled: Cli) -> None:
    kill_at(filled, "delete", "s1", "vote.fence.done", "helper,self")
    before = around(filled.journal)
    images = {path: path.read_bytes() for path in filled.folder.glob("vd*")}
    (seen,) = filled.lines("event", "recover", "--dry-run", status=6)
    text = filled.run("recover", "--dry-run", status=6).stdout

    assert around(filled.journal) == before
    assert {path: path.read_bytes() for path in filled.folder.glob("vd*")} == images
    assert (seen["event"], seen["machine"]) == ("outlook", "deletion")
    assert (seen["domain"], seen["snapshot"]) == ("web", "s1")
    assert (seen["state"], seen["decided"], seen["held"]) == ("vote", False, None)
    assert "1 run is interrupted." in text
    assert f"deletion {seen['run']} of snapshot s1 of web" in text
    for word in ("since", "state", "happened", "will", "safe"):
        assert f"\n  {word} " in text
    assert "Nothing is decided" in text
    assert seen["safe"] in text

    done = filled.run("recover")
    assert text.strip() in done.stdout
    assert f"verdict  {seen['run']}  s1 of web  completed" in done.stdout
    assert done.stdout.endswith("Nothing is left open.\n")
    assert filled.lines("event", "recover", "--dry-run") == []
    for target in ("vda", "vdb"):
        assert reads_seven(filled.folder / f"{target}.qcow2")
        assert not (filled.folder / f"{target}.s1").exists()


def test_json_tells_the_outlook_first_and_the_result_last(filled: Cli) -> None:
    kill_at(filled, "delete", "s1", "vote.decide.noted", "helper,self")
    lines = filled.lines("event", "recover")

    assert lines[0]["event"] == "outlook"
    assert (lines[0]["state"], lines[0]["decided"]) == ("pivot", True)
    assert "Go forward only" in lines[0]["will"][0]
    assert lines[1]["event"] == "state"
    assert (lines[-1]["event"], lines[-1]["state"]) == ("result", "completed")
    assert lines[-1]["deletion"] == lines[0]["run"]
    assert reads_seven(filled.folder / "vda.qcow2")


def test_a_roll_back_is_told_before_and_after(filled: Cli) -> None:
    kill_at(filled, "delete", "s1", "vote.fence.done", "helper,self")
    done = filled.run("recover", "--roll-back")

    assert "will      Give it up" in done.stdout
    assert "s1 of web  rolled back: a roll back was asked for" in done.stdout
    assert "Nothing is left open." in done.stdout
    for target in ("vda", "vdb"):
        assert reads_seven(filled.folder / f"{target}.s1")


def test_no_roll_back_after_the_decision(filled: Cli, inside: Inside) -> None:
    kill_at(filled, "delete", "s1", "vote.decide.noted", "helper,self")
    refused = filled.run("recover", "--roll-back", status=6)

    assert "will      Refuse to roll back" in refused.stdout
    assert "is past its decision" in refused.stderr
    assert "s1 of web  still open in pivot. Next: `backfold recover" in refused.stdout
    assert "1 run left open" in refused.stdout
    assert "completed" in filled.run("recover").stdout
    assert reads_seven(filled.folder / "vda.qcow2")
    (deletion,) = inside.json("status", "status")["deletions"]
    story = inside("log", deletion["deletion"]).out
    assert " * Decided for vda, vdb: only forward from here.\n" in story
    assert re.search(
        r" ! Another engine, \S+, took over after .* without a word", story
    )
    assert "No QEMU has the guest any more" in story
    proved = "Proved by the images, with no QEMU: what the guest wrote is in "
    assert f"{proved}vda.qcow2, vdb.qcow2." in story


def test_a_creation_that_was_interrupted(web: Cli) -> None:
    kill_at(web, "create", "s1", "planned.make_overlays.done", "self")
    text = web.run("recover", "--dry-run", status=6).stdout
    done = web.run("recover", status=5)

    assert "creation " in text
    assert "A snapshot of vda, vdb was being taken." in text
    assert "will      Remove the new overlays" in text
    assert "s1 of web  undone" in done.stdout
    assert not list(web.folder.glob("*.s1"))


def test_the_second_of_two_recoveries_says_who_is_busy(filled: Cli) -> None:
    running = filled.start("delete", "web", "s1", "--yes", *SLOW)
    wait_for_line(running, "copying")
    stop(running, signal.SIGKILL)
    first = filled.start("recover")
    wait_for_line(first, "copying")
    second = filled.run("recover", status=4)
    result = filled.lines("event", "recover", status=4)[-1]

    assert f"(pid {first.pid}: " in second.stderr
    assert "recover) is working on this domain" in second.stderr
    assert "s1 of web  still open in commit per disk" in second.stdout
    assert result["error"]["code"] == "busy"
    assert first.poll() is None
    out, _ = stop(first, signal.SIGTERM)
    assert first.returncode == 6
    assert "1 run left open" in out
    filled.run("recover", "--roll-back")


def test_the_worst_of_several_runs_is_the_exit_status(
    filled: Cli, inside: Inside
) -> None:
    """One that somebody works on, and one that is completed all the same."""
    other = filled.folder / "other.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", other, "16M")
    inside("domain", "add", "mail", *disks({"vda": other}))
    inside("snapshot", "create", "mail", "m1")
    write(filled.folder / "other.m1")
    busy = filled.start("delete", "mail", "m1", "--yes", *SLOW)
    wait_for_line(busy, "copying")
    kill_at(filled, "delete", "s1", "vote.fence.done", "helper,self")
    done = filled.run("recover", status=4)

    assert "2 runs are interrupted." in done.stdout
    assert "s1 of web   completed" in done.stdout
    assert "m1 of mail  still open" in done.stdout
    stop(busy, signal.SIGTERM)
    lines = filled.lines("event", "recover", "--roll-back")
    assert [line["state"] for line in lines if line["event"] == "result"] == [
        "rolled_back"
    ]


def test_a_run_that_is_finished_already(filled: Cli, inside: Inside) -> None:
    result = inside.json("event", "delete", "web", "s1", "--yes")
    again = filled.run("recover", result["deletion"])
    told = parsed("event", filled.run("--json", "recover", result["deletion"]).stdout)

    assert "Deleted snapshot s1 of web" in again.stdout
    assert "verdict" not in again.stdout
    assert [line["event"] for line in told] == ["result"]


def test_a_terminal_shows_a_bar(filled: Cli) -> None:
    running = filled.start("delete", "web", "s1", "--yes", "--bandwidth", "8M")
    wait_for_line(running, "copying")
    stop(running, signal.SIGKILL)
    shown = Terminal(filled, "recover")

    assert shown.finish("") == 0
    assert shown.process.wait(PATIENCE) == 0
    assert "━" in shown.seen
    assert "1 run is interrupted." in shown.seen
    assert "Nothing is left open." in shown.seen
