"""External data files of qcow2 images: named in a header, and never just believed.

Whoever makes an image chooses that name, and a fold writes into what it leads to. So
only a file counts that lies beside its image, belongs to the same owner and has one
name. QEMU takes a relative name from the directory that it was started in, which says
nothing about the file, so that names must be absolute.
"""

from __future__ import annotations

import os
import stat
import struct
from typing import Final

from ..journal.errors import CommandFailed
from ..journal.model import DataFile
from . import files, image_locks
from .qemu_img import resolve_backing

#: Bit of the incompatible features: the data is in another file.
_BIT: Final = 4
_MAGIC: Final = b"QFI\xfb"
#: Magic, version, the incompatible features and the length of the header.
_HEADER: Final = struct.Struct(">4sI64xQ20xI")
#: Type and length of an extension; the one that holds the name of the data file.
_EXTENSION: Final = struct.Struct(">II")
_NAME: Final = 0x44415441
#: What is read of a header: extensions end in the first cluster, mostly much earlier.
HEADER_BYTES: Final = 64 << 10


def has_data_file(path: str) -> bool:
    """Whether a qcow2 header says that the data is in another file. Only reads."""
    return _has(_read(path))


def data_file(path: str) -> DataFile | None:
    """The external data file of a qcow2 image; None when it has none. Only reads.

    Raises:
        CommandFailed: when its name is not one that may be trusted.
    """
    head = _read(path)
    if not _has(head):
        return None
    name = _name(head)
    if name is None or not os.path.isabs(name):
        raise _distrusted(path, name, "the name is not absolute")
    found = resolve_backing(path, name)
    if found is None or os.path.dirname(os.path.realpath(found)) != os.path.dirname(
        os.path.realpath(path)
    ):
        raise _distrusted(path, name, "it does not lie beside the image")
    try:
        data, image = os.lstat(found), os.stat(path)
    except FileNotFoundError:
        raise CommandFailed(
            f"{found!r}, the data file of {path!r}, is missing"
        ) from None
    except OSError as error:
        raise CommandFailed(f"{found!r} cannot be looked at: {error}") from error
    if not stat.S_ISREG(data.st_mode) or data.st_nlink > 1:
        raise _distrusted(path, name, "it is no regular file with one name")
    if data.st_uid != image.st_uid:
        raise _distrusted(path, name, "it belongs to somebody else")
    return DataFile(found, files.file_id(data))


def named_in(head: bytes) -> str | None:
    """The data file's name in the first bytes of an image; None when it has none."""
    return _name(head) if _has(head) else None


def _distrusted(path: str, name: str | None, why: str) -> CommandFailed:
    return CommandFailed(
        f"{path!r} has the external data file {name!r}, which is not used: {why}",
        remedy="Move it beside the image and name it by an absolute path: `qemu-img"
        " amend -o data_file=PATH`.",
    )


def _read(path: str) -> bytes:
    descriptor = image_locks.open_image(path)
    try:
        return os.pread(descriptor, HEADER_BYTES, 0)
    except OSError as error:
        raise CommandFailed(f"{path!r} cannot be read: {error}") from error
    finally:
        os.close(descriptor)


def _has(head: bytes) -> bool:
    if len(head) < _HEADER.size:
        return False
    magic, version, features, _ = _HEADER.unpack_from(head)
    return magic == _MAGIC and version > 2 and bool(features & _BIT)


def _name(head: bytes) -> str | None:
    at: int = _HEADER.unpack_from(head)[3]
    while at + _EXTENSION.size <= len(head):
        kind, length = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if kind == 0 or at + length > len(head):
            return None
        if kind == _NAME:
            return os.fsdecode(head[at : at + length])
        at += (length + 7) & ~7
    return None
