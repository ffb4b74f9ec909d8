"""How long the journal's transactions took to become durable."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CommitTimes:
    """COMMITs, how many, and seconds: all together, and the longest one.

    A COMMIT is the write and the fsync of SQLite's log, and now and then a checkpoint.
    """

    count: int = 0
    seconds: float = 0.0
    longest: float = 0.0


class CommitMeter:
    """Adds COMMITs up. One thread adds; any may look at `times`."""

    def __init__(self) -> None:
        """Nothing was measured yet."""
        self.times = CommitTimes()

    def add(self, seconds: float) -> None:
        """A COMMIT took so long. Whoever looks sees it whole, or not yet."""
        old = self.times
        self.times = CommitTimes(
            old.count + 1, old.seconds + seconds, max(old.longest, seconds)
        )
