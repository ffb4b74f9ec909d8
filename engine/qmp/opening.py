"""Opening the images of a domain that is off, in a helper."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ...journal.errors import CommandFailed
from ...journal.model import FileId, Image
from .. import secret_files
from .monitor import Monitor


def node_name(file: FileId) -> str:
    """The node that holds a file: the same file always gets the same name.

    QEMU takes 31 characters, so device and inode do not fit in themselves. While a
    node lives its file is open, so that no other file can get its inode.
    """
    digest = hashlib.blake2s(f"{file.device}:{file.inode}".encode(), digest_size=8)
    return f"backfold-{digest.hexdigest()}"


def file_node_name(file: FileId) -> str:
    """The node below `node_name`, that of the file itself."""
    return f"{node_name(file)}-file"


async def open_nodes(
    monitor: Monitor,
    chain: Sequence[Image],
    writable: frozenset[str],
    present: frozenset[str],
) -> str:
    """Add what is not ``present`` yet, from the bottom up; returns the root node.

    Backing images are named explicitly: no header and no probing decides what is
    opened.

    Raises:
        CommandFailed: When QEMU cannot open an image, or a path is not absolute.
    """
    backing: str | None = None
    for depth, image in reversed(list(enumerate(chain))):
        name, below = node_name(image.file), file_node_name(image.file)
        write = image.path in writable
        unmap = write and depth > 0 and _may_unmap(image)
        data = None if image.data is None else file_node_name(image.data.file)
        for path, node in ((image.path, below), (image.data and image.data.path, data)):
            if path and node and node not in present and name not in present:
                options = _file_options(path, node, unmap)
                await monitor.execute("blockdev-add", **options)
        if name not in present:
            options = {
                "driver": image.format,
                "node-name": name,
                "file": below,
                "read-only": not write,
            }
            if image.format != "raw":
                options["backing"] = backing
            elif backing is not None:
                raise CommandFailed(f"{image.path} is raw, it can have no image below")
            if data is not None:
                options["data-file"] = data
            if image.secret is not None:
                options["encrypt"] = await _encryption(monitor, image.secret)
            if unmap:
                options.update({"discard": "unmap", "detect-zeroes": "unmap"})
            await monitor.execute("blockdev-add", **options)
        backing = name
    if backing is None:
        raise CommandFailed("a chain has at least one image")
    return backing


async def open_overlay(monitor: Monitor, path: str, name: str, secret: str) -> None:
    """Add an encrypted overlay as a node that nothing uses yet, without its link."""
    below = f"{name}-file"
    await monitor.execute("blockdev-add", **_file_options(path, below, False))
    options: dict[str, Any] = {
        "driver": "qcow2",
        "node-name": name,
        "file": below,
        "backing": None,
        "encrypt": await _encryption(monitor, secret),
    }
    await monitor.execute("blockdev-add", **options)


async def _encryption(monitor: Monitor, secret: str) -> dict[str, str]:
    """The options of an encrypted image, for a QEMU that has read the secret's file.

    The key is in QEMU's memory then, and in no command.
    """
    secret_files.check_private(secret)
    name = secret_files.object_id(secret)
    # The file may have changed since, and who has opened an image needs it no more.
    await forget_secret(monitor, secret)
    await monitor.execute("object-add", qom_type="secret", id=name, file=secret)
    return {"format": "luks", "key-secret": name}


async def forget_secret(monitor: Monitor, secret: str) -> None:
    """Have QEMU forget a secret; images that were opened with it stay open."""
    with suppress(CommandFailed):
        await monitor.execute("object-del", id=secret_files.object_id(secret))


def _file_options(path: str, name: str, unmap: bool) -> dict[str, Any]:
    if not os.path.isabs(path):
        raise CommandFailed(f"the path {path} is not absolute")
    options: dict[str, Any] = {
        "driver": "host_device" if _is_block_device(path) else "file",
        "node-name": name,
        "filename": path,
        # A file node that is read-only for good makes block-commit fail.
        "read-only": False,
        "auto-read-only": True,
    }
    if unmap:
        options["discard"] = "unmap"
    return options


def _status(path: str) -> os.stat_result:
    try:
        return os.stat(path)
    except OSError as error:
        raise CommandFailed(f"cannot open {path}: {error.strerror}") from error


def _is_block_device(path: str) -> bool:
    return stat.S_ISBLK(_status(path).st_mode)


def _may_unmap(image: Image) -> bool:
    """Whether zeroes may become holes: never in space that somebody allocated."""
    if image.format == "qcow2" and image.data is None:
        return True
    status = _status(image.paths[-1])
    return stat.S_ISREG(status.st_mode) and status.st_blocks * 512 < status.st_size
