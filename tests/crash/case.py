"""One case: killed at a point, recovered, read back; or a cascade of such kills.

A cascade kills at its point, then kills the recovery at its first moment, the next
recovery at the first moment that no recovery has died at yet, and so on, until one
comes through. So a recovery dies at each of its moments, always after another
recovery that has died too.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from backfold.engine import helper_process
from backfold.engine.api import Engine
from backfold.journal.errors import AlreadyDecided, BackfoldError
from backfold.states.deletion import DELETION, UNDECIDED
from crash import proof
from crash.forks import Ended, Say, forked
from crash.nursery import Nursery
from crash.points import MOST, Point, Watch
from crash.scenarios import BITMAP, Scenario, named
from crash.stage import Copied, Wardrobe
from real.scene import DOMAIN

#: Who is killed at the point.
WHO: Final = ("engine", "qemu", "both")
#: What is done about it.
HOW: Final = ("resume", "roll_back")
#: The guest may stand still for so long: the machine is busy with other cases.
DOWNTIME_MS: Final = 20_000
#: No child may take longer, in seconds.
PATIENCE: Final = 120
#: A cascade that is longer than this does not end.
LONGEST: Final = 150


@dataclass(frozen=True)
class Case:
    """What is killed where, and what follows."""

    scenario: Scenario
    who: str
    how: str
    point: Point
    cascade: bool = False

    def __str__(self) -> str:
        """As in `running-newest-1 engine resume vote.fence.done once`."""
        often = "cascade" if self.cascade else "once"
        return f"{self.scenario} {self.who} {self.how} {self.point} {often}"

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read what `str` wrote; ValueError or KeyError when it is something else."""
        scenario, who, how, point, often = name.split()
        cascade = {"once": False, "cascade": True}[often]
        return cls(named(scenario), who, how, Point.parse(point), cascade)

    def is_meant(self, words: list[str]) -> bool:
        """Whether each word is one of the name, or the beginning of the point."""
        mine = str(self).split()
        point = f"{self.point}."
        return all(word in mine or point.startswith(f"{word}.") for word in words)


@dataclass
class Outcome:
    """What came of a case."""

    case: str
    kills: int = 0
    recoveries_killed: int = 0
    writes: int = 0
    state: str = ""
    died_at: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def losses(self) -> int:
        """How many faults are lost data."""
        return sum("LOST" in fault for fault in self.faults)


class Play:
    """A scene, its victims, and who dies."""

    def __init__(self, scene: Copied, scenario: Scenario, nursery: Nursery) -> None:
        """Boot the guest as the scenario has it."""
        self.scene = scene
        self.scenario = scenario
        self._nursery = nursery
        self._log = scene.folder / "victims.log"
        self._former = {run for run, _ in scene.rows("deletions", "id, state")}
        if scenario.power != "off":
            scene.power_up()
        if scenario.power == "paused":
            scene.machine.qmp("stop")

    def delete(self, act: Callable[[Point, Say], None]) -> Ended:
        """Delete the snapshot in a victim; ``act`` is called at each point."""
        story, order = self.scenario.story, self.scenario.order

        async def work(say: Say) -> None:
            def reached(point: Point) -> None:
                if story is not None and point == story.point:
                    story.disturb(self.scene)
                act(point, say)

            async with self._engine(reached) as engine:
                ended = await engine.delete(
                    DOMAIN,
                    order.gone[0],
                    through=order.through,
                    scope=order.scope,
                    strategy=order.strategy,
                    max_downtime_ms=DOWNTIME_MS,
                )
                say(f"state {ended.state}")

        return self._forked(work)

    def recover(self, how: str, act: Callable[[Point, Say], None]) -> Ended:
        """Resume or roll back in a victim; after the decision only the first can be."""

        async def work(say: Say) -> None:
            def reached(point: Point) -> None:
                act(point, say)

            async with self._engine(reached) as engine:
                run = await engine.deletion(self.state()[0])
                if how == "roll_back":
                    try:
                        await engine.roll_back(run.id)
                        return
                    except AlreadyDecided:
                        say("decided")
                await engine.resume(run.id)

        return self._forked(work)

    def kill(self, who: str) -> None:
        """Kill, called in the victim; the victim itself last."""
        if who != "engine":
            for pid in self.others():
                os.kill(pid, signal.SIGKILL)
        if who != "qemu":
            os.kill(os.getpid(), signal.SIGKILL)

    def others(self) -> list[int]:
        """The QEMU of the domain, and the helper, as far as they live."""
        found = [] if self.scene.qemu is None else [self.scene.qemu]
        rows = self.scene.rows("deletions where helper is not null", "helper, id")
        for text, _ in rows:
            helper = json.loads(text)
            option = f"unix:{helper['socket']},server=on,wait=off"
            pid = helper.get("pid") or helper_process.find_qemu_with(option)
            if pid is not None and helper_process.is_qemu_with(pid, option):
                found.append(pid)
        return [pid for pid in found if helper_process.start_time(pid) is not None]

    def state(self) -> tuple[str, str, bool]:
        """Id and state of the deletion, and whether it has ended."""
        found = self.scene.rows("deletions", "id, state, finished")
        [(run, state, finished)] = [row for row in found if row[0] not in self._former]
        return str(run), str(state), finished is not None

    def is_recorded(self) -> bool:
        """Whether the deletion is in a later pass: its snapshots are gone."""
        run, _, _ = self.state()
        return (run, "[]") not in self.scene.rows("deletions", "id, passes")

    def words(self) -> str:
        """What the victims wrote to their log, the end of it."""
        return self._log.read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """Kill what is left."""
        self._nursery.wait()
        self.scene.machine.__exit__(None, None, None)
        for pid in self.scene.helpers():
            os.kill(pid, signal.SIGKILL)

    def _engine(self, reached: Callable[[Point], None]) -> Engine:
        sys.executable = str(self._nursery.program)  # For the guard, in the victim.
        return self.scene.new_engine(probe=Watch(reached))

    def _forked(self, work: Callable[[Say], object]) -> Ended:
        async def story(say: Say) -> None:
            try:
                await work(say)  # type: ignore[misc]
            except BackfoldError as error:
                say(f"{type(error).__name__}: {error}")

        ended = forked(story, self._log, PATIENCE)
        self._nursery.wait()
        self.scene.machine.poll()  # Collect it if it was killed.
        return ended


def record(
    scenario: Scenario, wardrobe: Wardrobe, nursery: Nursery
) -> list[tuple[Point, bool]]:
    """The points of an undisturbed run, and whether a QEMU or helper is there."""
    scene = wardrobe.scene(scenario.order.stage, scenario.disks)
    play = Play(scene, scenario, nursery)
    try:

        def act(point: Point, say: Say) -> None:
            say(f"point {point} {int(bool(play.others()))}")

        ended = play.delete(act)
        assert ended.status == 0, (ended, play.words())
    finally:
        play.close()
    found = [line.split()[1:] for line in ended.said if line.startswith("point ")]
    points = [(Point.parse(name), there == "1") for name, there in found]
    if scenario.story is not None:
        began = [point for point, _ in points].index(scenario.story.point)
        points = points[began:]
    return [(point, there) for point, there in points if point.nth <= MOST]


def run(case: Case, wardrobe: Wardrobe, nursery: Nursery) -> Outcome:
    """Play a case to its end, and read everything back."""
    began = time.monotonic()
    outcome = Outcome(str(case))
    scene = wardrobe.scene(case.scenario.order.stage, case.scenario.disks)
    play = Play(scene, case.scenario, nursery)
    try:
        _play(case, play, outcome)
    except Exception as error:
        outcome.faults.append(f"{type(error).__name__}: {error}")
    finally:
        if outcome.faults:
            outcome.faults.append(play.words())
        play.close()
    outcome.seconds = round(time.monotonic() - began, 3)
    return outcome


def _play(case: Case, play: Play, outcome: Outcome) -> None:
    before = play.scene.ledger.last_acknowledged()
    died: set[Point] = set()

    def at_the_point(point: Point, say: Say) -> None:
        if point == case.point:
            say(f"died {point}")
            play.kill(case.who)

    def further(point: Point, say: Say) -> None:
        if point not in died and point.nth <= MOST and _is_new(case, point):
            say(f"died {point}")
            play.kill("engine" if case.who == "engine" else "both")

    def count(ended: Ended) -> Point | None:
        places = [line[5:] for line in ended.said if line.startswith("died ")]
        outcome.died_at += places
        outcome.kills += len(places)
        return Point.parse(places[0]) if places else None

    ended = play.delete(at_the_point)
    if count(ended) is None:
        outcome.faults.append(f"the point did not come: {ended}")
    expected = _expected(case, play)
    owned = case.scenario.told == "owned"
    if owned and not play.scene.is_started():
        found = proof.of_launcher(play.scene, at_rest=False)
        outcome.faults += asyncio.run(found)
    if case.who == "qemu" and not play.state()[2]:
        outcome.faults.append(f"the engine left it open in {play.state()[1]}: {ended}")
    while case.cascade and len(died) < LONGEST:
        ended = play.recover(case.how, further)
        place = count(ended)
        if place is None:
            break
        outcome.recoveries_killed += 1
        died.add(place)
    if ended.status != 0 or not case.cascade:
        ended = play.recover(case.how, lambda point, say: None)
    run, outcome.state, finished = play.state()
    if ended.status != 0 or not finished or outcome.state not in expected:
        outcome.faults.append(f"{outcome.state}, not {sorted(expected)}: {ended}")
    if play.scene.is_started():
        if case.who != "engine":
            outcome.faults.append("QEMU lives")
        outcome.faults += proof.of_living(play.scene, case.scenario.power, before)
        if case.scenario.told == "noted":
            outcome.faults += proof.of_bitmap(play.scene, BITMAP)
        play.scene.machine.kill()
    if owned:
        outcome.faults += asyncio.run(proof.of_launcher(play.scene, at_rest=True))
    leaks = case.who != "engine" or case.scenario.told is not None
    outcome.writes, faults = asyncio.run(
        proof.of_dead(play.scene, run, case.scenario, leaks)
    )
    outcome.faults += faults


def _is_new(case: Case, point: Point) -> bool:
    """Whether a cascade is to die there.

    What comes after the decision is walked through by the cascade that begins with
    the deletion, and by those that begin there; not by all those in between.
    """
    begins = case.point.state == DELETION.initial
    decided = (case.point.state, case.point.step) == ("vote", "decide")
    undecided = case.point.state in UNDECIDED and not decided
    return begins or not undecided or point.state in UNDECIDED


def _expected(case: Case, play: Play) -> set[str]:
    """The states that the deletion may end in."""
    _, state, finished = play.state()
    if case.scenario.told == "linked":
        return {"refused", "rolled_back"}
    if case.who == "qemu" or case.scenario.told is not None:
        # The engine lived, or somebody disturbed it: it may have given up itself.
        return {"completed", "rolled_back"}
    if case.how == "roll_back" and state in UNDECIDED and not finished:
        if play.is_recorded():
            return {"completed"}  # An earlier pass has recorded it.
        return {"refused"} if state == "validate" else {"rolled_back"}
    return {"completed"}
