"""What a person sees and may do at a terminal while a run goes on."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backfold.engine import following
from backfold.engine.demo.guest import qemu_img
from backfold.engine.demo.machine import Machine
from cli.command import COMMAND, Cli, Terminal, disks, parsed, wait_for_line
from cli.conftest import SLOW, Inside

AT_THE_DECISION: list[str | Path] = [
    sys.executable,
    Path(__file__).with_name("at_the_decision.py"),
]
CTRL_C = "\x03"
CTRL_Z = "\x1a"
QUESTION = "Nothing is decided yet"


def test_ctrl_c_asks_and_others_watch(slow: Cli, inside: Inside) -> None:
    shown = Terminal(slow, "delete", "web", "s1", "--yes", *SLOW, width=80)
    shown.wait_for("s1 of web: copying", "vda ━", "of 8.0 MiB")
    (run,) = inside.json("status", "status")["deletions"]
    watched = Terminal(slow, "status", "--watch", width=60)
    lines = slow.start("--json", "status", "--watch", run["deletion"][:5])
    calm = slow.start("status", "--watch", run["deletion"])
    left = Terminal(slow, "status", "--watch")
    watched.wait_for("s1 of web: copying", "vda ━")
    left.wait_for("s1 of web: copying")
    heard = wait_for_line(lines, "progress")
    wait_for_line(calm, "copying")

    # Whoever leaves only stops to look.
    assert left.finish(CTRL_C) == 1
    assert "goes on with it" in left.seen

    # It asks below the bars. Enter is an answer, and so is none.
    shown.type(f"lll{CTRL_C}")
    shown.wait_for(QUESTION, "roll it back", "backfold recover", "vda ━")
    shown.resize(40, 24)
    shown.wait_for(QUESTION.split()[0], "vda ━")
    shown.resize(80, 30)
    shown.type("x\n")
    shown.wait(lambda: QUESTION not in shown.screen)
    shown.type(CTRL_Z)
    shown.wait_for("not suspended")
    shown.type(CTRL_C)
    shown.wait_for(QUESTION)
    assert shown.finish("r") == 0
    assert f"Rolled back the deletion {run['deletion']} of snapshot s1" in shown.screen

    # The others have seen it, too.
    assert watched.finish() == 5
    assert "rolling back" in watched.seen
    out, _ = lines.communicate()
    *events, result = parsed("event", "".join(heard) + out)
    assert lines.returncode == 5
    assert [e["state"] for e in events if e["event"] == "state"] == [
        *("commit_per_disk", "roll_back", "rolled_back")
    ]
    assert {e["disk"] for e in events if e["event"] == "progress"} <= {"vda", "vdb"}
    assert (result["event"], result["state"]) == ("result", "rolled_back")
    out, errors = calm.communicate()
    assert (calm.returncode, errors) == (5, "")
    assert "rolling back" in out and not set("\x1b\r\x07") & set(out)
    assert inside("status", "--watch").err == "No deletion is open.\n"
    assert "exclude each other" in inside("status", "--watch", "--all", status=2).err


def test_leaving_it_and_coming_back(
    slow: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A terminal that can move nothing is asked in lines. A second Ctrl-C is an
    # answer: leave it.
    dumb = Terminal(slow, "delete", "web", "s1", "--yes", *SLOW, term="dumb")
    dumb.read_until("copying")
    dumb.type(CTRL_C)
    dumb.read_until("Enter  let it go on")
    assert dumb.finish(CTRL_C) == 6
    assert "\x1b" not in dumb.seen
    (run,) = inside.json("status", "status")["deletions"]
    assert run["open"]
    assert f"backfold recover {run['deletion']}" in dumb.seen

    # State and bytes of a run that is gone on with are known at once.
    again = Terminal(slow, "recover", run["deletion"], width=40)
    again.wait_for("s1 of web: copying", "vda ━")
    again.type(CTRL_C)
    again.wait_for("goes on while\nyou choose.")
    assert again.finish("L") == 6
    assert "safe point" in again.seen

    # Programs are not asked.
    told = Terminal(slow, "--json", "recover")
    told.read_until("progress")
    assert told.finish(CTRL_C) == 6
    # The terminal itself says ^C wherever a line begins.
    lines = [line.removeprefix("^C") for line in told.seen.splitlines()]
    assert parsed("event", "\n".join(lines))[-1]["error"]["code"] == "interrupted"
    assert QUESTION not in told.seen and "\x1b" not in told.seen

    # The terminal is as it was even if its line breaks while it is asked.
    broken = Terminal(slow, "recover")
    broken.wait_for("s1 of web: copying", "vda ━")
    broken.type(CTRL_C)
    broken.wait_for("goes on while you choose")
    assert broken.modes_now() != broken.modes
    broken.process.send_signal(signal.SIGHUP)
    assert broken.finish() == 6

    # Nobody works on it: watching it ends by itself, and says what helps.
    monkeypatch.setattr(following, "PATIENCE", 0.0)
    said = inside("status", "--watch", status=6)
    assert f"backfold recover {run['deletion']}" in said.err
    result = inside.json("event", "status", "--watch", run["deletion"], status=6)
    assert result["error"]["code"] == "interrupted"
    inside("recover", "--roll-back")


def test_there_is_no_way_back_after_the_decision(
    slow: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", str(slow.folder))
    shown = Terminal(slow, "delete", "web", "s1", "--yes", program=AT_THE_DECISION)
    shown.wait_for("decided, switching")
    shown.type(CTRL_C)
    shown.wait_for("there is no way back", "Press Ctrl-C again")
    for process in psutil.process_iter(["cmdline"]):
        if str(slow.folder) in " ".join(process.info["cmdline"] or ()):
            process.send_signal(signal.SIGCONT)

    assert shown.finish() == 0
    assert QUESTION not in shown.seen
    assert inside.json("status", "status")["deletions"][0]["state"] == "completed"


def test_a_reader_that_takes_nothing_holds_up_no_guest(
    cli: Cli, inside: Inside
) -> None:
    """A stopped terminal, a broken connection, a pipe that nobody reads."""
    image = cli.folder / "vda.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "16M")
    with Machine(cli.folder, [("vda", image, "qcow2")], pause=2000) as machine:
        monitor = ["--monitor", str(machine.monitor)]
        inside("domain", "add", "web", *disks({"vda": image}), *monitor)
        inside("snapshot", "create", "web", "s1")
        machine.wait_for_writes(20)
        calmly = ["--yes", "--strategy", "commit", "--max-downtime", "5000"]

        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writer, bytes(4096))
        stalled = subprocess.Popen(
            [*COMMAND, "-v", "delete", "web", "s1", *calmly],
            env=cli.environment(),
            cwd=cli.folder,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
        )
        os.close(writer)
        while not (found := inside.json("status", "status")["deletions"]):
            assert stalled.poll() is None
        watched = Terminal(cli, "status", "--watch", found[0]["deletion"], width=80)
        assert watched.finish() == 0
        assert stalled.poll() is None
        machine.wait_for_writes(20)
        with open(reader, "rb") as pipe:
            said = pipe.read().decode()
        assert stalled.wait() == 0

    (header,) = re.findall("s1 of web: completed, .*", watched.screen)
    assert re.search(r"; the guest stood still for \d+ ms$", header)
    assert "the guest stood still for" in said
    for seen in (watched.screen, said):
        assert "Deleted snapshot s1 of web" in seen


def test_a_question_shows_the_plan_wherever_output_goes(slow: Cli) -> None:
    """Standard output may be a file; nobody confirms what cannot be seen."""
    before = slow.content()
    shown = Terminal(
        slow,
        *("-c", 'exec "$@" > said', "sh", *map(str, COMMAND), "delete", "web", "s1"),
        program=["/bin/sh"],
    )
    shown.read_until("Delete snapshot s1 of web (the domain is off)")
    shown.wait_for("All disks: 16.0 MiB to copy", "Delete snapshot s1 of web? [y/N]")
    assert shown.finish("\x04") == 1
    assert "Not deleted" in shown.screen
    assert (slow.folder / "said").read_text() == ""

    unseen = Terminal(
        slow,
        *("-c", 'exec "$@" 2> said', "sh", *map(str, COMMAND), "delete", "web", "s1"),
        program=["/bin/sh"],
    )
    assert unseen.finish() == 2
    assert "no terminal to ask on" in (slow.folder / "said").read_text()
    assert slow.content() == before
