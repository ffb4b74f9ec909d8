"""The boot floppy of the guest, and the layout of what the guest writes.

`writer.asm` says what the guest does; the constants here are the same as there.
"""

import struct
from importlib import resources
from pathlib import Path

#: Where the data area starts on each disk, in bytes. Nothing is written below.
DATA_OFFSET = 1024 * 1024
#: Size of one write, and so of one slot, in bytes.
BLOCK_SIZE = 4096
SECTOR_SIZE = 512
#: Slots on each disk; the data area ends 8 MiB after its start.
SLOTS = 2048

_MAGIC = 0x444C4F46
_MULTIPLIER = 0x9E3779B1
_RECORD = struct.Struct("<3I")  # magic, sequence, disk; then the record's number
_NUMBERS = [struct.pack("<I", number) for number in range(BLOCK_SIZE // 16)]
_ACKNOWLEDGEMENT = struct.Struct("<I")
_FIELDS = struct.Struct("<4I")  # sequence, disks, delay, limit
_FIELDS_OFFSET = 4
_FLOPPY_SIZE = 1440 * 1024


def boot_image(
    path: Path, *, first_sequence: int, disks: int, pause: int = 0, limit: int = 0
) -> None:
    """Write the boot floppy for one boot of the guest.

    Args:
        path: The raw image to write (1.44 MB, sparse); an old one is replaced.
        first_sequence: Sequence number of the first write.
        disks: How many disks the guest has, as BIOS drives 0x80 and up.
        pause: Microseconds between two writes. The guest waits by the ticks of
            its clock, so each pause is up to two milliseconds longer.
        limit: The guest halts after this many writes; 0 means never.
    """
    writer = bytearray((resources.files(__package__) / "writer.bin").read_bytes())
    _FIELDS.pack_into(writer, _FIELDS_OFFSET, first_sequence, disks, pause, limit)
    with path.open("wb") as image:
        image.write(writer)
        image.truncate(_FLOPPY_SIZE)


def read_acknowledgements(path: Path) -> list[int]:
    """Return the sequence numbers that one boot of the guest acknowledged, in order.

    A kill can tear the last one: up to three bytes at the end are ignored.

    Args:
        path: What QEMU wrote for the guest's debug port.
    """
    data = path.read_bytes()
    whole = len(data) - len(data) % _ACKNOWLEDGEMENT.size
    return [number for (number,) in _ACKNOWLEDGEMENT.iter_unpack(data[:whole])]


def count_acknowledgements(path: Path) -> int:
    """Return how many writes one boot of the guest acknowledged; cheap to poll."""
    return path.stat().st_size // _ACKNOWLEDGEMENT.size


def slot_of(sequence: int, disks: int) -> int:
    """Return the slot that a write of a guest with so many disks goes to."""
    return (sequence // disks * _MULTIPLIER & 0xFFFFFFFF) * SLOTS >> 32


def block_of(sequence: int, disk: int) -> bytes:
    """Return the 4 KiB that a write leaves; sequence 0 is a slot never written."""
    if sequence == 0:
        return bytes(BLOCK_SIZE)
    record = _RECORD.pack(_MAGIC, sequence, disk)
    return record + record.join(_NUMBERS)


def sequence_in(block: bytes) -> int:
    """Return the sequence number that a block begins with, 0 if it names none."""
    if len(block) < _RECORD.size:
        return 0
    magic, sequence, _ = _RECORD.unpack_from(block)
    return int(sequence) if magic == _MAGIC else 0
