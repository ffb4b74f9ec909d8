"""The moments of a run, as the probe is told of them: recorded, and killed at.

A point is one moment of one step or edge, and which time it comes: with two disks
`commit_per_disk.start_job.done` comes twice. Nothing is drawn by lot here: an
undisturbed run is recorded, and then somebody dies at every point of the record.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple, Self

from backfold.engine.runner import crash_points
from backfold.states.deletion import DELETION

#: A step that comes more often than this in one run is one that waits and looks
#: again (somebody else decides how often): dying in it once more shows nothing new.
MOST: Final = 3


class Point(NamedTuple):
    """One moment of a deletion; its ``nth`` time."""

    state: str
    step: str
    moment: str
    nth: int = 1

    def __str__(self) -> str:
        """As in `vote.fence.done` and `update_metadata.unlink.noted#2`."""
        name = f"{self.state}.{self.step}.{self.moment}"
        return name if self.nth == 1 else f"{name}#{self.nth}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str` wrote; ValueError when it is something else."""
        name, _, nth = text.partition("#")
        state, step, moment = name.split(".")
        return cls(state, step, moment, int(nth or "1"))


class Watch:
    """A probe that gives every moment of the deletion its point, and asks about it."""

    def __init__(self, act: Callable[[Point], None]) -> None:
        """``act`` is called at each point, in the engine's own thread of work."""
        self._act = act
        self._times: Counter[tuple[str, str, str]] = Counter()

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """A moment has come; the engine stands still until ``act`` returns."""
        if machine == DELETION.name:
            self._times[state, step, moment] += 1
            times = self._times[state, step, moment]
            self._act(Point(state, step, moment, times))


def declared() -> list[Point]:
    """Every moment that the declaration has, without regard to repetitions."""
    return [Point(*found) for found in crash_points(DELETION)]
