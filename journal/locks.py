"""One writer per domain: locks that die with their process.

A lock file per image, by device and inode, in one directory of the host, so that
two engines exclude each other even when they use different journals. `flock` is
released by the kernel when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from .errors import Busy, UsageError
from .holders import LOCK_DIRECTORY as LOCK_DIRECTORY
from .holders import holder
from .model import FileId


class Locks:
    """The locks of one run. A context manager; `acquire` may be called again."""

    def __init__(self, directory: Path = LOCK_DIRECTORY) -> None:
        """Lock files are made in ``directory``, which every user shares."""
        self._directory = directory
        self._held: dict[FileId, int] = {}

    def acquire(self, images: Iterable[FileId]) -> None:
        """Lock these images too. Raises `Busy` when another process has one.

        Either all are taken or none of the new ones; they are taken in one order,
        so that two engines cannot wait for each other (nobody waits anyway).
        """
        taken: list[FileId] = []
        try:
            for image in sorted(set(images), key=lambda i: (i.device, i.inode)):
                if image not in self._held:
                    self._held[image] = self._lock(image)
                    taken.append(image)
        except BaseException:
            for image in taken:
                os.close(self._held.pop(image))
            raise

    def release(self) -> None:
        """Give all locks back."""
        while self._held:
            os.close(self._held.popitem()[1])

    def __enter__(self) -> Locks:
        """Nothing is locked yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give all locks back."""
        self.release()

    def _lock(self, image: FileId) -> int:
        path = lock_file(image, _shared_directory(self._directory))
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            try:
                handle = os.open(path, flags)
            except FileNotFoundError:
                handle = os.open(path, flags | os.O_CREAT, 0o644)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise OSError("not a plain file")
        except OSError as error:
            raise UsageError(
                f"The lock file {path} cannot be opened: {error}.",
                remedy="Remove it if it is not a plain file, or run as its owner.",
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = holder(os.fstat(handle))
            os.close(handle)
            who = "" if found is None else f" (pid {found.pid}: {found.command})"
            raise Busy(
                f"Another Backfold process{who} is working on this domain or its"
                " images.",
                remedy="Wait until it ends (`backfold status` shows it), or cancel it.",
            ) from None
        return handle


def lock_file(image: FileId, directory: Path = LOCK_DIRECTORY) -> Path:
    """The file whose lock is that of an image."""
    return directory / f"{image.device}-{image.inode}"


def _shared_directory(path: Path) -> Path:
    """Make the host-wide directory if it is missing; world-writable and sticky."""
    try:
        path.mkdir(mode=0o1777, parents=True)
        path.chmod(0o1777)
    except FileExistsError:
        pass
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise UsageError(f"{path} is not a directory.", remedy="Remove it.")
    return path
