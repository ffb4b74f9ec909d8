"""What recovery meets when the world has changed under an open deletion.

Each outcome is a row of "Things that recovery meets" in docs/internals.md. The data
is read back at the end of each story.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.results import Deletion
from backfold.journal.errors import AlreadyDecided, BackfoldError, Interrupted
from real.scene import At, NoGuard, Scene, play

#: Microseconds between two writes of the guest.
CALM = 2000
READY = "commit_per_disk.proceed.announced"
STOPPED = "vote.stop_guest.done"
SYNCED = "vote.sync_written.done"
FENCED = "vote.fence.done"
DECIDED = "vote.decide.noted"


class Dead(BaseException):
    """Raised in a probe: the engine does nothing more, as if it were dead."""


def scene_in(folder: Path, **options: Any) -> Scene:
    """A scene with a calm guest, in which nobody watches over holds."""
    return Scene(folder, guard=NoGuard(), pause=CALM, **options)


async def die_at(
    scene: Scene,
    place: str,
    gone: str,
    *,
    after: Callable[[], object] = lambda: None,
) -> None:
    """Delete, act, and have the engine do nothing more from that place on."""

    def act() -> None:
        after()
        raise Dead

    await scene.with_probe(At(place, act))
    with pytest.raises(Dead):
        await scene.delete(gone)
    await scene.with_probe(At("nowhere", lambda: None))


async def recovered(scene: Scene) -> Deletion:
    """`recover`, which must end the deletion."""
    (end,) = await scene.engine.recover()
    if isinstance(end, BackfoldError):
        raise end
    assert isinstance(end, Deletion) and not end.is_open
    return end


async def assert_left_open(scene: Scene, word: str) -> None:
    """`recover` says what is wrong, and touches nothing."""
    before = scene.fingerprints()
    (end,) = await scene.engine.recover()
    assert isinstance(end, Interrupted), end
    assert word in end.what
    assert scene.fingerprints() == before


def complete_by_hand(scene: Scene, number: int) -> None:
    """What an operator may do: complete a job and finalize it."""
    jobs = sorted(job["id"] for job in scene.machine.qmp("query-jobs"))
    status(scene, jobs[number], "ready")
    scene.machine.qmp("job-complete", id=jobs[number])
    status(scene, jobs[number], "pending")
    scene.machine.qmp("job-finalize", id=jobs[number])
    status(scene, jobs[number], "concluded")


def status(scene: Scene, job: str, wanted: str) -> None:
    """Wait until a job has this status."""
    for _ in range(6000):
        found = {j["id"]: j["status"] for j in scene.machine.qmp("query-jobs")}
        if found[job] == wanted:
            return
        os.sched_yield()
    raise AssertionError(f"{job} is {found[job]}, not {wanted}")


# Somebody completes a job by hand


def test_a_job_is_completed_by_hand(tmp_path: Path) -> None:
    """The guest is on one base without a decision: there is only forward."""

    async def story() -> None:
        async with scene_in(tmp_path, disks=2) as scene:
            await scene.take_three()
            await die_at(scene, READY, "s3", after=lambda: complete_by_hand(scene, 0))
            await scene.write()
            [(run, _)] = scene.open_runs()
            with pytest.raises(AlreadyDecided):
                await scene.engine.roll_back(run)
            await scene.write()
            assert (await recovered(scene)).state == "completed"
            assert scene.run_state() == "running"
            await scene.write()
            await scene.verify()

    play(story())


@pytest.mark.parametrize("place", [READY, STOPPED])
def test_the_engine_goes_on_when_a_job_is_completed_by_hand(
    tmp_path: Path, place: str
) -> None:
    """Even in the hold: the vote is released, and the disk needs none any more."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take_three()

            def act() -> None:
                if place == READY:
                    complete_by_hand(scene, 0)
                    return
                (job,) = scene.machine.qmp("query-jobs")
                scene.machine.qmp("cont")
                scene.machine.qmp("job-complete", id=job["id"])
                status(scene, job["id"], "pending")
                scene.machine.qmp("job-finalize", id=job["id"])
                status(scene, job["id"], "concluded")

            await scene.with_probe(At(place, act))
            assert (await scene.delete("s3")).state == "completed"
            assert scene.run_state() == "running"
            await scene.write()
            await scene.verify()

    play(story())
