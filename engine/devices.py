"""Block devices as images: how large they are, and what the kernel does with them.

A device is known by its number and not by the inode of a node: the same device may
have many nodes. Its times tell nothing of writes, it cannot be renamed, and it never
grows. All of this only reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..journal.errors import CommandFailed
from ..journal.model import FileId
from . import image_locks

_MOUNTS: Final = "/proc/self/mountinfo"


def identity(found: os.stat_result) -> FileId:
    """The device behind a node, whatever the node is called; no file has inode 0."""
    return FileId(found.st_rdev, 0)


def size(path: str) -> int:
    """Bytes of a block device.

    Raises:
        CommandFailed: when it cannot be opened.
    """
    descriptor = image_locks.open_image(path)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as error:
        raise CommandFailed(f"{path!r} cannot be measured: {error}") from error
    finally:
        os.close(descriptor)


def kernel_users(image: FileId) -> Iterator[str]:
    """What the kernel itself does with a device, in words: no process shows that."""
    if not image.is_block_device:
        return
    number = f"{os.major(image.device)}:{os.minor(image.device)}"
    try:
        mounts = Path(_MOUNTS).read_text(errors="surrogateescape").splitlines()
    except OSError:
        mounts = []
    for line in mounts:
        fields = line.split()
        if fields[2:3] == [number]:
            yield f"it is mounted on {fields[4]}"
    try:
        holders = sorted(os.listdir(f"/sys/dev/block/{number}/holders"))
    except OSError:
        holders = []
    for holder in holders:
        yield f"the block device {holder} is built on it"
