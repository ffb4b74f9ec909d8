"""Children by fork: the engine is imported once, and dies many times.

A victim is a copy of this process, made in a millisecond, that runs one coroutine
and ends, or is killed. This process must have one thread only when it forks.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """How a child ended (negative: the signal), and the lines that it said."""

    status: int
    said: tuple[str, ...]

    @property
    def was_killed(self) -> bool:
        """Whether SIGKILL ended it."""
        return self.status == -signal.SIGKILL


def forked(
    story: Callable[[Say], Coroutine[Any, Any, None]], log: Path, seconds: int
) -> Ended:
    """Run a coroutine in a child, and wait for the child's end.

    What it writes to stdout and stderr goes to ``log``. After ``seconds`` it dies of
    SIGALRM, so that a hang has a name.
    """
    assert threading.active_count() == 1, threading.enumerate()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _live(story, read, write, log, seconds)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as stream:
        said = tuple(line.rstrip("\n") for line in stream)
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), said)


def _live(
    story: Callable[[Say], Coroutine[Any, Any, None]],
    read: int,
    write: int,
    log: Path,
    seconds: int,
) -> None:
    status = 70

    def say(text: str) -> None:
        os.write(write, f"{text}\n".encode())

    try:
        os.close(read)
        for number in (signal.SIGALRM, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(seconds)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        output = os.open(log, flags, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        asyncio.run(story(say))
        status = 0
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)
