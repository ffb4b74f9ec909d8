"""How far a run is, for others on this host while somebody works on it.

Bytes copied are not worth an fsync, so that the journal does not have them. Whoever
works on a run keeps a small file beside the locks instead, with what it was last told
of each disk, and an OFD lock on it, which ends with the process. Reading it disturbs
nobody; nothing depends on it, and a run goes on when it cannot be written.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final

#: More than a thousand disks; a larger file is none of ours.
LIMIT: Final = 1 << 16

# struct flock of 64-bit Linux: type, whence, start, length (to the end), pid.
_FLOCK: Final = "hhqqi4x"
_SAFE: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Beacon:
    """Tells how far one run is. A context manager; it never raises."""

    def __init__(self, directory: Path, run: str) -> None:
        """Its file goes into the directory of the locks."""
        self._path = _path(directory, run)
        self._handle: int | None = None
        self._disks: dict[str, tuple[int, int]] = {}

    def __enter__(self) -> Beacon:
        """Say that somebody works on the run."""
        with suppress(OSError):
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | _SAFE, 0o600)
            try:
                if not _is_ours(handle):
                    raise OSError("somebody else's file")
                fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK))
                os.ftruncate(handle, 0)  # What an earlier one left behind is old.
            except OSError:
                os.close(handle)
                raise
            self._handle = handle
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nobody works on the run any more."""
        handle, self._handle = self._handle, None
        if handle is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(handle)

    def tell(self, disk: str, done: int, total: int) -> None:
        """Bytes done, of bytes in total. Not durable, and one short write."""
        self._disks[disk] = done, total
        if self._handle is not None:
            with suppress(OSError):
                os.pwrite(self._handle, json.dumps(self._disks).encode() + b"\n", 0)


def look(directory: Path, run: str) -> Mapping[str, tuple[int, int]] | None:
    """Bytes done and in total of each disk, as far as they were told.

    None when nobody on this host works on the run.
    """
    try:
        handle = os.open(_path(directory, run), os.O_RDONLY | _SAFE)
    except OSError:
        return None
    try:
        if not _is_ours(handle):
            return None
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, _lock(fcntl.F_RDLCK))
        if struct.unpack(_FLOCK, answer)[0] == fcntl.F_UNLCK:
            return None
        # The end of the line tells what was written last from what was longer before.
        told = json.loads(os.pread(handle, LIMIT, 0).partition(b"\n")[0] or b"{}")
        return {str(disk): (int(done), int(of)) for disk, (done, of) in told.items()}
    except OSError:
        return None
    except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return {}  # Read while it was being written.
    finally:
        os.close(handle)


def _path(directory: Path, run: str) -> Path:
    return directory / f"run-{run}"


def _is_ours(handle: int) -> bool:
    """Whether it is a plain file of this user's, or of root's, under one name."""
    found = os.fstat(handle)
    trusted = found.st_uid in (os.geteuid(), 0)
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and trusted


def _lock(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)
