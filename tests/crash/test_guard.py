"""The engine killed at every point of a hold: the guard lets the guest go on.

The points come from the declaration. A slice of them runs with all tests; `make
guard` runs every one, prints how long the guest waited after the engine's death,
and fails when that was more than a second.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.engine.helper import QemuHypervisor
from backfold.engine.images import QemuImages
from backfold.engine.results import Deletion
from backfold.journal.errors import Refused
from backfold.journal.model import Disk
from backfold.states.deletion import BALLOT, DELETION
from backfold.states.machine import Moment
from backfold.states.unrecorded import end_unrecorded
from backfold.states.watch import Watch
from real.owners import Launcher
from real.scene import DOMAIN, At, Scene, play
from sampled import EVERY

VICTIM = Path(__file__).with_name("held.py")
#: Seconds that a busy machine may take; `make guard` sets how many it may not.
PATIENCE = 60.0
LIMIT = float(os.environ.get("BACKFOLD_GUARD_SECONDS", PATIENCE))
#: Microseconds between two writes of the guest.
CALM = 2000
MOMENTS = [str(moment) for moment in Moment]
#: Where somebody cancels, so that there is a second hold after the decision.
DECIDED = "vote.decide.noted"
HELD = [step.name for step in BALLOT[[s.name for s in BALLOT].index("hold") :]]


@dataclass(frozen=True)
class Point:
    """Where the engine dies, and at which places it waits before."""

    place: str
    after: tuple[str, ...] = ()

    @property
    def cancels(self) -> bool:
        """Whether somebody cancels the jobs after the decision."""
        return bool(self.after)

    @property
    def stands(self) -> bool:
        """Whether the guest stands for certain when the engine dies here."""
        _, step, moment = self.place.split(".")
        if step in ("decide", "finalize", "unfence", "call_hook", "decide_again"):
            return True
        if step == "release_guest":
            return moment == Moment.ANNOUNCED
        return (HELD.index(step), MOMENTS.index(moment)) >= (1, 1)

    def __str__(self) -> str:
        """The name of the test."""
        return "-after-".join((self.place, *self.after))


def points() -> list[Point]:
    """Every point from the first row of a hold to the end of the release."""
    first = [f"vote.{step}.{m}" for step in HELD for m in MOMENTS]
    first += [f"vote.decide.{m}" for m in (Moment.ANNOUNCED, Moment.NOTED)]
    ends = [f"pivot.{step}.{m}" for step in ("finalize", "call_hook") for m in MOMENTS]
    ends += [f"pivot.release_guest.{m}" for m in MOMENTS[:2]]
    kept = [f"pivot.unfence.{m}" for m in MOMENTS]
    again = [f"pivot.{step}.{m}" for step in HELD for m in MOMENTS]
    again += [f"pivot.decide_again.{m}" for m in MOMENTS]
    voted_again = (DECIDED, "pivot.decide_again.noted")
    return [
        *(Point(place) for place in first + ends),
        *(Point(place, (DECIDED,)) for place in ends + kept + again),
        *(Point(place, voted_again) for place in ends),
    ]


def test_every_declared_step_of_the_hold_is_a_point() -> None:
    """A step that is declared between `hold` and its release cannot be forgotten."""
    reached = {tuple(p.place.split(".")[:2]) for p in points()}
    for state in DELETION.states:
        covered = {s.name for s in state.steps if s.covered_by is not None}
        if state.name in ("vote", "pivot"):
            assert {(state.name, name) for name in covered} <= reached
        else:
            assert not covered


SLICE = [
    Point("vote.decide.announced"),
    Point("pivot.complete_jobs.done", (DECIDED,)),
]
ALL = EVERY
PAUSED = ["vote.complete_jobs.done", "vote.decide.noted"]
LOCKED = ["vote.decide.noted", "vote.fence.done"]
DAMAGED = ["pivot.finalize.done", "vote.fence.done"]
UNWATCHED = ["vote.complete_jobs.done", "vote.decide.noted"]
CHOSEN = points() if ALL else SLICE


@contextmanager
def victim(scene: Scene, point: Point) -> Iterator[subprocess.Popen[str]]:
    """The engine that will die, standing at the point."""
    places = ",".join((*point.after, point.place))
    process = subprocess.Popen(
        [sys.executable, VICTIM, scene.journal, "s3", places],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for place in point.after:
            line(process.stdout)
            if place == DECIDED:
                cancel_jobs(scene)
            go_on(process)
        line(process.stdout)
        yield process
    finally:
        process.kill()
        process.communicate()


def line(stream: IO[str] | None) -> str:
    """What the victim says."""
    assert stream is not None
    said = stream.readline()
    assert said, "the victim has ended before it came there"
    return said


def go_on(process: subprocess.Popen[str]) -> None:
    """Let the victim go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def die(process: subprocess.Popen[str]) -> float:
    """Let the victim die; when that was (monotonic seconds)."""
    go_on(process)
    died = float(line(process.stdout))
    process.wait(PATIENCE)
    return died


def cancel_jobs(scene: Scene) -> None:
    """What an operator could do on a monitor of his own."""
    for job in scene.machine.qmp("query-jobs"):
        scene.machine.qmp("job-cancel", id=job["id"])
    wait_for(
        lambda: all(
            j["status"] == "concluded" for j in scene.machine.qmp("query-jobs")
        ),
        "the jobs do not end",
    )


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Wait for it, for as long as a busy machine may take; when it came true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return time.monotonic()


def hold_is_over(scene: Scene) -> bool:
    """What the journal says."""
    return scene.rows("deletions", "hold, id")[0][0] is None


async def finish(scene: Scene) -> Deletion:
    """`recover` ends what the guard left, and nothing is lost."""
    await scene.engine.recover()
    [deletion] = await scene.engine.deletions()
    assert deletion.state == "completed"
    await scene.write()
    await scene.verify()
    return deletion


@pytest.mark.parametrize("point", CHOSEN, ids=str)
def test_the_guard_lets_the_guest_go_on(
    tmp_path: Path, point: Point, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL at the point; the guest runs, the hold is over, the downtime is told."""

    async def story() -> None:
        async with Scene(tmp_path, pause=CALM) as scene:
            await scene.take("s3")
            await scene.write()
            if "call_hook" in point.place:
                await scene.engine.set_hook(DOMAIN, str(Launcher(tmp_path).hook))
            with victim(scene, point) as engine:
                stood = scene.run_state() != "running"
                assert stood == point.stands
                before = scene.rows("deletions", "downtime_ms, id")[0][0] or 0.0
                died = die(engine)
            ran = wait_for(lambda: scene.run_state() == "running", "it still stands")
            await scene.write()
            wait_for(lambda: hold_is_over(scene), "the journal has the hold still")
            await scene.let_helpers_end()
            waited = ran - died
            record_property("released_after_seconds", round(waited, 3))
            assert waited < LIMIT
            told = scene.rows("deletions", "downtime_ms, id")[0][0] or 0.0
            assert told > before if stood else told >= before
            deletion = await finish(scene)
            # The sum: what recovery holds the guest for comes on top.
            assert deletion.downtime_ms is not None
            assert deletion.downtime_ms >= told
            if point.place.startswith("vote.") and point.place != DECIDED:
                assert deletion.downtime_ms > told

    play(story())


@pytest.mark.parametrize("place", PAUSED if ALL else PAUSED[:1])
def test_a_paused_guest_is_watched_over_too(tmp_path: Path, place: str) -> None:
    """An operator's `cont` in the hold of a dead engine: the guest can write."""

    async def story() -> None:
        async with Scene(tmp_path, pause=CALM) as scene:
            await scene.take("s3")
            await scene.write()
            scene.machine.qmp("stop")
            with victim(scene, Point(place)) as engine:
                die(engine)
            wait_for(lambda: hold_is_over(scene), "the guard did nothing")
            assert scene.run_state() == "paused"
            scene.machine.qmp("cont")
            await scene.write()
            deletion = await finish(scene)
            assert place == "vote.complete_jobs.done" or deletion.downtime_ms is None

    play(story())


@pytest.mark.parametrize("place", LOCKED if ALL else LOCKED[:1])
def test_a_locked_journal_does_not_freeze_the_guest(tmp_path: Path, place: str) -> None:
    """Another process writes to the journal and does not end."""

    async def story() -> None:
        async with Scene(tmp_path, pause=CALM) as scene:
            await scene.take("s3")
            await scene.write()
            with (
                victim(scene, Point(place)) as engine,
                closing(sqlite3.connect(scene.journal, isolation_level=None)) as other,
            ):
                other.execute("begin immediate")
                die(engine)
                wait_for(lambda: scene.run_state() == "running", "it waits for SQLite")
                await scene.write()
                assert not hold_is_over(scene)
                other.execute("rollback")
            wait_for(lambda: hold_is_over(scene), "the release was not recorded")
            assert scene.rows("deletions", "downtime_ms, id")[0][0] > 0
            await finish(scene)

    play(story())


@pytest.mark.parametrize("place", DAMAGED if ALL else DAMAGED[:1])
def test_a_damaged_journal_does_not_freeze_the_guest(
    tmp_path: Path, place: str
) -> None:
    """The journal is garbage when the engine dies, and comes back later."""

    async def story() -> None:
        async with Scene(tmp_path, pause=CALM) as scene:
            await scene.take("s3")
            await scene.write()
            await scene.engine.__aexit__(None, None, None)
            with victim(scene, Point(place)) as engine:
                files = [scene.journal, scene.journal.with_name("journal.db-wal")]
                kept = [file.read_bytes() for file in files]
                for file, content in zip(files, kept, strict=True):
                    file.write_bytes(b"\xa5" * len(content))
                die(engine)
            wait_for(lambda: scene.run_state() == "running", "it waits for SQLite")
            await scene.write()
            for pid in scene.helpers():  # It would try for a while to record it.
                os.kill(pid, signal.SIGKILL)
            await scene.let_helpers_end()
            scene.journal.with_name("journal.db-shm").unlink(missing_ok=True)
            for file, content in zip(files, kept, strict=True):
                file.write_bytes(content)
            await scene.engine.__aenter__()
            await finish(scene)

    play(story())


@pytest.mark.parametrize("place", UNWATCHED if ALL else UNWATCHED[:1])
def test_recover_frees_a_guest_that_nobody_watched(tmp_path: Path, place: str) -> None:
    """The guard was killed too: first of all, before another open run is looked at."""

    async def story() -> None:
        async with Scene(tmp_path, pause=CALM) as scene:
            await scene.take("s3")
            await scene.write()
            with victim(scene, Point(place)) as engine:
                for pid in set(scene.helpers()) - {engine.pid}:
                    os.kill(pid, signal.SIGKILL)
                die(engine)
            await scene.let_helpers_end()
            assert scene.run_state() == "paused"
            other = Disk("vda", str(tmp_path / "other.qcow2"), "qcow2")
            qemu_img("create", "-q", "-f", "qcow2", other.source, "1M")
            await scene.engine.add_domain("other", [other])
            with closing(sqlite3.connect(scene.journal)) as db, db:
                db.execute(
                    "insert into deletions (id, domain, snapshot, state, options,"
                    " started) values ('ffffffffffff', 'other', 's1', 'validate',"
                    " '{}', '9999')"
                )
            probe = At("nowhere", lambda: None)
            await scene.with_probe(probe)
            mine, its = sorted(
                await scene.engine.recover(), key=lambda end: isinstance(end, Refused)
            )
            assert isinstance(mine, Deletion) and isinstance(its, Refused)
            assert mine.state == "completed" and (mine.downtime_ms or 0) > 0
            freed = {"vote.release_votes.done", "pivot.release_guest.done"}
            first = next(i for i, seen in enumerate(probe.seen) if seen in freed)
            assert first < probe.seen.index("validate.refuse.announced")
            assert first < 10
            await scene.write()
            with closing(sqlite3.connect(scene.journal)) as db, db:
                db.execute("delete from disks where domain = 'other'")
                db.execute("delete from images where path = ?", (other.source,))
            await scene.verify()

    play(story())


class Listener:
    """A guard that only remembers what it was told."""

    def __init__(self) -> None:
        """Nothing was told yet."""
        self.watch: Watch | None = None

    async def start(self, watch: Watch) -> None:
        """Remember."""
        self.watch = watch

    async def dismiss(self) -> None:
        """Do nothing."""

    async def take_over(self) -> None:
        """Do nothing."""


def test_a_guard_that_comes_late_undoes_nothing(tmp_path: Path) -> None:
    """The hold has ended without it, and an operator has paused the guest since."""

    async def story() -> None:
        guard = Listener()
        async with Scene(tmp_path, pause=CALM, guard=guard) as scene:
            await scene.take("s3")
            await scene.write()
            await scene.delete("s3")
            assert guard.watch is not None
            assert Watch.from_json(guard.watch.to_json()) == guard.watch
            scene.machine.qmp("stop")
            before = scene.rows("transitions"), scene.images()
            await scene.engine.release(guard.watch).end()
            let_go = await end_unrecorded(guard.watch, QemuHypervisor(), QemuImages())
            assert not let_go
            assert scene.run_state() == "paused"
            assert (scene.rows("transitions"), scene.images()) == before
            scene.machine.qmp("cont")
            await scene.write()
            await scene.verify()

    play(story())
