"""Reading qcow2 and raw images out of the files of a state, as QEMU would.

Only what the recorded images have: no compression, no encryption, no external data
files, no extended L2 entries. Everything else is `Unreadable`.
"""

from __future__ import annotations

import os.path
import struct
from dataclasses import dataclass
from typing import Final

from .cuts import Content, State

_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_ENTRY: Final = struct.Struct(">Q")
_OFFSET: Final = 0x00FFFFFFFFFFFE00
_COMPRESSED: Final = 1 << 62
_ZERO: Final = 1
#: Incompatible features that change nothing for a reader: the dirty bit.
_HARMLESS: Final = 1


class Unreadable(Exception):
    """An image that is missing, or that nobody could boot from."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image; ``below`` is its backing image. ``format`` is qcow2 or raw."""

    content: Content
    format: str
    below: Image | None = None
    cluster_bits: int = 0
    tables: tuple[int, ...] = ()

    def read(self, offset: int, length: int) -> bytes:
        """What a guest sees; it must not cross a cluster's end."""
        if self.format == "raw":
            return self.content.read(offset, length)
        size = 1 << self.cluster_bits
        number, within = divmod(offset, size)
        table, index = divmod(number, size // 8)
        entry = 0
        if table < len(self.tables) and self.tables[table]:
            place = self.tables[table] + index * 8
            (entry,) = _ENTRY.unpack(self.content.read(place, 8))
        if entry & _COMPRESSED:
            raise Unreadable("a compressed cluster")
        if entry & _ZERO:
            return bytes(length)
        if entry & _OFFSET:
            return self.content.read((entry & _OFFSET) + within, length)
        return bytes(length) if self.below is None else self.below.read(offset, length)


def open_image(state: State, path: str, format: str, depth: int = 0) -> Image:
    """Open an image with its chain. Raises `Unreadable`."""
    content = state.files.get(path)
    if content is None:
        raise Unreadable(f"{path} is missing")
    if depth > 16:
        raise Unreadable(f"{path} is its own backing image")
    if format == "raw":
        return Image(content, format)
    header = content.read(0, _HEADER.size)
    magic, version, at, length, bits, _, _, tables, place, *_ = _HEADER.unpack(header)
    if magic != b"QFI\xfb" or version != 3 or not 9 <= bits <= 21:
        raise Unreadable(f"{path} is no qcow2 image")
    (features,) = _ENTRY.unpack(content.read(72, 8))
    if features & ~_HARMLESS:
        raise Unreadable(f"{path} has the features {features:#x}")
    below = None
    if at:
        name = os.fsdecode(content.read(at, length))
        name = os.path.normpath(os.path.join(os.path.dirname(path), name))
        below = open_image(state, name, _backing_format(content), depth + 1)
    entries = content.bytes(place, place + 8 * tables).ljust(8 * tables, b"\0")
    offsets = tuple(e & _OFFSET for (e,) in _ENTRY.iter_unpack(entries))
    return Image(content, format, below, bits, offsets)


def is_empty(state: State, path: str) -> bool:
    """Whether a qcow2 image holds nothing of its own; zeroes count as data.

    Raises `Unreadable`.
    """
    image = open_image(state, path, "qcow2")
    size = 1 << image.cluster_bits
    return not any(
        image.content.bytes(table, table + size).strip(b"\0")
        for table in image.tables
        if table
    )


def _backing_format(content: Content) -> str:
    """The format of the backing image, from the header's extensions."""
    (place,) = struct.unpack(">I", content.read(100, 4))
    while True:
        kind, length = struct.unpack(">II", content.read(place, 8))
        if kind == 0xE2792ACA:
            return content.read(place + 8, length).decode("ascii")
        if kind == 0:
            raise Unreadable("the format of a backing image is not recorded")
        place += 8 + (length + 7) // 8 * 8
