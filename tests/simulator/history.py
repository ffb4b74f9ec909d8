"""One history: a scene, what happens at which moment, and the verdict at its end.

Moments are counted over the whole history, so that a schedule (scene, and a list of
moment and action) says everything: the same schedule is the same history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from . import actions, operators
from .invariants import Violation, judge, judge_end
from .life import Endless, Life
from .play import Ending, Play

#: How often recovery is asked for before a run counts as left open.
ATTEMPTS = 4
#: More moments than any history needs.
MOMENTS = 6000


@dataclass(frozen=True, slots=True)
class Schedule:
    """A scene, and what happens to it: ``running-newest/57:kill/80:disconnect``."""

    scene: str
    steps: tuple[tuple[int, str], ...] = ()

    def __str__(self) -> str:
        """As `parse` reads it."""
        return "/".join([self.scene, *(f"{n}:{action}" for n, action in self.steps)])

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read what `str` wrote."""
        scene, *steps = text.split("/")
        pairs = (step.partition(":") for step in steps)
        return cls(scene, tuple((int(n), action) for n, _, action in pairs))

    def then(self, moment: int, action: str) -> Schedule:
        """One more thing happens."""
        return replace(self, steps=(*self.steps, (moment, action)))


@dataclass
class History:
    """Runs one schedule from a branch to its end.

    ``fork`` is told of each moment after the last step: it may copy the world there.
    """

    play: Play
    schedule: Schedule
    moment: int = 0
    done: int = 0
    orders: int = 0
    fork: Callable[[History, str], None] | None = None
    places: list[str] = field(default_factory=list)
    ending: Ending = field(default_factory=lambda: Ending("done"))

    def reached(self, life: Life, place: str) -> None:
        """The director: what the schedule says happens, and nothing else."""
        self.moment += 1
        self.places.append(place)
        if self.moment > MOMENTS:
            life.end()
            raise Endless(place)
        steps = self.schedule.steps
        if self.done == len(steps):
            if self.fork is not None:
                self.fork(self, place)
            return
        moment, action = steps[self.done]
        if moment != self.moment:
            return
        self.done += 1
        if action in actions.DISTURBANCES:
            actions.disturb(self.play, life, place, action)
            return
        life.end()
        actions.kill(self.play, action)

    def run(self) -> None:
        """To the end. Raises `Violation` when an invariant does not hold."""
        play = self.play
        if self.orders:
            judge(play, self.meddled)
        while self.orders < ATTEMPTS + len(self.schedule.steps):
            if self.orders and not play.open_runs() and play.world.guarded is None:
                break
            is_quiet = self.done == len(self.schedule.steps)
            if self.orders and (is_quiet or self.ending.how == "open"):
                play.world.full = play.world.broken = False
                play.world.owner_is_broken = False
                operators.put_back(play)
            try:
                self.ending = self.next_order()
            except Endless as error:
                raise Violation(f"the engine does not end ({error})") from error
            self.orders += 1
            judge(play, self.meddled)
        operators.put_back(play)
        judge_end(play, self.excused, self.meddled)

    @property
    def excused(self) -> bool:
        """Whether an operator did what may keep a run open."""
        return any(action in actions.EXCUSES for _, action in self.schedule.steps)

    @property
    def meddled(self) -> bool:
        """Whether an operator changed names, so that they prove nothing by hand."""
        return any(action in actions.MEDDLING for _, action in self.schedule.steps)

    def next_order(self) -> Ending:
        """The scene's order, the guard's work, or recovery: what comes next."""
        play = self.play
        if not self.orders:
            return play.first(self)
        if play.world.guarded is not None:
            return play.release(self)
        if play.world.wants_back:
            return play.roll_back(self)
        return play.recover(self)


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """Drop steps one by one as long as it still fails."""
    for index in range(len(schedule.steps) - 1, -1, -1):
        fewer = schedule.steps[:index] + schedule.steps[index + 1 :]
        smaller = replace(schedule, steps=fewer)
        if fails(smaller):
            return shrink(smaller, fails)
    return schedule
