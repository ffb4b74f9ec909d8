"""Calls of a hook that an engine which died left running.

Such a call may write the definition later than whoever takes the run over, and what
it was told may not be true any more. It is found by its input, a file in memory that
is named after the run: its start has no durable row, since it may be begun while a
guest stands still, and it ends with this boot of the host.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..journal.errors import CommandFailed

_PROC: Final = Path("/proc")
#: How long a killed process may take to end, in seconds.
_SECONDS: Final = 5.0


def input_of(run: str) -> int:
    """A new file in memory that calls of this run read from; the caller closes it."""
    return os.memfd_create(_name(run), os.MFD_CLOEXEC)


def end_left_over(run: str) -> None:
    """Kill the calls of this run, each with its process group, and wait for their end.

    What a hook has put into the background with another input is not touched. Raises
    `CommandFailed` when one does not end.
    """
    end = time.monotonic() + _SECONDS
    while found := sorted(_left_over(run)):
        for group in found:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        if time.monotonic() > end:
            raise CommandFailed(
                f"An earlier call of the hook does not end (process group {found[0]}).",
                remedy="End its processes.",
            )
        time.sleep(0.01)


def _left_over(run: str) -> Iterator[int]:
    """The process groups that read from a call of this run; never our own."""
    begin = f"/memfd:{_name(run)} "
    for entry in _PROC.iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if not os.readlink(entry / "fd/0").startswith(begin):
                continue
            group = os.getpgid(int(entry.name))
        except OSError:
            continue  # It has ended, has no input, or is another user's.
        if group != os.getpgrp():
            yield group


def _name(run: str) -> str:
    return f"backfold-hook-{run}"
