"""Who works on images just now, told by the kernel's list of locks.

Nothing is locked, made or waited for, so that a look disturbs nobody. What it says
may be over by now, and a kernel that hides other processes tells nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

#: Where the lock files are, one per image; see `journal.locks`.
LOCK_DIRECTORY: Final = Path("/run/lock/backfold")
#: How much of a holder's command line is shown, in characters.
COMMAND_SHOWN: Final = 120


class Holder(NamedTuple):
    """A process that has a lock; ``command`` is its command line, shortened."""

    pid: int
    command: str


def worker(paths: Iterable[str], directory: Path = LOCK_DIRECTORY) -> Holder | None:
    """Who has the lock of one of these images; None when nobody is seen to have it."""
    for path in paths:
        try:
            image = os.stat(path)
            lock = os.lstat(directory / f"{image.st_dev}-{image.st_ino}")
        except (OSError, ValueError):
            continue
        if (found := holder(lock)) is not None:
            return found
    return None


def holder(lock: os.stat_result) -> Holder | None:
    """Who has a lock file; None when the kernel does not tell us."""
    device = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            # 1: FLOCK  ADVISORY  WRITE 4711 00:18:1234 0 EOF
            fields = line.split()
            if fields[1:2] == ["FLOCK"] and fields[5:6] == [f"{device}:{lock.st_ino}"]:
                pid = int(fields[4])
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                words = command.decode(errors="backslashreplace").split("\0")
                return Holder(pid, " ".join(words).strip()[:COMMAND_SHOWN])
    except (OSError, ValueError, IndexError):
        pass
    return None
