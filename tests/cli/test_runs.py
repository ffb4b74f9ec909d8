"""Deletions from the command line: done, refused, interrupted, given up."""

from __future__ import annotations

import fcntl
import os
import signal

from backfold.engine.demo.guest import qemu_img
from backfold.engine.demo.machine import Machine
from backfold.journal.locks import LOCK_DIRECTORY
from cli.command import PATIENCE, Cli, Terminal, disks, parsed, stop, wait_for_line
from cli.conftest import SLOW, Inside


def test_a_running_domain_with_json(cli: Cli, inside: Inside) -> None:
    images = [("vda", cli.folder / "vda.qcow2"), ("vdb", cli.folder / "vdb.qcow2")]
    for _, path in images:
        qemu_img("create", "-q", "-f", "qcow2", path, "16M")
    machine = Machine(cli.folder, [(t, p, "qcow2") for t, p in images], pause=2000)
    with machine:
        monitor = ["--monitor", str(machine.monitor)]
        inside("domain", "add", "web", *disks(images), *monitor)
        inside("snapshot", "create", "web", "s1")
        machine.wait_for_writes(50)
        downtime = ["--max-downtime", "5000"]
        lines = cli.lines("event", "delete", "web", "s1", "--yes", *downtime)
        machine.wait_for_writes(50)
    *events, result = lines
    states = [line["state"] for line in events if line["event"] == "state"]
    ids = {line["deletion"] for line in lines}

    assert states[:3] == ["validate", "prepare", "commit_per_disk"]
    assert states[-3:] == ["pivot", "update_metadata", "completed"]
    assert {e["disk"] for e in events if e["event"] == "progress"} == {"vda", "vdb"}
    assert [e["from"] for e in events if e["event"] == "state"] == [None, *states[:-1]]
    assert [e["downtime_ms"] for e in events if e["event"] == "downtime"][-1:] == [
        result["downtime_ms"]
    ]
    assert len(ids) == 1
    assert result["event"] == "result"
    assert (result["state"], result["error"]) == ("completed", None)
    assert [(d["target"], d["state"]) for d in result["disks"]] == [
        ("vda", "retired"),
        ("vdb", "retired"),
    ]
    assert [d["base"] for d in result["disks"]] == [str(path) for _, path in images]
    assert 0 < result["downtime_ms"] < 5000
    assert not (cli.folder / "vda.s1").exists()

    status = inside.json("status", "status")
    assert [run["deletion"] for run in status["deletions"]] == list(ids)
    (run,) = ids
    log = cli.json("log", "log", run[:4])
    assert (log["run"], log["machine"]) == (run, "deletion")
    assert log["log"][0]["offset"] == 0
    assert [row["to"] for row in log["log"] if row["trigger"] == "decide"] == ["pivot"]
    late = inside.json("result", "cancel", run, status=1)
    assert late["error"]["code"] == "already_completed"
    assert inside.json("result", "recover", run)["state"] == "completed"


def test_a_domain_that_is_off(slow: Cli, inside: Inside) -> None:
    done = slow.run("delete", "web", "s1", "--yes")
    run = done.stdout.splitlines()[0].split()[2]

    assert "starting a paused QEMU" in done.stdout
    assert f"vda: boots from {slow.folder / 'vda.qcow2'} now" in done.stdout
    assert "Deleted snapshot s1 of web" in done.stdout
    assert "completed" in inside("status").out
    assert "retired" in inside("status", run[:5]).out
    steps = inside("log", run, "--steps").out
    assert "vote → pivot" in steps
    assert "vdb: copying → converged" in steps
    assert "* Decided for vda, vdb: only forward from here." in inside("log", run).out
    assert inside("recover").out == "Nothing is interrupted.\n"
    assert "has no snapshots" in inside("snapshot", "list", "web").err


def test_a_timeout_rolls_back(slow: Cli, inside: Inside) -> None:
    options = ["--yes", *SLOW, "--timeout", "0.3"]
    result = slow.lines("event", "delete", "web", "s1", *options, status=5)[-1]

    assert result["state"] == "rolled_back"
    assert result["reason"]
    assert result["error"]["code"] == "rolled_back"
    found = inside.json("snapshot", "snapshot", "show", "web", "s1")
    assert found["status"] in ("valid", "invalid")


def test_interrupted_busy_and_rolled_back(slow: Cli, inside: Inside) -> None:
    running = slow.start("delete", "web", "s1", "--yes", *SLOW)
    wait_for_line(running, "copying")

    # Somebody else has it: status 4, for whatever wants it.
    busy = inside.json("event", "delete", "web", "s1", "--yes", status=4)
    assert busy["error"]["code"] == "busy"
    (open_run,) = inside.json("status", "status")["deletions"]
    assert open_run["open"]
    assert open_run["state"] == "commit_per_disk"
    assert "(open)" in inside("status").out

    _, said = stop(running, signal.SIGTERM)
    assert running.returncode == 6
    assert f"backfold recover {open_run['deletion']}" in said
    assert "Traceback" not in said

    # It is in nobody's way any more, but still open: refused.
    refused = inside.json("event", "delete", "web", "s1", "--yes", status=3)
    assert [reason["code"] for reason in refused["reasons"]] == ["deletion_open"]
    assert refused["state"] == "refused"

    recovering = slow.start("--json", "recover")
    wait_for_line(recovering, "progress")
    out, _ = stop(recovering, signal.SIGINT)
    assert recovering.returncode == 6, out
    assert parsed("event", out)[-1]["error"]["code"] == "interrupted"

    given_up = inside.json("event", "recover", "--roll-back")
    assert given_up["state"] == "rolled_back"
    assert given_up["error"] is None
    assert not inside.json("status", "status")["deletions"][0]["open"]


def test_killed_and_recovered(slow: Cli, inside: Inside) -> None:
    running = slow.start("delete", "web", "s1", "--yes", "--bandwidth", "8M")
    wait_for_line(running, "copying")
    stop(running, signal.SIGKILL)
    lines = slow.lines("event", "recover")

    assert (lines[-1]["event"], lines[-1]["state"]) == ("result", "completed")
    assert lines[-1]["snapshot"] == "s1"
    assert inside("--json", "recover").out == ""


def test_cancel_reaches_the_one_who_works_on_it(slow: Cli, inside: Inside) -> None:
    running = slow.start("--json", "delete", "web", "s1", "--yes", *SLOW)
    (line,) = parsed("event", wait_for_line(running, "commit_per_disk")[-1])
    cancelled = inside.json("result", "cancel", line["deletion"])
    out, _ = running.communicate(timeout=PATIENCE)

    assert cancelled["state"] == "rolled_back"
    assert running.returncode == 5
    assert parsed("event", out)[-1]["error"]["code"] == "rolled_back"


def test_a_lock_of_somebody_else_is_status_4(slow: Cli, inside: Inside) -> None:
    before = slow.content()
    found = os.stat(slow.folder / "vdb.s1")
    LOCK_DIRECTORY.mkdir(mode=0o1777, exist_ok=True)
    with open(LOCK_DIRECTORY / f"{found.st_dev}-{found.st_ino}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for command in (
            ["delete", "web", "s1", "--yes"],
            ["snapshot", "create", "web", "s2"],
        ):
            assert "Another Backfold" in inside(*command, status=4).err
    assert slow.content() == before


# On a terminal


def test_a_terminal_is_asked_and_shows_a_bar(slow: Cli) -> None:
    before = slow.content()
    declined = Terminal(slow, "delete", "web", "s1")
    declined.read_until("[y/N]")
    assert declined.finish("n\n") == 1
    assert "Nothing was changed" in declined.seen
    assert slow.content() == before

    accepted = Terminal(slow, "delete", "web", "s1", "--bandwidth", "8M")
    accepted.read_until("[y/N]")
    assert "Delete snapshot s1 of web (the domain is off)" in accepted.seen
    assert accepted.finish("y\n") == 0
    assert "━" in accepted.seen
    assert "8.0 MiB of 8.0 MiB" in accepted.seen
    assert "100 %" in accepted.seen
    assert "Deleted snapshot s1 of web" in accepted.seen


def test_a_tree_of_snapshots_on_a_terminal(web: Cli, inside: Inside) -> None:
    for name in ("s1", "s2"):
        inside("snapshot", "create", "web", name)
    listed = Terminal(web, "snapshot", "list", "web")

    assert listed.finish("") == 0
    assert "└─ s2" in listed.seen
    assert "valid, current" in listed.seen
