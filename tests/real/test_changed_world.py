"""What recovery meets when the world has changed under an open deletion.

Each outcome is a row of "Things that recovery meets" in docs/internals.md. The data
is read back at the end of each story.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.machine import MachineError
from backfold.engine.images import QemuImages
from backfold.engine.results import Deletion
from backfold.journal.errors import AlreadyDecided, BackfoldError, Busy, Interrupted
from backfold.journal.model import FileId
from real.scene import DOWNTIME_MS, At, NoGuard, Scene, play
from sampled import sampled

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


async def take(scene: Scene) -> None:
    """One snapshot of a guest that writes on."""
    await scene.take("s3")
    await scene.write()


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
            await take(scene)
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


@pytest.mark.parametrize("place", sampled(1, [STOPPED, READY]))
def test_the_engine_goes_on_when_a_job_is_completed_by_hand(
    tmp_path: Path, place: str
) -> None:
    """Even in the hold: the vote is released, and the disk needs none any more."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)

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


def test_a_job_vanished_while_the_engine_was_dead(tmp_path: Path) -> None:
    """Cancelled and dismissed by an operator: it is started again."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            await die_at(scene, READY, "s3")
            (job,) = scene.machine.qmp("query-jobs")
            scene.machine.qmp("job-cancel", id=job["id"])
            status(scene, job["id"], "concluded")
            scene.machine.qmp("job-dismiss", id=job["id"])
            await scene.write()
            assert (await recovered(scene)).state == "completed"
            await scene.write()
            await scene.verify()

    play(story())


# QEMU is restarted by hand


@pytest.mark.parametrize(
    "place", sampled(1, ["vote.hold.noted", "prepare.probe_fence.noted"])
)
def test_qemu_is_restarted_from_the_overlay(tmp_path: Path, place: str) -> None:
    """Before the decision: planned again, on the machine that runs now."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            await scene.disks()

            def restart() -> None:
                scene.machine.kill()
                scene.machine.start()
                scene.machine.wait_for_writes(5)

            scene.machine.disks = [
                (d.target, Path(d.source), d.format) for d in await scene.disks()
            ]
            await scene.with_probe(At(place, restart))
            assert (await scene.delete("s3")).state == "completed"
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


def test_qemu_that_was_restarted_paused_in_the_hold_stays_paused(
    tmp_path: Path,
) -> None:
    """We stopped another QEMU than this one: it is not ours to let go on."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            scene.machine.disks = [
                (d.target, Path(d.source), d.format) for d in await scene.disks()
            ]

            def restart() -> None:
                scene.machine.kill()
                scene.machine.paused = True
                scene.machine.start()

            await scene.with_probe(At(SYNCED, restart))
            assert (await scene.delete("s3")).state == "completed"
            assert scene.run_state() == "prelaunch"
            scene.machine.qmp("cont")
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


@pytest.mark.parametrize("place", sampled(1, [DECIDED, FENCED]))
def test_the_wrong_image_cannot_be_started(tmp_path: Path, place: str) -> None:
    """The fence has taken its name: an operator's start fails."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            scene.machine.disks = [
                (d.target, Path(d.source), d.format) for d in await scene.disks()
            ]
            said: list[str] = []

            def start() -> None:
                scene.machine.kill()
                try:
                    scene.machine.start()
                except MachineError as error:
                    said.append(str(error))

            await scene.with_probe(At(place, start))
            assert (await scene.delete("s3")).state == "completed"
            assert "No such file" in said[0]
            await scene.boot()
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


# The host is rebooted


@pytest.mark.parametrize(
    "place", sampled(1, [DECIDED, "commit_per_disk.start_job.noted"])
)
def test_the_host_was_rebooted(tmp_path: Path, place: str) -> None:
    """Stale pids and sockets, another boot, other device numbers: the same files."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            is_off = place != DECIDED
            if is_off:
                scene.machine.quit()
            await die_at(scene, place, "s3")
            scene.machine.kill()
            for pid in scene.helpers():
                os.kill(pid, 9)
            await scene.let_helpers_end()
            await scene.engine.__aexit__(None, None, None)
            age(scene)
            await scene.engine.__aenter__()
            sources = [Path(disk.source) for disk in await scene.disks()]
            assert all(source.exists() for source in sources), sources
            deletion = await recovered(scene)
            assert deletion.state == "completed"
            assert deletion.downtime_ms is None
            await scene.boot()
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


def age(scene: Scene) -> None:
    """Make of the open deletion one that was begun before a reboot."""

    def older(value: Any) -> Any:
        if isinstance(value, list):
            return [older(item) for item in value]
        if not isinstance(value, dict):
            return value
        new = {name: older(item) for name, item in value.items()}
        if "device" in new:
            new["device"] += 7
        if "boot_id" in new:
            new["boot_id"] = "an earlier boot"
        if "pid" in new:  # Of a process that lives today.
            new["pid"] = os.getpid()
        return new

    db = sqlite3.connect(scene.journal)
    with db:
        [row] = db.execute("select plan, hold, helper from deletions").fetchall()
        changed = [text and json.dumps(older(json.loads(text))) for text in row]
        db.execute("update deletions set plan = ?, hold = ?, helper = ?", changed)
    db.close()


# The storage is slow


class SlowImages(QemuImages):
    """Images whose syncs, or renames, take their time, the first time in a hold."""

    def __init__(self, scene: Scene, what: str) -> None:
        """``what`` is ``sync`` or ``rename``."""
        super().__init__()
        self._scene = scene
        self._what = what
        self.is_slow = self.has_frozen = False

    async def sync(self, paths: Sequence[str]) -> None:
        """Wait before it, for longer than the guest may stand."""
        await self._take_time("sync")
        await super().sync(paths)

    async def rename(self, old: str, new: str, file: FileId) -> None:
        """Wait before it, for longer than the guest may stand."""
        await self._take_time("rename")
        await super().rename(old, new, file)

    async def _take_time(self, what: str) -> None:
        if what != self._what or self.is_slow or self._scene.run_state() != "paused":
            return
        self.is_slow = True
        if what == "rename":
            await asyncio.sleep(DOWNTIME_MS / 1000 + 0.5)
            return
        # A sync that hangs for as long as the guest stands still.
        await asyncio.sleep(60)
        self.has_frozen = True


@pytest.mark.parametrize("what", sampled(1, ["sync", "rename"]))
def test_the_storage_is_too_slow_in_the_hold(tmp_path: Path, what: str) -> None:
    """The guest goes on instead, and is held again; both holds are told."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            images = SlowImages(scene, what)
            async with scene.new_engine(images=images) as engine:
                deletion = await engine.delete("web", "s3", max_downtime_ms=DOWNTIME_MS)
            assert images.is_slow and not images.has_frozen
            assert deletion.state == "completed"
            edges = [
                trigger
                for _, trigger in scene.rows(
                    "transitions where machine = 'deletion' and kind = 'edge'",
                    "id, trigger",
                )
            ]
            assert edges.index("back_off") < edges.index("decide")
            # The first hold alone lasted so long; the second comes on top.
            assert (deletion.downtime_ms or 0) > DOWNTIME_MS
            await scene.write()
            await scene.verify()

    play(story())


def test_stamps_are_of_the_time_before_the_last_look(tmp_path: Path) -> None:
    """What is written after the look must show as a change."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            later = 4_000_000_000 * 10**9

            def touch() -> None:
                for path in scene.images():
                    os.utime(path, ns=(later, later))

            await scene.with_probe(At("vote.look_again.announced", touch))
            assert (await scene.delete("s3")).state == "completed"
            [stamps] = scene.rows("folds", "top_stamp, base_stamp")
            assert not any(str(later) in stamp for stamp in stamps)
            await scene.write()
            await scene.verify()

    play(story())


# Somebody moves, replaces or cuts an image


def move(path: Path) -> Callable[[], object]:
    """Put it away; returns how to bring it back."""
    away = path.with_name("away")
    path.rename(away)
    return lambda: away.rename(path)


def replace_by_a_copy(path: Path) -> Callable[[], object]:
    """Another file of the same name and content."""
    away = path.with_name("away")
    path.rename(away)
    shutil.copy(away, path)
    return lambda: away.replace(path)


def cut(path: Path) -> Callable[[], object]:
    """A file that lost its end."""
    away, size = path.with_name("away"), path.stat().st_size
    shutil.copy(path, away)
    os.truncate(path, size // 2)

    def mend() -> None:
        content = away.read_bytes()
        with path.open("r+b") as stream:
            stream.write(content)
        away.unlink()

    return mend


@pytest.mark.parametrize("harm", sampled(1, [cut, replace_by_a_copy, move]))
def test_a_base_is_harmed_after_the_decision(
    tmp_path: Path, harm: Callable[[Path], Callable[[], object]]
) -> None:
    """It holds the data: reported, nothing touched; it goes on once it is back."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            await die_at(scene, DECIDED, "s3")
            scene.machine.kill()
            (disk,) = await scene.disks()
            mend = harm(Path(disk.source))
            (harmed,) = await scene.disks()
            assert harmed.broken is not None
            await assert_left_open(scene, disk.source)
            mend()
            assert (await recovered(scene)).state == "completed"
            await scene.boot()
            await scene.write()
            await scene.verify()

    play(story())


def test_an_overlay_is_cut_after_the_decision(tmp_path: Path) -> None:
    """A harmed overlay did not go on: it is never copied over a complete base."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            await die_at(scene, DECIDED, "s3")
            scene.machine.kill()
            (fence,) = [path for path in scene.images() if ".backfold" in path.name]
            os.truncate(fence, fence.stat().st_size // 2)
            await assert_left_open(scene, str(fence).partition(".backfold")[0])
            fence.unlink()
            assert (await recovered(scene)).state == "completed"
            await scene.boot()
            await scene.write()
            await scene.verify()

    play(story())


@pytest.mark.parametrize("which", sampled(1, ["base", "overlay"]))
def test_an_image_is_moved_away_before_the_decision(tmp_path: Path, which: str) -> None:
    """Refused with the reason and given up; deleted again when it is back."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            scene.machine.quit()
            await die_at(scene, "commit_per_disk.start_job.noted", "s3")
            for pid in scene.helpers():
                os.kill(pid, 9)
            await scene.let_helpers_end()
            (disk,) = await scene.disks()
            path = Path(disk.chain[1 if which == "base" else 0])
            mend = move(path)
            (end,) = await scene.engine.recover()
            assert isinstance(end, Deletion) and end.state == "rolled_back"
            assert end.reason is not None and str(path) in end.reason
            mend()
            assert (await scene.delete("s3")).state == "completed"
            await scene.boot()
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


@pytest.mark.parametrize("boots", sampled(1, [False, True]))
def test_the_fence_is_taken_back_by_hand_after_the_decision(
    tmp_path: Path, boots: bool
) -> None:
    """The overlay is kept as the disk, booted or not, and folded again."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            await die_at(scene, DECIDED, "s3")
            scene.machine.kill()
            (fence,) = [path for path in scene.images() if ".backfold" in path.name]
            overlay = Path(str(fence).partition(".backfold")[0])
            fence.rename(overlay)
            assert [disk.source for disk in await scene.disks()] == [str(overlay)]
            if boots:
                await scene.boot()
                await scene.write()
            assert (await recovered(scene)).state == "completed"
            if not boots:
                await scene.boot()
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


def test_a_superseded_image_is_moved_away_in_the_pivot(tmp_path: Path) -> None:
    """Nobody needs it: the deletion goes on, and leaves that file alone."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            away = scene.folder / "away"

            def put_away() -> None:
                (fence,) = [path for path in scene.images() if ".backfold" in path.name]
                fence.rename(away)

            await die_at(scene, "pivot.release_guest.noted", "s3", after=put_away)
            await scene.write()
            assert (await recovered(scene)).state == "completed"
            assert away.exists()
            await scene.write()
            await scene.verify()

    play(story())


def test_both_images_changed_after_the_decision(tmp_path: Path) -> None:
    """Nobody can tell which one is the disk: reported, nothing touched."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            await die_at(scene, DECIDED, "s3")
            scene.machine.kill()
            (base,) = [Path(disk.source) for disk in await scene.disks()]
            (fence,) = [path for path in scene.images() if ".backfold" in path.name]
            for image in (base, fence):
                os.utime(image, ns=(1, 1))
            (disk,) = await scene.disks()
            assert disk.broken is not None and disk.broken[0] == "both_changed"
            await assert_left_open(scene, "Both")
            assert fence.exists() and base.exists()

    play(story())


def test_two_recoveries_at_once(tmp_path: Path) -> None:
    """One does it, the other finds it done or says who is busy."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await take(scene)
            await die_at(scene, DECIDED, "s3")
            async with scene.new_engine() as other:
                ends = await asyncio.gather(scene.engine.recover(), other.recover())
            for end in (end for each in ends for end in each):
                assert isinstance(end, Busy | Deletion), end
                if isinstance(end, Deletion):
                    assert end.state == "completed"
            assert any(isinstance(end, Deletion) for each in ends for end in each)
            assert [row for row in scene.rows("transitions", "trigger, kind")].count(
                ("decide", "edge")
            ) == 1
            await scene.write()
            await scene.verify()

    play(story())
