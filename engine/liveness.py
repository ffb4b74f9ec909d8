"""Whether somebody is at work on an open run, found out without disturbing him.

Whoever works on a run has locked the images (`journal.locks`). To try a lock would
keep others out for a moment, so the kernel's list of locks is read instead.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import Final

from ..journal.locks import lock_file
from ..journal.model import FileId
from ..journal.standing import OpenRun
from . import files

#: The line of a lock that somebody has; one that is waited for has `->` in it.
_HELD: Final = re.compile(
    r"^\d+: FLOCK +ADVISORY +WRITE \d+ ([0-9a-f]+:[0-9a-f]+:\d+) ", re.MULTILINE
)


class Work(StrEnum):
    """Whether a process works on a run."""

    GOING_ON = "going_on"
    #: Nobody does: `recover` has to finish it.
    INTERRUPTED = "interrupted"
    #: Its last row was written on another host, whose locks nobody sees here.
    ELSEWHERE = "elsewhere"


def held_locks() -> frozenset[str] | None:
    """Every `flock` that a process on this host has; None when nobody can tell.

    In a container only the locks of its own processes are seen.
    """
    try:
        return frozenset(_HELD.findall(Path("/proc/locks").read_text()))
    except OSError:
        return None


def work_on(run: OpenRun, held: Collection[str] | None, directory: Path) -> Work:
    """Whether somebody works on a run, given all locks and the folder of ours.

    An image that is fenced right now is looked for by its fence's name.
    """
    if held is None or _host(run.who) != socket.gethostname():
        return Work.ELSEWHERE
    for path in run.paths:
        for name in (path, files.fence_name(path, run.id)):
            image = files.identify(name)
            if image is not None and _lock(image, directory) in held:
                return Work.GOING_ON
    return Work.INTERRUPTED


def _lock(image: FileId, directory: Path) -> str | None:
    """How the kernel's list names the lock of an image; None when there is none."""
    try:
        found = os.stat(lock_file(image, directory), follow_symlinks=False)
    except OSError:
        return None
    return f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"


def _host(who: str) -> str:
    """The host of ``user@host:pid``."""
    return who.rpartition("@")[2].rpartition(":")[0]
