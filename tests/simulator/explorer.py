"""The explorer: every disturbance at every moment, then what two and three do.

A kill is a copy of the world and of the journal, taken in the middle of a run that
goes on: no beginning is run twice for it. A state that is known (by its canonical
name) is not gone on from again. What meets a living engine has to be run from the
last copy before it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from . import actions
from .canon import canonical, journal_text
from .engine import Journal
from .history import History, Schedule
from .invariants import Violation
from .play import Play
from .scenes import SCENES, build
from .world import World

UNLIMITED: Final = 1 << 60
ALL_KILLS: Final = (
    *("kill", "kill-back", "kill-start", "kill-unguarded"),
    *("kill-both", "kill-both-boot"),
    *("power.lost", "power.kept", "power.1", "power.2", "power.3", "power.4"),
)


@dataclass
class Tally:
    """What was explored."""

    schedules: int = 0
    repeats: int = 0
    states: set[str] = field(default_factory=set)
    edges: Counter[tuple[str, ...]] = field(default_factory=Counter)
    failures: list[tuple[Schedule, str]] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """What another process explored."""
        self.schedules += other.schedules
        self.repeats += other.repeats
        self.states |= other.states
        self.edges += other.edges
        self.failures += other.failures


@dataclass(frozen=True, slots=True)
class Branch:
    """A host and its journal at an instant, to go on from.

    ``done`` steps of the schedule have happened, ``orders`` were given, and
    ``moment`` counts on from there.
    """

    world: World
    data: bytes
    schedule: Schedule
    done: int = 0
    moment: int = 0
    orders: int = 0


class Explorer:
    """Explores scenes; one process, one event loop."""

    def __init__(
        self, locks: Path, *, limit: int = UNLIMITED, deadline: float | None = None
    ) -> None:
        """``locks`` is a directory of this process.

        It stops after ``limit`` schedules, or at ``deadline`` (monotonic seconds).
        """
        self.tally = Tally()
        self._limit = limit
        self._deadline = deadline
        self._loop = asyncio.new_event_loop()
        self._locks = locks
        self._built: dict[str, tuple[World, bytes]] = {}
        self._known: set[tuple[str, int]] = set()

    def close(self) -> None:
        """Close the loop."""
        self._loop.close()

    @property
    def is_over(self) -> bool:
        """Whether the time or the number of schedules is used up."""
        late = self._deadline is not None and time.monotonic() > self._deadline
        return late or self.tally.schedules >= self._limit

    def start(self, scene: str) -> Branch:
        """The beginning of every history of a scene."""
        if scene not in self._built:
            self._built[scene] = build(SCENES[scene], self._loop, self._locks)
        world, data = self._built[scene]
        return Branch(world, data, Schedule(scene))

    def host(self, scene: str) -> Play:
        """A host of its own, at the beginning of a scene."""
        return self._history(self.start(scene)).play

    def play(self, schedule: Schedule) -> History:
        """Run one schedule from its beginning. Raises `Violation`."""
        history = self._history(replace(self.start(schedule.scene), schedule=schedule))
        try:
            history.run()
        finally:
            self._count(history)
            history.play.journal.close()
        return history

    def fails(self, schedule: Schedule) -> bool:
        """Whether a schedule violates an invariant."""
        try:
            self.play(schedule)
        except Exception:
            return True
        return False

    def every(
        self,
        branch: Branch,
        depth: int,
        only: Collection[str] = (*ALL_KILLS, *actions.DISTURBANCES),
    ) -> None:
        """Run a branch, and everything that may happen after it, ``depth`` deep.

        With a limit it is not everything, so that the order is a random one then.
        """
        children, places = self._grow(branch, depth, only)
        following = [*children, *self._disturbed(branch, places, only)]
        if self._limit < UNLIMITED:
            random.Random(str(branch.schedule)).shuffle(following)
        for child in following:
            if self.is_over:
                return
            self.every(child, depth - 1, only)

    def at_random(self, scene: str, seed: int, count: int) -> None:
        """``count`` things happen at random moments of one history."""
        chance = random.Random(f"{scene}-{seed}")
        branch = self.start(scene)
        schedule = branch.schedule
        moment = 0
        for _ in range(count):
            moment += 1 + int(chance.expovariate(1 / 40))
            action = chance.choice((*ALL_KILLS, *actions.DISTURBANCES))
            schedule = schedule.then(moment, action)
        self._run(self._history(replace(branch, schedule=schedule)))

    def _grow(
        self, branch: Branch, depth: int, only: Collection[str]
    ) -> tuple[list[Branch], list[tuple[int, str]]]:
        """Run a branch to its end: the kills on the way, and its moments."""
        found: list[Branch] = []
        places: list[tuple[int, str]] = []
        said = (-1, "")

        def fork(history: History, place: str) -> None:
            nonlocal said
            places.append((history.moment, place))
            journal = history.play.journal
            if said[0] != journal.version:
                said = (journal.version, journal_text(journal))
            for action in actions.kills(history.play):
                if action not in only:
                    continue
                play = history.play.glance()
                actions.kill(play, action)
                if self._is_new(canonical(play.world, said[1]), depth):
                    schedule = history.schedule.then(history.moment, action)
                    found.append(
                        Branch(
                            play.world,
                            journal.data,
                            schedule,
                            len(schedule.steps),
                            history.moment,
                            history.orders + 1,
                        )
                    )

        self._run(self._history(branch, fork if depth > 0 else None))
        return found, places if depth > 0 else []

    def _disturbed(
        self,
        branch: Branch,
        places: list[tuple[int, str]],
        only: Collection[str],
    ) -> Iterator[Branch]:
        for moment, place in places:
            for action in actions.disturbances(place):
                if action not in only:
                    continue
                yield replace(branch, schedule=branch.schedule.then(moment, action))

    def _history(
        self, branch: Branch, fork: Callable[[History, str], None] | None = None
    ) -> History:
        scene = SCENES[branch.schedule.scene]
        world = branch.world.copy()
        play = Play(scene, world, Journal(branch.data), self._loop, self._locks)
        return History(
            play, branch.schedule, branch.moment, branch.done, branch.orders, fork
        )

    def _run(self, history: History) -> None:
        try:
            history.run()
        except Violation as error:
            self.tally.failures.append((history.schedule, str(error)))
        except Exception as error:
            self.tally.failures.append((history.schedule, repr(error)))
        finally:
            self._count(history)
            history.play.journal.close()

    def _count(self, history: History) -> None:
        self.tally.schedules += 1
        rows = history.play.journal.db.execute(
            "select distinct machine, source, trigger, dest from transitions"
            " where kind = 'edge'"
        )
        self.tally.edges.update(rows.fetchall())

    def _is_new(self, state: str, depth: int) -> bool:
        """Whether this state was not gone on from with so much left to happen."""
        self.tally.states.add(state)
        if (state, depth) in self._known:
            self.tally.repeats += 1
            return False
        self._known.add((state, depth))
        return True
