"""The books on the guest's writes: which block must be where.

The guest numbers its writes and has one in flight at most. So the state of all disks
at any instant T is a prefix: each slot holds the newest acknowledged write that maps
to it, up to T. A kill leaves one more write undecided, the one after the last
acknowledged one of that boot; it may be there whole, in part or not at all.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from .boot import (
    BLOCK_SIZE,
    DATA_OFFSET,
    SECTOR_SIZE,
    SLOTS,
    block_of,
    count_acknowledgements,
    read_acknowledgements,
    sequence_in,
    slot_of,
)

#: The first and the last of some instants.
_Span = tuple[int, int]
#: Later than every sequence number.
_NEVER = 2**32


class Loss(NamedTuple):
    """A slot that does not hold what it must."""

    slot: int
    #: The sequence number it must hold; 0: it was never written.
    expected: int
    #: The one it holds; 0: zeros; None: a torn block, or none of the guest's.
    found: int | None


@dataclass(frozen=True)
class Verdict:
    """What the check of one disk found."""

    #: How many slots were compared.
    checked: int
    lost: tuple[Loss, ...]
    #: First and last instant (as sequence numbers) that the whole disk agrees with,
    #: None if there is none. Disks of one snapshot must have an instant in common.
    cut: tuple[int, int] | None

    @property
    def ok(self) -> bool:
        """Whether no slot was lost."""
        return not self.lost


@dataclass(frozen=True)
class _Boot:
    """One run of the guest, from power on to its end."""

    acknowledgements: Path
    first: int
    disks: int
    #: A revert took back what this boot wrote after this instant.
    reverted_to: int | None = None

    def last(self) -> int:
        """Return the last acknowledged sequence number, `first - 1` if none is."""
        if self.reverted_to is not None:
            return self.reverted_to
        return self.first - 1 + count_acknowledgements(self.acknowledgements)

    def writes(self) -> Iterator[tuple[int, bool]]:
        """Yield each write that can be on the disks, and whether it must be."""
        numbers = read_acknowledgements(self.acknowledgements)
        if numbers != list(range(self.first, self.first + len(numbers))):
            raise RuntimeError(
                f"{self.acknowledgements}: the numbers do not rise by one from"
                f" {self.first}; was the guest reset?"
            )
        if self.reverted_to is None:
            yield from ((number, True) for number in numbers)
            yield self.first + len(numbers), False
        else:
            yield from ((n, True) for n in numbers if n <= self.reverted_to)


class _Slot:
    """The writes to one slot, oldest first, and what a block found there says."""

    def __init__(self) -> None:
        self.certain = [0]
        self.undecided: list[int] = []

    def expected(self, instant: int) -> int:
        """Return the sequence number that must be here at an instant."""
        return self.certain[bisect_right(self.certain, instant) - 1]

    def lifetime(self, block: bytes, disk: int) -> _Span | None:
        """Return the first and last instant at which this block is right here."""
        sequence = sequence_in(block)
        known = sequence in self.certain or sequence in self.undecided
        if not known or block != block_of(sequence, disk):
            torn = (n for n in self.undecided if self._is_torn(block, n, disk))
            sequence = next(torn, -1)
        if sequence < 0:
            return None
        later = bisect_right(self.certain, sequence)
        end = self.certain[later] if later < len(self.certain) else _NEVER
        return sequence, end - 1

    def _is_torn(self, block: bytes, undecided: int, disk: int) -> bool:
        """Say whether each sector is of this undecided write or of the one before."""
        old = block_of(self.expected(undecided), disk)
        new = block_of(undecided, disk)
        return len(block) == BLOCK_SIZE and all(
            block[at : at + SECTOR_SIZE]
            in (old[at : at + SECTOR_SIZE], new[at : at + SECTOR_SIZE])
            for at in range(0, BLOCK_SIZE, SECTOR_SIZE)
        )


class Ledger:
    """The acknowledged writes of one guest over all its boots.

    It reads the files that the boots leave, so it is always up to date, also while
    the guest writes.
    """

    def __init__(self) -> None:
        """Start the books of a guest that has not run yet."""
        self._boots: list[_Boot] = []
        self._next = 1

    def next_sequence(self) -> int:
        """Return the first sequence number for the next boot.

        It is beyond everything that any boot can have written.
        """
        return max([self._next, *(boot.last() + 2 for boot in self._boots)])

    def begin(self, acknowledgements: Path, disks: int) -> int:
        """Open the books for a new boot and return its first sequence number.

        Args:
            acknowledgements: The file (it must exist) that QEMU will write for the
                guest's debug port.
            disks: How many disks the guest has in this boot.
        """
        first = self.next_sequence()
        self._boots.append(_Boot(acknowledgements, first, disks))
        return first

    def last_acknowledged(self) -> int:
        """Return the newest acknowledged sequence number: the present instant."""
        return self._boots[-1].last() if self._boots else 0

    def revert(self, instant: int) -> None:
        """Forget the writes after an instant that the disks were taken back to.

        Args:
            instant: A sequence number out of the `Verdict.cut` of the snapshot.
        """
        self._next = self.next_sequence()
        self._boots = [
            replace(boot, reverted_to=instant) if boot.last() > instant else boot
            for boot in self._boots
            if boot.first <= instant
        ]

    def verify(
        self,
        raw_path: Path,
        disk: int,
        *,
        low: int | None = None,
        high: int | None = None,
    ) -> Verdict:
        """Compare all slots of a disk with the acknowledged writes.

        Args:
            raw_path: The disk as the guest sees it, in raw format.
            disk: Its number, from 0, in the order of the guest's disks.
            low: For a frozen image: the last acknowledged sequence number when the
                snapshot was not yet taken. Both left out: the present instant.
            high: The last acknowledged one when the snapshot had been taken.
        """
        if high is None:
            high = self.last_acknowledged()
        if low is None:
            low = high
        slots = self._slots(disk)
        with raw_path.open("rb") as raw:
            raw.seek(DATA_OFFSET)
            blocks = [raw.read(BLOCK_SIZE) for _ in slots]
        spans: list[_Span | None] = []
        for slot, block in zip(slots, blocks, strict=True):
            span = slot.lifetime(block, disk)
            spans.append(span and _within(span, low, high + 1))
        first, last = _agreement((span for span in spans if span), high)
        lost = tuple(
            Loss(number, slots[number].expected(last), _found(blocks[number], disk))
            for number, span in enumerate(spans)
            if span is None or not span[0] <= last <= span[1]
        )
        return Verdict(len(slots), lost, None if lost else (first, last))

    def _slots(self, disk: int) -> list[_Slot]:
        """Return the history of each slot of a disk."""
        slots = [_Slot() for _ in range(SLOTS)]
        for boot in self._boots:
            for number, acknowledged in boot.writes():
                if number % boot.disks == disk:
                    slot = slots[slot_of(number, boot.disks)]
                    (slot.certain if acknowledged else slot.undecided).append(number)
        return slots


def _within(span: _Span, low: int, high: int) -> _Span | None:
    """Return the part of a span between two instants, None if there is none."""
    first, last = max(span[0], low), min(span[1], high)
    return (first, last) if first <= last else None


def _agreement(spans: Iterable[_Span], default: int) -> _Span:
    """Return the instants that most of the spans contain, the latest such ones."""
    steps: Counter[int] = Counter()
    for first, last in spans:
        steps[first] += 1
        steps[last + 1] -= 1
    best, agreement, count = 0, (default, default), 0
    for first, end in pairwise(sorted(steps)):
        count += steps[first]
        if count >= best:
            best, agreement = count, (first, end - 1)
    return agreement


def _found(block: bytes, disk: int) -> int | None:
    """Return the sequence number of a whole block, None if it is none."""
    sequence = sequence_in(block)
    return sequence if block == block_of(sequence, disk) else None
