"""The real command line, as a subprocess, with its JSON checked against the schemas."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import sqlite3
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyte

from cli.schemas import validate

COMMAND = [sys.executable, "-m", "backfold"]
#: How long anything may take.
PATIENCE = 60.0
VICTIM = Path(__file__).parents[1] / "crash" / "victim.py"


class Cli:
    """One journal, and the command line on it."""

    def __init__(self, folder: Path, bytecode: Path) -> None:
        self.folder = folder
        self.bytecode = bytecode
        self.journal = folder / "journal" / "journal.db"

    def run(
        self,
        *arguments: str,
        status: int = 0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, without a terminal."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=PATIENCE,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        assert not any(sign in done.stdout + done.stderr for sign in "\x1b\x07\x9b")
        return done

    def out(self, *arguments: str, status: int = 0) -> str:
        """What a command printed; nothing else was said."""
        done = self.run(*arguments, status=status)
        assert not done.stderr or status
        return done.stdout

    def json(self, schema: str, *arguments: str, status: int = 0) -> dict[str, Any]:
        """The one object that a command printed."""
        (line,) = self.lines(schema, *arguments, status=status)
        return line

    def lines(
        self, schema: str, *arguments: str, status: int = 0
    ) -> list[dict[str, Any]]:
        """Every object that a command printed, each checked against its schema."""
        done = self.run("--json", *arguments, status=status)
        assert not done.stderr
        return parsed(schema, done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command that goes on by itself."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self) -> dict[str, str]:
        """The environment: this journal, and no home to fall back to."""
        dropped = {"BACKFOLD_JOURNAL", "PYTHONDONTWRITEBYTECODE", "NO_COLOR"}
        dropped |= {"COLUMNS", "LINES"}  # Set by readline, which pytest may load.
        return {
            **{k: v for k, v in os.environ.items() if k not in dropped},
            "PYTHONPYCACHEPREFIX": str(self.bytecode),
            "BACKFOLD_JOURNAL": str(self.journal),
            "PYTHONWARNINGS": "error",
        }

    def content(self) -> list[str]:
        """Everything in the journal; nothing when there is none."""
        if not self.journal.exists():
            return []
        with sqlite3.connect(self.journal) as db:
            found = list(db.iterdump())
        db.close()
        return found


class Terminal:
    """A command with a terminal for all that it reads and says.

    ``seen`` is every character, ``screen`` what a person sees now.
    """

    def __init__(
        self,
        cli: Cli,
        *arguments: str,
        width: int = 120,
        height: int = 30,
        term: str = "xterm",
        program: Sequence[str | Path] = COMMAND,
    ) -> None:
        self.seen = ""
        self._screen = pyte.Screen(width, height)
        self._emulator = pyte.ByteStream(self._screen)
        self.controller, self._terminal = pty.openpty()
        self.resize(width, height)
        self.modes = self.modes_now()
        self.process = subprocess.Popen(
            [*program, *arguments],
            cwd=cli.folder,
            env={**cli.environment(), "TERM": term},
            stdin=self._terminal,
            stdout=self._terminal,
            stderr=self._terminal,
            start_new_session=True,
            # Its controlling terminal, so that Ctrl-C is a signal.
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    @property
    def screen(self) -> str:
        """The lines that can be seen now."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def modes_now(self) -> object:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self._terminal)

    def resize(self, width: int, height: int) -> None:
        """Make the window another size."""
        size = struct.pack("HHHH", height, width, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)
        self._screen.resize(height, width)

    def read_until(self, word: str) -> None:
        """Read until ``word`` was seen."""
        self.wait(lambda: word in self.seen)

    def wait_for(self, *words: str) -> None:
        """Read until all these words can be seen together."""
        self.wait(lambda: all(word in self.screen for word in words))

    def wait(self, until: Callable[[], bool]) -> None:
        """Read until something holds."""
        end = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < end, self.screen
            has_ended = self.process.poll() is not None
            assert self._read() or not has_ended, self.screen

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.controller, keys.encode())

    def finish(self, answer: str = "") -> int:
        """Type an answer, and read to the end; returns the exit status.

        The terminal is left as it was found.
        """
        self.type(answer)
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            self._read()
            assert time.monotonic() < end, self.screen
        while self._read():
            pass  # What it has still said.
        assert self.modes_now() == self.modes
        assert not self._screen.cursor.hidden
        os.close(self._terminal)
        os.close(self.controller)
        assert "Traceback" not in self.seen
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        if not select.select([self.controller], [], [], 0.1)[0]:
            return False
        read = os.read(self.controller, 65536)
        self.seen += read.decode(errors="replace")
        self._emulator.feed(read)
        return True


def kill_at(cli: Cli, order: str, snapshot: str, point: str, kills: str) -> None:
    """Do something on the domain ``web`` and be killed there."""
    done = subprocess.run(
        [sys.executable, VICTIM, cli.journal, order, snapshot, point, kills],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "reached" in done.stdout, done.stderr
    assert done.returncode == -signal.SIGKILL, done.stderr


def parsed(schema: str, text: str) -> list[dict[str, Any]]:
    """JSON lines as objects, each checked."""
    objects = [json.loads(line) for line in text.splitlines()]
    for found in objects:
        validate(schema, found)
    return objects


def wait_for_line(process: subprocess.Popen[str], word: str) -> list[str]:
    """Read standard output up to a line with ``word``."""
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if word in line:
            return seen
    raise AssertionError(f"no {word!r} in {seen}")


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[str, str]:
    """Send a signal and wait; returns what was still said."""
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE)
    return out, err


def disks(paths: Mapping[str, Path] | Sequence[tuple[str, Path]]) -> list[str]:
    """``--disk`` arguments."""
    pairs = paths.items() if isinstance(paths, Mapping) else paths
    return [
        argument
        for target, path in pairs
        for argument in ("--disk", f"{target}={str(path).replace(',', ',,')}")
    ]
