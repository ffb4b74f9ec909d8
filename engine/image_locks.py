"""QEMU's image locks, seen and taken without a QEMU.

QEMU's file driver marks what it does with an image by shared OFD locks on single
bytes: ``100 + n`` means "I use permission n", ``200 + n`` means "nobody else may".
It takes its own marks first and then looks for marks that contradict them, so that
of two processes at least one sees the other. The permissions are, from 0:
consistent read, write, write unchanged, resize.

What was measured with QEMU 7.2: a qcow2 image opened for writing marks 100, 101,
103, 201 and 203, one opened for reading marks 100, 201 and 203, and a reader with
``-U`` marks 100 only; `qemu-img info -U` marks nothing at all. So does a QEMU in
migration, and one with ``locking=off``: no lock is no proof that nobody writes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..journal.errors import CommandFailed

#: QEMU has four or five permissions; this leaves room for those that it may get.
PERMISSIONS: Final = 64
USED: Final = 100
UNSHARED: Final = 200
#: What a reader with ``-U`` marks: consistent read, and everything shared.
READER_ONLY: Final = frozenset({USED})

# struct flock of 64-bit Linux: type, whence, start, length, pid (must be 0).
_FLOCK: Final = "hhqqi4x"


class ImageLocked(CommandFailed):
    """Another process has the image; ``held`` says with which marks."""

    def __init__(self, path: str, held: frozenset[int]) -> None:
        """``held`` are the bytes that somebody else has locked."""
        super().__init__(
            f"{path} is in use: another process holds QEMU's lock on it",
            remedy="Find the process with `lsof` or `fuser`, and end it first.",
        )
        self.held = held


def holder(path: str) -> bool:
    """Whether any process holds a lock of QEMU's on this image.

    Takes no lock and changes nothing; being killed here has no effect.
    """
    return bool(held(path))


def held(path: str) -> frozenset[int]:
    """The bytes of QEMU's that other processes have locked.

    Locks taken through another descriptor of this process count as well. Takes no
    lock and changes nothing; being killed here has no effect.

    Raises:
        CommandFailed: when the image cannot be opened, or its file system cannot
            answer.
    """
    descriptor = open_image(path)
    try:
        return _held(descriptor, path)
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(
    path: str, *, folder: int | None = None, readers_stay: bool = False
) -> Iterator[int]:
    """Keep every QEMU out of an image, as a QEMU would that wants all of it.

    Yields the descriptor that holds the locks. The last part of ``path`` must not
    be a symbolic link. The locks belong to the descriptor: the kernel drops them
    when this process dies, so being killed here leaves nothing behind.

    Args:
        path: the image.
        folder: its open directory, if the path may lead elsewhere by now.
        readers_stay: let those be who mark nothing but their reading (``-U``).

    Raises:
        ImageLocked: when another process has it.
        CommandFailed: when it cannot be opened or locked at all.
    """
    descriptor = open_image(path, folder=folder, follow=False)
    try:
        for start in (USED, UNSHARED):
            _call(descriptor, path, fcntl.F_OFD_SETLK, fcntl.F_RDLCK, start)
        # Ours first, then a look at theirs: the order that QEMU has, too.
        others = _held(descriptor, path)
        if others and not (readers_stay and others == READER_ONLY):
            raise ImageLocked(path, others)
        yield descriptor
    finally:
        # A fork that has not reached its exec may share the descriptor: unlock,
        # instead of trusting that this close is the last one.
        for start in (USED, UNSHARED):
            try:
                _call(descriptor, path, fcntl.F_OFD_SETLK, fcntl.F_UNLCK, start)
            except CommandFailed:
                break
        os.close(descriptor)


def open_image(path: str, *, folder: int | None = None, follow: bool = True) -> int:
    """Open a regular file or block device for reading, never waiting.

    With ``folder``, the last part of ``path`` is looked up in that open directory.
    Changes nothing; being killed here has no effect.
    """
    name = path if folder is None else os.path.basename(path)
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if not follow:
        flags |= os.O_NOFOLLOW
    try:
        # Looked at first, because opening a device can have effects.
        mode = os.stat(name, dir_fd=folder, follow_symlinks=follow).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise CommandFailed(f"{path} is neither a file nor a block device")
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise CommandFailed(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{path!r} cannot be opened: {error}") from error


def _held(descriptor: int, path: str) -> frozenset[int]:
    found: set[int] = set()
    for start in (USED, UNSHARED):
        end = start + PERMISSIONS
        position = start
        while position < end:
            kind, first, length = _call(
                descriptor,
                path,
                fcntl.F_OFD_GETLK,
                fcntl.F_WRLCK,
                position,
                end - position,
            )
            if kind == fcntl.F_UNLCK:
                break
            # The kernel reports one lock, not always the first: try each byte of
            # what lies before it, too.
            last = end if length == 0 else min(first + length, end)
            found.update(range(max(first, position), last))
            found.update(
                byte
                for byte in range(position, min(first, end))
                if _call(descriptor, path, fcntl.F_OFD_GETLK, fcntl.F_WRLCK, byte, 1)[0]
                != fcntl.F_UNLCK
            )
            position = last
    return frozenset(found)


def _call(
    descriptor: int,
    path: str,
    command: int,
    kind: int,
    start: int,
    length: int = PERMISSIONS,
) -> tuple[int, int, int]:
    """One fcntl on a range; returns kind, start and length of what it answers."""
    request = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    try:
        answer = fcntl.fcntl(descriptor, command, request)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            # Only somebody who locks bytes as no QEMU does can be in the way.
            raise ImageLocked(path, frozenset({start})) from None
        raise CommandFailed(
            f"the file system of {path} carries no locks: {error.strerror}",
            remedy="Nobody can see there whether an image is in use.",
        ) from error
    kind, _, first, size, _ = struct.unpack(_FLOCK, answer)
    return kind, first, size
