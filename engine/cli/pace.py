"""How fast a disk goes and how long it still takes, from what QEMU counts."""

from __future__ import annotations

from collections import deque
from typing import Final

#: How far back is looked, and how much must have been seen to say anything, seconds.
SPAN: Final = 20.0
ENOUGH: Final = 1.0
#: More than this is no answer, seconds.
FOREVER: Final = 100 * 3600.0


class Pace:
    """The pace of one disk over the last `SPAN` seconds.

    A job's total grows while the guest writes, so that what counts for the time left
    is how fast what remains shrinks, and not how fast bytes are copied.
    """

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._seen: deque[tuple[float, int, int]] = deque()

    @property
    def done(self) -> int:
        """Bytes done."""
        return self._seen[-1][1] if self._seen else 0

    @property
    def total(self) -> int:
        """Bytes in total, as far as is known now."""
        return self._seen[-1][2] if self._seen else 0

    @property
    def share(self) -> int:
        """Per cent, rounded down: 100 means that nothing is left."""
        return min(100, 100 * self.done // self.total) if self.total else 0

    @property
    def is_copied(self) -> bool:
        """Whether nothing is left to copy now; the guest may write more."""
        return 0 < self.total <= self.done

    def see(self, now: float, done: int, total: int) -> None:
        """Note what was heard at ``now`` (monotonic seconds)."""
        if done < self.done:
            self._seen.clear()  # Another job: the disk is copied again.
        self._seen.append((now, done, total))
        while len(self._seen) > 2 and self._seen[1][0] <= now - SPAN:
            self._seen.popleft()

    def rate(self, now: float) -> float | None:
        """Bytes per second; None while too little was seen.

        A disk that does not move is not heard of, so that silence counts.
        """
        took = self._took(now)
        return None if took is None else (self.done - self._seen[0][1]) / took

    def left(self, now: float) -> float | None:
        """Seconds until nothing remains; None when nobody can say."""
        took = self._took(now)
        if took is None or self.is_copied or not self.total:
            return None
        _, done, total = self._seen[0]
        remains = self.total - self.done
        shrunk = (total - done) - remains
        if shrunk <= 0:
            return None
        left = remains * took / shrunk
        return left if left < FOREVER else None

    def _took(self, now: float) -> float | None:
        if len(self._seen) < 2:
            return None
        took = now - self._seen[0][0]
        return took if took >= ENOUGH else None
