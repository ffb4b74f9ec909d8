"""Roll back tells the truth, and what fails by itself can be continued.

What a snapshot's status says is compared with the bytes of its frozen images: valid
means that they are those of before the deletion, to the last one.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.clock import SystemClock
from backfold.engine.results import Deletion
from backfold.journal.errors import (
    AlreadyDecided,
    BackfoldError,
    Interrupted,
    Refused,
)
from real.faults import FailingSync, Faults, build
from real.scene import DOMAIN, At, NoGuard, Scene, play
from sampled import sampled

#: Microseconds between the guest's writes, for copies that have to catch up.
CALM = 8000
VICTIM = Path(__file__).parents[1] / "crash" / "victim.py"
GIVEN_UP = "was given up"


class Crash(BaseException):
    """This engine does not go on: as a kill, outside of a hold."""


def crash() -> None:
    raise Crash


class Rebooted(SystemClock):
    """The host was started again, as far as the boot id tells."""

    def boot_id(self) -> str:
        return "another-boot"


def scene_in(folder: Path, **options: Any) -> Scene:
    return Scene(folder, guard=NoGuard(), **options)


def graph(scene: Scene) -> dict[str, bool]:
    """Images that QEMU has open, and whether each is read-only."""
    if not scene.is_started():
        return {}
    nodes = scene.machine.qmp("query-named-block-nodes", flat=True)
    return {node["file"]: node["ro"] for node in nodes if node["drv"] == "qcow2"}


async def frozen(scene: Scene, snapshot: str) -> dict[str, bytes]:
    """What is in the frozen images of a snapshot, by disk, byte for byte."""
    found = await scene.engine.catalog.snapshot(DOMAIN, snapshot)
    return {disk.target: Path(disk.frozen).read_bytes() for disk in found.disks}


async def status(scene: Scene, snapshot: str) -> tuple[str, str]:
    found = await scene.engine.catalog.snapshot(DOMAIN, snapshot)
    return found.status, found.reason or ""


def only_run(scene: Scene) -> str:
    ((run, _),) = scene.open_runs()
    return str(run)


def starts(scene: Scene) -> list[str]:
    """The jobs that were announced, in order."""
    rows = scene.rows("transitions", "id, trigger, kind, detail")
    return [
        str(json.loads(row[3])["job"])
        for row in rows
        if row[1:3] == ("start_job", "announce")
    ]


async def crash_at(scene: Scene, place: str, snapshot: str) -> None:
    """Delete, and leave the run where it is."""
    probe = At(place, crash)
    await scene.with_probe(probe)
    with pytest.raises(Crash):
        await scene.delete(snapshot)
    assert probe.times == 1, probe.seen
    await scene.with_probe(At("nowhere", crash))


async def assert_undone(
    scene: Scene, snapshot: str, before: dict[str, bytes], valid: bool
) -> None:
    """The status is the truth about the bytes, and revert follows it."""
    found, reason = await status(scene, snapshot)
    after = await frozen(scene, snapshot)
    written = [target for target in before if before[target] != after[target]]
    assert found == ("valid" if valid else "invalid"), (reason, written)
    if valid:
        assert written == [] and reason == ""
        await scene.engine.revert_images(DOMAIN, snapshot)
        return
    assert GIVEN_UP in reason
    with pytest.raises(Refused) as refusal:
        await scene.engine.revert_images(DOMAIN, snapshot)
    assert [each.code for each in refusal.value.reasons] == ["invalid_snapshot"]
    assert reason in refusal.value.what


async def finish(scene: Scene, snapshot: str) -> None:
    """Delete it to the end, whatever its status is; then prove all data."""
    assert (await scene.delete(snapshot)).state == "completed"
    if not scene.is_started():
        await scene.boot()
    elif scene.run_state() == "paused":
        scene.machine.qmp("cont")
    await scene.write()
    await scene.verify(leaks=True)


async def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own."""

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, timeout=120
        )

    return await asyncio.to_thread(run)


def until(seen: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Wait in a probe, where the engine stands still."""
    end = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < end, what
        time.sleep(0.02)


# From every state before the decision

#: Places in the order in which they are tried on one domain, and whether nothing is
#: written there yet. The last one leaves an invalid snapshot.
PLACES = {
    ("running", 2, "s3"): [
        ("validate.accept.announced", True),
        ("prepare.sync_frozen.done", True),
        ("commit_per_disk.start_job.announced", True),
        ("commit_per_disk.proceed.noted", False),
    ],
    ("paused", 2, "s1"): [
        ("prepare.proceed.noted", True),
        ("commit_per_disk.reopen_above.done", True),
        ("vote.flush_copied.done", False),
    ],
    ("off", 1, "s2"): [
        ("prepare.sync_frozen.announced", True),
        ("start_paused.start_helper.done", True),
        ("start_paused.open_images.done", True),
        ("commit_per_disk.proceed.announced", False),
    ],
}


@pytest.mark.parametrize("kind", sampled(1, [*PLACES]), ids=lambda kind: kind[0])
def test_roll_back_from(tmp_path: Path, kind: tuple[str, int, str]) -> None:
    """The domain is as before each time, and the status is what the bytes say."""
    power, disks, snapshot = kind

    async def story() -> None:
        async with scene_in(tmp_path, disks=disks) as scene:
            for name in ("s1", "s2", "s3"):
                await scene.take(name, writes=5)
            await scene.write()
            if power == "off":
                scene.machine.quit()
            elif power == "paused":
                scene.machine.qmp("stop")
            before, seen = await frozen(scene, snapshot), graph(scene)
            boots = await scene.disks()
            for place, valid in PLACES[kind]:
                await crash_at(scene, place, snapshot)
                end = await scene.engine.roll_back(only_run(scene))
                began = not place.startswith("validate")
                assert end.state == ("rolled_back" if began else "refused")
                await assert_undone(scene, snapshot, before, valid)
                assert (await scene.disks(), graph(scene)) == (boots, seen)
                assert scene.helpers() == []
                if power != "off":
                    assert scene.machine.qmp("query-jobs") == []
                    assert scene.run_state() == power
            await scene.verify_data()
            await finish(scene, snapshot)

    play(story())


def test_one_disk_was_written_and_the_other_was_not(tmp_path: Path) -> None:
    """One of the two makes the snapshot invalid, and the reason names only it."""

    async def story() -> None:
        async with scene_in(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.write(30)
            scene.machine.qmp("stop")  # It need not run for this.
            before = await frozen(scene, "s1")

            class Second(At):
                """The second announcement, when the first job has copied."""

                def reached(self, *where: str) -> None:
                    place = ".".join(where[1:])
                    if place != "commit_per_disk.start_job.announced":
                        return
                    self.times += 1
                    if self.times == 2:
                        until(copied, "the first job did not copy")
                        crash()

            def copied() -> bool:
                (job,) = scene.machine.qmp("query-jobs")
                return bool(job["status"] == "ready")

            await scene.with_probe(Second("", crash))
            with pytest.raises(Crash):
                await scene.delete("s1")
            await scene.with_probe(At("nowhere", crash))
            await scene.engine.roll_back(only_run(scene))
            await assert_undone(scene, "s1", before, valid=False)
            vda, vdb = (str(Path(d.source)) for d in scene.first_disks)
            _, reason = await status(scene, "s1")
            assert vda in reason and vdb not in reason
            assert (await frozen(scene, "s1"))["vdb"] == before["vdb"]
            await finish(scene, "s1")

    play(story())


def test_killed_in_the_hold_and_in_the_roll_back(tmp_path: Path) -> None:
    """The engine dies in the hold; two roll backs die in the middle; a third ends."""

    async def story() -> None:
        async with scene_in(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.qmp("stop")
            before, seen = await frozen(scene, "s1"), graph(scene)
            dead = await run_command(
                str(VICTIM),
                str(scene.journal),
                "delete",
                "s1",
                "vote.fence.done",
                "self",
            )
            assert dead.returncode == -signal.SIGKILL, dead.stderr
            run = only_run(scene)
            # The guard ends the hold, under locks that this scene's engine has not.
            held = "deletions where hold is not null"
            until(lambda: not scene.rows(held, "id, state"), "the guard ends no hold")
            for place in (
                "roll_back.cancel_jobs.announced",
                "roll_back.cancel_jobs.done",
            ):
                probe = At(place, crash)
                await scene.with_probe(probe)
                with pytest.raises(Crash):
                    await scene.engine.roll_back(run)
                assert probe.times == 1, probe.seen
            assert (await scene.engine.roll_back(run)).state == "rolled_back"
            await assert_undone(scene, "s1", before, valid=False)
            assert graph(scene) == seen
            assert scene.run_state() == "paused"
            await scene.verify_data()
            await finish(scene, "s1")

    play(story())


# What stamps cannot prove


def test_power_cut_that_took_the_times_but_not_the_data(tmp_path: Path) -> None:
    """The image has its old size and time, and the host was started again.

    Planned again meanwhile: the first plan's stamps and jobs still count. The snapshot
    is invalid, stays so when its next deletion is undone before it has begun, and is
    deleted in the end.
    """

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write(30)
            scene.machine.qmp("stop")  # It need not run for this.
            base = scene.first_disks[0].source
            first = os.stat(base)
            before = await frozen(scene, "s1")
            await crash_at(scene, "commit_per_disk.proceed.noted", "s1")
            scene.machine.kill()
            assert (await frozen(scene, "s1")) != before
            os.utime(base, ns=(first.st_atime_ns, first.st_mtime_ns))
            await scene.engine.__aexit__(None, None, None)
            scene.engine = scene.new_engine(
                clock=Rebooted(), probe=At("prepare.proceed.noted", crash)
            )
            await scene.engine.__aenter__()
            with pytest.raises(Crash):
                await scene.engine.recover()
            await scene.engine.roll_back(only_run(scene))
            await assert_undone(scene, "s1", before, valid=False)
            reason = await status(scene, "s1")
            await crash_at(scene, "prepare.proceed.noted", "s1")
            await scene.engine.roll_back(only_run(scene))
            assert await status(scene, "s1") == reason
            await finish(scene, "s1")

    play(story())


def test_monitor_that_is_gone_while_a_job_may_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody can ask QEMU: the roll back stays open and calls nothing valid."""
    monkeypatch.setattr("backfold.engine.deletion_run.UNKNOWN_LIMIT", 2)

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.qmp("stop")  # It need not run for this.
            before = await frozen(scene, "s1")
            await crash_at(scene, "commit_per_disk.start_job.noted", "s1")
            run = only_run(scene)
            aside = scene.machine.monitor.with_suffix(".aside")
            scene.machine.monitor.rename(aside)
            with pytest.raises(Interrupted) as caught:
                await scene.engine.roll_back(run)
            assert "monitor" in caught.value.what
            assert (await status(scene, "s1"))[0] == "deleting"
            aside.rename(scene.machine.monitor)
            assert (await scene.engine.roll_back(run)).state == "rolled_back"
            await assert_undone(scene, "s1", before, valid=False)
            assert scene.machine.qmp("query-jobs") == []
            await finish(scene, "s1")

    play(story())


# After the decision


def test_no_way_back_and_what_recover_does(tmp_path: Path) -> None:
    """Interrupted again and again on its way, and refused each time."""
    promises = [
        ("vote.decide.noted", "brings every disk to its base"),
        ("update_metadata.record.noted", "removes the superseded images"),
        ("stop.end_helper.done", "checks the images"),
    ]

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.quit()
            for place, promise in promises:
                if scene.open_runs():
                    await scene.with_probe(At(place, crash))
                    with pytest.raises(Crash):
                        await scene.engine.recover()
                    await scene.with_probe(At("nowhere", crash))
                else:
                    await crash_at(scene, place, "s1")
                images = scene.fingerprints()
                for order in (scene.engine.roll_back, scene.engine.cancel):
                    with pytest.raises(AlreadyDecided) as caught:
                        await order(only_run(scene))
                    assert caught.value.exit_status == 6
                    assert "cannot be rolled back" in caught.value.what
                    assert promise in caught.value.remedy
                assert scene.fingerprints() == images
            (end,) = await scene.engine.recover()
            assert isinstance(end, Deletion) and end.state == "completed"
            await scene.boot()
            await scene.write()
            await scene.verify()

    play(story())


# I/O errors


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def faults(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Faults]:
    made = Faults(library, tmp_path, monkeypatch)
    yield made
    made.mend()


async def still_stuck(scene: Scene, words: str) -> BackfoldError:
    """`recover` while nothing was mended: it says what to do, and keeps all."""
    (error,) = await scene.engine.recover()
    assert isinstance(error, Interrupted)
    assert words in error.what
    assert f"backfold recover {only_run(scene)}" in error.remedy
    return error


def test_copy_stops_and_goes_on(tmp_path: Path, faults: Faults) -> None:
    """The same job goes on when the operator has mended it; the guest never stops."""

    async def stops(scene: Scene, number: int, words: str, snapshot: str) -> None:
        found = await scene.engine.plan(DOMAIN, snapshot)
        base = found.folds[0].base.path
        probe = At(
            "commit_per_disk.start_job.announced",
            lambda: faults.fail("write", number, base),
        )
        await scene.with_probe(probe)
        with pytest.raises(Interrupted) as caught:
            await scene.delete(snapshot)
        assert words in caught.value.what and caught.value.exit_status == 6
        assert base in caught.value.remedy
        for _ in range(200):  # It stops at its next request.
            (job,) = scene.machine.qmp("query-jobs")
            if job["status"] != "running":
                break
            await asyncio.sleep(0.05)
        assert job["status"] in ("paused", "standby")
        await still_stuck(scene, words)
        assert (await status(scene, snapshot))[0] == "deleting"
        # `cont` makes QEMU forget the error; the job is paused all the same.
        scene.machine.qmp("stop")
        scene.machine.qmp("cont")
        await scene.write()
        faults.mend()
        (end,) = await scene.engine.recover()
        assert isinstance(end, Deletion) and end.state == "completed"
        assert starts(scene).count(job["id"]) == 1

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            await stops(scene, errno.EIO, "an I/O error", "s1")
            await stops(scene, errno.ENOSPC, "no space is left", "s2")
            assert len(starts(scene)) == 2
            await scene.write()
            await scene.verify()

    play(story())


def test_engine_is_killed_while_a_copy_has_stopped(
    tmp_path: Path, faults: Faults
) -> None:
    """A domain that is off, two disks: the helper and its jobs wait for `recover`."""

    async def story() -> None:
        async with scene_in(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.write(30)
            scene.machine.quit()
            full = scene.first_disks[1].source
            place = "commit_per_disk.resume_job.announced"
            probe = At(
                "commit_per_disk.start_job.announced",
                lambda: faults.fail("write", errno.ENOSPC, full),
            )
            await scene.with_probe(probe)
            with pytest.raises(Interrupted, match="vdb"):
                await scene.delete("s1")
            probe = At(place, crash)
            await scene.with_probe(probe)
            with pytest.raises(Crash):
                await scene.engine.recover()
            assert probe.times == 1
            await scene.with_probe(At("nowhere", crash))
            helpers = scene.helpers()
            await still_stuck(scene, "vdb")
            assert scene.helpers() == helpers and len(helpers) == 1
            faults.mend()
            (end,) = await scene.engine.recover()
            assert isinstance(end, Deletion) and end.state == "completed"
            assert len(starts(scene)) == len(set(starts(scene))) == 2
            await scene.boot()
            await scene.write()
            await scene.verify()

    play(story())


def test_last_writes_find_no_room(tmp_path: Path, faults: Faults) -> None:
    """Between READY and PENDING: the guest is let go, and all goes on later.

    The copy stops right before the hold; what stops it in the hold is among the
    attacks of `test_attacks.py`.
    """

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            base = scene.first_disks[0].source

            def waits() -> bool:
                (job,) = scene.machine.qmp("query-block-jobs")
                return bool(job["io-status"] == "nospace")

            def leave_something() -> None:
                """What the guest writes now finds no room in the base."""
                faults.fail("write", errno.ENOSPC, base)
                scene.machine.wait_for_writes(10)
                until(waits, "the job did not stop")

            await scene.with_probe(At("vote.hold.noted", leave_something))
            with pytest.raises(Interrupted) as caught:
                await scene.delete("s1", max_downtime_ms=60_000)
            assert "no space" in caught.value.what
            assert scene.run_state() == "running"
            assert scene.rows("deletions where hold is not null", "id, state") == []
            await scene.write()
            await scene.verify_data()
            faults.mend()
            await scene.with_probe(At("nowhere", crash))
            (end,) = await scene.engine.recover()
            assert isinstance(end, Deletion) and end.state == "completed"
            assert len(starts(scene)) == 1
            await scene.write()
            await scene.verify()

    play(story())


def test_no_room_when_it_is_planned_again(tmp_path: Path) -> None:
    """QEMU died and room is short now: the run stays open, nothing is given up."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            await crash_at(scene, "commit_per_disk.start_job.announced", "s1")
            scene.machine.kill()

            class Full(FailingSync):
                async def free_bytes(
                    self, path: str, format: str, secret: str | None = None
                ) -> tuple[int, int]:
                    return 0, (await super().free_bytes(path, format))[1]

            async with scene.new_engine(images=Full()) as engine:
                (error,) = await engine.recover()
            assert isinstance(error, Interrupted)
            assert "bytes free" in error.what and "Make room" in error.remedy
            assert (await status(scene, "s1"))[0] == "deleting"
            (end,) = await scene.engine.recover()
            assert isinstance(end, Deletion) and end.state == "completed"
            await scene.boot()
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


# Flushes that fail


def test_flush_of_a_header_fails_after_the_decision(tmp_path: Path) -> None:
    """Left open, with both images; the second fsync would have succeeded."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            scene.machine.qmp("stop")  # It need not run for this.
            above = (await scene.disks())[0].source
            images = FailingSync()
            probe = At("pivot.finalize.done", lambda: images.broken.add(above))
            there = scene.images()
            async with scene.new_engine(images=images, probe=probe) as engine:
                with pytest.raises(Interrupted) as caught:
                    await engine.delete(DOMAIN, "s1", max_downtime_ms=30_000)
                assert "restart the host" in caught.value.remedy
                images.broken.clear()
                asked = images.synced.count(above)
                (error,) = await engine.recover()
                assert isinstance(error, Interrupted) and above in error.what
                assert images.synced.count(above) == asked
            assert scene.images() == there
            await scene.write()
            async with scene.new_engine(clock=Rebooted()) as engine:
                (end,) = await engine.recover()
                assert isinstance(end, Deletion) and end.state == "completed"
            await scene.write()
            await scene.verify()

    play(story())


#: Deletes, and makes fsync of an image fail in this very process, from the vote on.
DELETES = """
import asyncio, sys
from pathlib import Path
from backfold.engine.api import Engine
from backfold.journal.errors import RolledBack
journal, locks, rules, line = sys.argv[1:]
class Probe:
    def reached(self, *where):
        if where[1:] == ("vote", "complete_jobs", "done"):
            Path(rules).write_text(line)
async def work():
    async with Engine(journal, probe=Probe(), locks=Path(locks), managed=dict) as e:
        try:
            await e.delete("web", "s1", max_downtime_ms=30000)
        except RolledBack as error:
            print(error.what)
asyncio.run(work())
"""


def test_fsync_fails_in_the_hold(tmp_path: Path, faults: Faults) -> None:
    """A real EIO: released, undone, told; and nobody asks that kernel again.

    The next fsync would succeed, since the kernel forgets. A host that was started
    again reads what is stored.
    """

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            base = scene.first_disks[0].source
            before = await frozen(scene, "s1")
            done = await run_command(
                *("-c", DELETES, str(scene.journal), str(scene.locks)),
                *(str(faults.control), faults.rule("flush", errno.EIO, base, "python")),
            )
            assert f"{base} could not be flushed: Input/output error" in done.stdout
            assert scene.run_state() == "running"
            faults.mend()
            await scene.write()
            await assert_undone(scene, "s1", before, valid=False)
            images = FailingSync()
            async with scene.new_engine(images=images) as engine:
                with pytest.raises(Refused) as refusal:
                    await engine.delete(DOMAIN, "s1")
            assert [r.code for r in refusal.value.reasons] == ["flush_failed"]
            assert images.synced == []
            async with scene.new_engine(clock=Rebooted()) as engine:
                await engine.delete(DOMAIN, "s1", max_downtime_ms=30_000)
            await scene.write()
            await scene.verify()

    play(story())


def test_frozen_image_cannot_be_flushed(tmp_path: Path, faults: Faults) -> None:
    """Told by the command line before anything has begun: the snapshot stays valid."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.qmp("stop")  # It need not run for this.
            before = await frozen(scene, "s1")
            base = scene.first_disks[0].source
            faults.fail("flush", errno.EIO, base, program="python")
            arguments = ["-m", "backfold", "--json", "--journal", str(scene.journal)]
            arguments += ["delete", DOMAIN, "s1", "--yes"]
            done = await run_command(*arguments)
            assert done.returncode == 5, done
            assert f"{base} could not be flushed: Input/output error" in done.stdout
            faults.mend()
            done = await run_command(*arguments)
            assert done.returncode == 3, done
            assert "flush_failed" in done.stdout
            await assert_undone(scene, "s1", before, valid=True)
            await scene.verify()

    play(story())
