"""What the guest was told is durable, and whether an image holds it."""

from __future__ import annotations

from dataclasses import dataclass, field

from backfold.engine.demo.guest.boot import (
    BLOCK_SIZE,
    DATA_OFFSET,
    SECTOR_SIZE,
    block_of,
    slot_of,
)

from .qcow2 import Image


@dataclass
class Expected:
    """The guest's acknowledged writes, counted on from stop to stop."""

    disks: int
    last: int = 0
    slots: dict[tuple[int, int], int] = field(default_factory=dict)
    #: Slots that any write of the recording goes to.
    touched: frozenset[tuple[int, int]] = frozenset()

    def advance(self, last: int) -> None:
        """The guest was told that its write number ``last`` is durable."""
        for number in range(self.last + 1, last + 1):
            self.slots[self.place(number)] = number
        self.last = max(self.last, last)

    def place(self, number: int) -> tuple[int, int]:
        """Disk and slot of a write."""
        return number % self.disks, slot_of(number, self.disks)

    def wrong(self, image: Image, disk: int) -> int:
        """How many slots of a disk do not hold what they must.

        The write after the last acknowledged one may be there in any part.
        """
        coming = self.place(self.last + 1)
        wrong = 0
        for place in self.touched:
            if place[0] != disk:
                continue
            must = block_of(self.slots.get(place, 0), disk)
            found = image.read(DATA_OFFSET + place[1] * BLOCK_SIZE, BLOCK_SIZE)
            if found != must and not (
                place == coming and _torn(found, must, block_of(self.last + 1, disk))
            ):
                wrong += 1
        return wrong


def frozen_content(image: Image, expected: Expected, disk: int) -> dict[int, bytes]:
    """What a snapshot's image holds, slot by slot."""
    return {
        slot: image.read(DATA_OFFSET + slot * BLOCK_SIZE, BLOCK_SIZE)
        for number, slot in expected.touched
        if number == disk
    }


def _torn(found: bytes, old: bytes, new: bytes) -> bool:
    sectors = (slice(at, at + SECTOR_SIZE) for at in range(0, BLOCK_SIZE, SECTOR_SIZE))
    return all(found[part] in (old[part], new[part]) for part in sectors)
