"""Somebody else at the same QEMU, the same images, the same monitor.

The guest writes all the time. A probe acts at one moment of the deletion, in the
operator's place: through a monitor of its own, by a signal, by a boot. Whatever it
does, no acknowledged write is lost, and the guest runs if and only if it should.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.clock import SystemClock
from backfold.engine.demo.guest import export_raw
from backfold.engine.demo.guest.boot import (
    BLOCK_SIZE,
    DATA_OFFSET,
    SLOTS,
    block_of,
    read_acknowledgements,
    slot_of,
)
from backfold.engine.demo.machine import MachineError
from backfold.engine.results import Deletion
from backfold.journal.errors import BackfoldError, Interrupted, RolledBack
from backfold.states import context
from real.scene import At, NoGuard, Scene, play
from sampled import sampled

#: Bytes per second that make a copy last about a second. The guest must not write
#: faster than that, or the copy never catches up: it is told to be calm.
SLOW = 12 << 20
CALM = 8000

COPYING = "commit_per_disk.start_job.noted"
READY = "commit_per_disk.proceed.announced"
ANNOUNCED = "vote.hold.noted"
STOPPED = "vote.stop_guest.done"
PENDING = "vote.complete_jobs.done"
FENCED = "vote.fence.done"
LOOKED = "vote.look_again.done"
DECIDED = "vote.decide.noted"
FINALIZED = "pivot.finalize.done"
RELEASED = "pivot.release_guest.noted"
RECORDED = "update_metadata.record.noted"


@dataclass(frozen=True)
class End:
    """How a deletion ended: at once, and after `recover` if it was left open."""

    first: str
    deletion: Deletion

    @property
    def state(self) -> str:
        return self.deletion.state


def scene_in(folder: Path, **options: Any) -> Scene:
    """A scene whose engines do not die in a hold, unless they take a real guard."""
    return Scene(folder, guard=NoGuard(), **options)


async def carry_out(scene: Scene, gone: str, **options: Any) -> End:
    """Delete, and recover if the deletion is left open."""
    try:
        return End("completed", await scene.delete(gone, **options))
    except RolledBack as error:
        assert isinstance(error.deletion, Deletion)
        return End("rolled_back", error.deletion)
    except Interrupted:
        return End("interrupted", await recovered(scene))


async def recovered(scene: Scene) -> Deletion:
    """`recover`, which must leave nothing open."""
    (end,) = await scene.engine.recover()
    if isinstance(end, BackfoldError):
        raise end
    assert isinstance(end, Deletion)
    assert not end.is_open
    return end


async def interfere(
    scene: Scene, place: str, act: Callable[[], object], gone: str, **options: Any
) -> End:
    """Delete, and act at one place."""
    probe = At(place, act)
    await scene.with_probe(probe)
    end = await carry_out(scene, gone, **options)
    assert probe.times >= 1, probe.seen
    return end


async def delete_again(scene: Scene, gone: str) -> None:
    """What was rolled back can be deleted."""
    assert (await scene.delete(gone)).state == "completed"
    await scene.write()


async def assert_guest_writes(scene: Scene) -> None:
    assert scene.run_state() == "running"
    await asyncio.to_thread(scene.machine.wait_for_writes, 15)


# The operator resumes and pauses the guest


@pytest.mark.parametrize(
    "place", sampled(1, [FENCED, DECIDED, STOPPED, LOOKED, FINALIZED])
)
def test_cont_during_the_hold(tmp_path: Path, place: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()

            def cont() -> None:
                scene.machine.qmp("cont")
                time.sleep(0.05)

            end = await interfere(scene, place, cont, "s1")
            assert end.first == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


@pytest.mark.parametrize("place", sampled(1, [DECIDED, FENCED]))
def test_cont_of_a_guest_that_an_operator_had_paused(
    tmp_path: Path, place: str
) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.take("s2", exclude=["vdb"])
            await scene.write()
            scene.machine.qmp("stop")
            end = await interfere(scene, place, lambda: scene.machine.qmp("cont"), "s1")
            assert end.first == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


@pytest.mark.parametrize(
    ("place", "gone"),
    sampled(2, [(COPYING, "s2"), (ANNOUNCED, "s2"), (COPYING, "s1"), (RELEASED, "s2")]),
)
def test_pause_by_an_operator_stays(tmp_path: Path, place: str, gone: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            end = await interfere(scene, place, lambda: scene.machine.qmp("stop"), gone)
            assert end.first == "completed"
            assert scene.run_state() == "paused"
            before = scene.machine.acknowledged()
            await scene.verify_data()
            assert scene.machine.acknowledged() == before
            scene.machine.qmp("cont")
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


# The guest is reset


def verify_after_resets(scene: Scene, disk: Path) -> list[int]:
    """Slots of a single disk that are wrong, for a guest that began anew.

    The ledger wants numbers that only rise. Here they begin again with each reset:
    the last acknowledged write to a slot must be there. A write in flight at a reset
    or at the end is undecided until a later one replaces it.
    """
    (acknowledgements,) = scene.folder.glob("acknowledged-*.bin")
    raw = scene.folder / "reset.raw"
    export_raw(disk, "qcow2", raw)
    expected = dict.fromkeys(range(SLOTS), 0)
    undecided: set[int] = set()
    last = 0
    for number in read_acknowledgements(acknowledgements):
        if number != last + 1:
            assert number == 1, (number, last)
            undecided.add(slot_of(last + 1, 1))
        expected[slot_of(number, 1)] = number
        undecided.discard(slot_of(number, 1))
        last = number
    undecided.add(slot_of(last + 1, 1))
    data = raw.read_bytes()[DATA_OFFSET:]
    return [
        slot
        for slot, number in expected.items()
        if slot not in undecided
        and data[slot * BLOCK_SIZE : (slot + 1) * BLOCK_SIZE] != block_of(number, 0)
    ]


@pytest.mark.parametrize("place", sampled(1, [STOPPED, DECIDED, COPYING, FINALIZED]))
def test_guest_is_reset(tmp_path: Path, place: str) -> None:
    async def story() -> None:
        # With pauses between its writes a reset does not tear an acknowledgement.
        async with scene_in(tmp_path, pause=CALM) as scene:
            await scene.take("s1")
            await scene.write(60)

            def reset() -> None:
                scene.machine.qmp("system_reset")
                time.sleep(0.1)

            end = await interfere(scene, place, reset, "s1", bandwidth=SLOW)
            assert end.first == "completed"
            assert scene.run_state() == "running"
            await asyncio.sleep(1)
            scene.machine.kill()
            (disk,) = await scene.disks()
            assert verify_after_resets(scene, Path(disk.source)) == []
            assert len(disk.chain) == 1

    play(story())


# QEMU ends


def end_qemu(scene: Scene, how: str) -> None:
    if how == "kill":
        scene.machine.kill()
    elif how == "term":
        os.kill(scene.machine.pid, signal.SIGTERM)
    else:
        scene.machine.qmp(how)


@pytest.mark.parametrize(
    ("how", "place"),
    sampled(
        3,
        [
            ("kill", FENCED),
            ("kill", DECIDED),
            ("quit", COPYING),
            ("kill", COPYING),
            ("kill", FINALIZED),
            ("quit", PENDING),
            ("term", DECIDED),
        ],
    ),
)
def test_qemu_ends_active(tmp_path: Path, place: str, how: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, disks=2, pause=CALM) as scene:
            await scene.take("s1")
            await scene.write()
            end = await interfere(
                scene, place, lambda: end_qemu(scene, how), "s1", bandwidth=SLOW
            )
            assert end.state == "completed", end.deletion.reason
            assert not scene.is_started()
            await scene.boot()
            await assert_guest_writes(scene)
            await scene.verify(leaks=True)

    play(story())


@pytest.mark.parametrize("place", sampled(1, [DECIDED, FINALIZED, LOOKED]))
def test_qemu_is_killed_intermediate(tmp_path: Path, place: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.take("s2", exclude=["vdb"] if place == FINALIZED else [])
            await scene.take("s3")
            await scene.write()
            end = await interfere(scene, place, scene.machine.kill, "s1")
            assert end.state == "completed", end.deletion.reason
            await scene.boot("blockdev")
            await assert_guest_writes(scene)
            await scene.verify(leaks=True)

    play(story())


@pytest.mark.parametrize("place", [PENDING])
def test_guest_is_asked_to_power_down(tmp_path: Path, place: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            end = await interfere(
                scene, place, lambda: scene.machine.qmp("system_powerdown"), "s1"
            )
            # This guest does not listen to its power button.
            assert end.first == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


@pytest.mark.parametrize("place", sampled(1, [PENDING, COPYING]))
def test_domain_is_booted_by_hand_after_its_death(tmp_path: Path, place: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, pause=CALM) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            overlay = [
                (disk.target, Path(disk.source), disk.format)
                for disk in await scene.disks()
            ]

            def boot() -> None:
                scene.machine.kill()
                scene.machine.disks = overlay
                scene.machine.start()
                scene.machine.wait_for_writes(10)

            end = await interfere(scene, place, boot, "s2", bandwidth=SLOW)
            assert end.state == "completed", end.deletion.reason
            await assert_guest_writes(scene)
            await scene.verify(leaks=True)

    play(story())


def test_domain_is_booted_from_the_base_after_the_decision(tmp_path: Path) -> None:
    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()

            def boot() -> None:
                scene.machine.kill()
                first = scene.first_disks[0]
                scene.machine.disks = [("vda", Path(first.source), first.format)]
                scene.machine.start()
                scene.machine.wait_for_writes(10)

            end = await interfere(scene, DECIDED, boot, "s1")
            assert end.state == "completed"
            await assert_guest_writes(scene)
            await scene.verify(leaks=True)

    play(story())


# The operator cancels our jobs


HARD, SOFT = "job-cancel", "block-job-cancel"


def cancel_jobs(scene: Scene, how: str, only: str = "") -> None:
    """Cancel, by job-cancel or softly, what QEMU lets us cancel."""
    jobs = scene.machine.qmp("query-jobs")
    assert jobs
    for job in jobs:
        if not job["id"].endswith(only):
            continue
        if how == HARD:
            scene.machine.qmp("job-cancel", id=job["id"])
        else:
            scene.machine.qmp("block-job-cancel", device=job["id"])


@pytest.mark.parametrize(
    ("how", "place"),
    sampled(
        1,
        [
            (HARD, STOPPED),
            (HARD, COPYING),
            (SOFT, STOPPED),
            (HARD, READY),
            (HARD, LOOKED),
            (SOFT, READY),
            (SOFT, PENDING),
        ],
    ),
)
def test_jobs_are_cancelled_before_the_decision(
    tmp_path: Path, place: str, how: str
) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, pause=CALM) as scene:
            await scene.take("s1")
            await scene.write()
            end = await interfere(
                scene, place, lambda: cancel_jobs(scene, how), "s1", bandwidth=SLOW
            )
            await assert_guest_writes(scene)
            await scene.verify_data()
            if end.state == "rolled_back":
                assert scene.machine.qmp("query-jobs") == []
                await delete_again(scene, "s1")
            assert len((await scene.disks())[0].chain) == 1
            await scene.verify()

    play(story())


@pytest.mark.parametrize(
    ("how", "place", "only"),
    sampled(
        2,
        [
            (HARD, DECIDED, ""),
            (SOFT, DECIDED, "-1"),
            (HARD, DECIDED, "-1"),
            (HARD, FINALIZED, ""),
        ],
    ),
)
def test_jobs_are_cancelled_after_the_decision(
    tmp_path: Path, place: str, how: str, only: str
) -> None:
    """A disk that was cancelled is folded again; one decision holds for all."""

    async def story() -> None:
        async with scene_in(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.write()

            def cancel() -> None:
                try:
                    cancel_jobs(scene, how, only)
                except MachineError:
                    assert place == FINALIZED  # They have concluded.

            end = await interfere(scene, place, cancel, "s1")
            assert end.first == "completed", end
            await assert_guest_writes(scene)
            assert [len(disk.chain) for disk in await scene.disks()] == [1, 1]
            await scene.verify()

    play(story())


@pytest.mark.parametrize(
    ("how", "place"),
    sampled(
        1,
        [
            (HARD, DECIDED),
            (SOFT, READY),
            (HARD, COPYING),
            (HARD, LOOKED),
            (SOFT, DECIDED),
        ],
    ),
)
def test_intermediate_job_is_cancelled(tmp_path: Path, place: str, how: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, disks=2, pause=CALM) as scene:
            for name in ("s1", "s2", "s3"):
                await scene.take(name)
            await scene.write()
            end = await interfere(
                scene,
                place,
                lambda: cancel_jobs(scene, how, "-1"),
                "s1",
                bandwidth=SLOW,
            )
            await assert_guest_writes(scene)
            if place == DECIDED:
                assert end.state == "completed"
            await scene.verify_data()
            if end.state == "rolled_back":
                await delete_again(scene, "s1")
            assert [len(disk.chain) for disk in await scene.disks()] == [3, 3]
            await scene.verify()

    play(story())


@pytest.mark.timeout(60)
def test_cancel_request_does_not_block_a_decided_deletion(tmp_path: Path) -> None:
    """A request to cancel came too late, and a job was cancelled by hand, too."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()

            def cancel() -> None:
                with sqlite3.connect(scene.journal) as db:
                    db.execute("update deletions set cancel_requested = 1")
                db.close()
                cancel_jobs(scene, HARD)

            end = await interfere(scene, DECIDED, cancel, "s1")
            assert end.state == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


@pytest.mark.timeout(60)
def test_time_out_does_not_block_a_decided_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 0.0
    monkeypatch.setattr(SystemClock, "monotonic", lambda _: time.monotonic() + late)

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()

            def cancel() -> None:
                nonlocal late
                late = 1000.0
                cancel_jobs(scene, HARD)

            end = await interfere(scene, DECIDED, cancel, "s1", timeout=600)
            assert end.first == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


# The helper of a domain that is off


def helper_of(scene: Scene) -> dict[str, Any]:
    (text,) = scene.rows("deletions where helper is not null", "helper, id")[0][:1]
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    "place",
    sampled(
        1,
        [
            DECIDED,
            COPYING,
            FINALIZED,
            "start_paused.start_helper.noted",
            FENCED,
            RECORDED,
        ],
    ),
)
def test_helper_is_killed(tmp_path: Path, place: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, disks=2, pause=CALM) as scene:
            await scene.take("s1")
            await scene.take("s2", exclude=["vdb"])
            await scene.write()
            scene.machine.quit()
            end = await interfere(
                scene,
                place,
                lambda: os.kill(helper_of(scene)["pid"], signal.SIGKILL),
                "s1",
                bandwidth=SLOW,
            )
            assert end.state == "completed", end.deletion.reason
            await scene.verify_data()
            await scene.boot()
            await assert_guest_writes(scene)
            await scene.verify(leaks=True)

    play(story())


@pytest.mark.parametrize(
    ("gone", "place"), [("s1", COPYING), ("s3", COPYING), ("s3", LOOKED)]
)
def test_domain_cannot_be_started_while_the_helper_works(
    tmp_path: Path, gone: str, place: str
) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, pause=CALM) as scene:
            await scene.take_three()
            scene.machine.quit()
            overlay = Path((await scene.disks())[0].source)
            scene.machine.disks = [("vda", overlay, "qcow2")]
            said: list[str] = []

            def start() -> None:
                try:
                    scene.machine.start()
                except MachineError as error:
                    said.append(str(error))

            end = await interfere(scene, place, start, gone, bandwidth=SLOW)
            assert end.first == "completed"
            (words,) = said
            assert "lock" in words or "No such file" in words, words
            await scene.boot()
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


def test_helper_that_was_told_to_go_on_stays_harmless(tmp_path: Path) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, pause=CALM) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.quit()
            await leave_while_copying(scene, "s1")
            with talk_to(helper_of(scene)["socket"]) as monitor:
                say(monitor, "cont")
            assert (await recovered(scene)).state == "completed"
            await scene.boot()
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


# Callers that go, and monitors that are taken


async def leave_while_copying(scene: Scene, gone: str) -> None:
    """Cancel the await of a deletion while it copies; QEMU copies on."""
    copies = asyncio.Event()
    loop = asyncio.get_running_loop()
    await scene.with_probe(At(COPYING, lambda: loop.call_soon(copies.set)))
    deletion = asyncio.create_task(scene.delete(gone, bandwidth=SLOW))
    await asyncio.wait(
        {deletion, asyncio.create_task(copies.wait())},
        timeout=30,
        return_when=asyncio.FIRST_COMPLETED,
    )
    deletion.cancel()
    with pytest.raises(Interrupted) as caught:
        await deletion
    assert caught.value.exit_status == 6


@pytest.mark.parametrize("gone", ["s1", "s2"])
@pytest.mark.parametrize("back", sampled(1, [True, False]))
def test_caller_leaves(tmp_path: Path, gone: str, back: bool) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, pause=CALM) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            await leave_while_copying(scene, gone)
            await assert_guest_writes(scene)
            if back:
                ((run, _),) = scene.open_runs()
                assert (await scene.engine.roll_back(run)).state == "rolled_back"
                await scene.verify_data()
                await delete_again(scene, gone)
            else:
                assert (await recovered(scene)).state == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("place", ["pivot.keep.noted", "pivot.start_job.noted"])
def test_caller_leaves_while_a_disk_is_folded_again(tmp_path: Path, place: str) -> None:
    """Decided, cancelled by hand, and left again in the middle of the second fold."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            tasks: list[asyncio.Task[End]] = []

            class Both(At):
                def reached(self, *where: str) -> None:
                    super().reached(*where)
                    if ".".join(where[1:]) == place and len(tasks) == 1:
                        tasks.append(tasks[0])
                        tasks[0].cancel()

            await scene.with_probe(Both(DECIDED, lambda: cancel_jobs(scene, HARD)))
            tasks.append(asyncio.create_task(carry_out(scene, "s1")))
            end = await tasks[0]
            assert len(tasks) == 2
            assert end.state == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


@pytest.mark.parametrize("place", sampled(2, [FENCED, DECIDED, STOPPED]))
def test_caller_leaves_during_the_hold(tmp_path: Path, place: str) -> None:
    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            tasks: list[asyncio.Task[End]] = []
            probe = At(place, lambda: tasks[0].cancel())
            await scene.with_probe(probe)
            tasks.append(asyncio.create_task(carry_out(scene, "s1")))
            (end,) = await asyncio.gather(*tasks)
            assert probe.times >= 1
            assert end.state == "completed"
            await assert_guest_writes(scene)
            await scene.verify()

    play(story())


def test_cancel_by_another_engine(tmp_path: Path) -> None:
    async def story() -> None:
        async with scene_in(tmp_path, pause=CALM) as scene:
            await scene.take("s1")
            await scene.write()
            copies = asyncio.Event()
            loop = asyncio.get_running_loop()
            await scene.with_probe(At(COPYING, lambda: loop.call_soon(copies.set)))
            task = asyncio.create_task(carry_out(scene, "s1", bandwidth=SLOW >> 2))
            await asyncio.wait_for(copies.wait(), 30)
            ((run, _),) = scene.open_runs()
            async with scene.new_engine() as other:
                began = time.monotonic()
                assert (await other.cancel(run)).state == "rolled_back"
                assert time.monotonic() - began < 10
            assert (await task).first == "rolled_back"
            await assert_guest_writes(scene)
            await scene.verify_data()
            await delete_again(scene, "s1")
            await scene.verify()

    play(story())


def talk_to(path: str | Path) -> socket.socket:
    """Occupy a monitor: QEMU serves one client at a time."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(path))
    assert b"QMP" in connection.recv(4096)
    return connection


def say(connection: socket.socket, command: str) -> None:
    with connection.makefile("rb") as answers:
        for line in ("qmp_capabilities", command):
            connection.sendall(json.dumps({"execute": line}).encode() + b"\n")
            assert any(b'"return"' in answer for answer in answers)


@pytest.mark.parametrize("roll_back", sampled(1, [False, True]))
def test_monitor_is_taken_during_recovery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roll_back: bool
) -> None:
    monkeypatch.setattr(context, "MONITOR_PATIENCE", 1.0)

    async def story() -> None:
        async with scene_in(tmp_path, second_monitor=False, pause=CALM) as scene:
            await scene.take("s1")
            await scene.write()
            await leave_while_copying(scene, "s1")
            with talk_to(scene.machine.monitor):
                (end,) = await scene.engine.recover(roll_back=roll_back)
                assert isinstance(end, BackfoldError)
                assert end.exit_status in (4, 6), end
                assert end.remedy
                assert len(scene.open_runs()) == 1
            (done,) = await scene.engine.recover(roll_back=roll_back)
            assert isinstance(done, Deletion)
            assert done.state == ("rolled_back" if roll_back else "completed")
            await assert_guest_writes(scene)
            await scene.verify_data()
            if roll_back:
                await delete_again(scene, "s1")
            await scene.verify()

    play(story())


# The engine dies at a place where nobody takes its hold back


_VICTIM = """
import asyncio, os, sys
from pathlib import Path
from backfold.engine.api import Engine
class NoGuard:
    async def start(self, watch): pass
    async def dismiss(self): pass
    async def take_over(self): pass
journal, locks, place, snapshot = sys.argv[1:]
class Probe:
    def reached(self, *where):
        if ".".join(where[1:]) == place:
            os.kill(os.getpid(), 9)
async def work():
    async with Engine(
        journal, probe=Probe(), locks=Path(locks), managed=dict, guard=NoGuard()
    ) as e:
        await e.delete(
            "web", snapshot, strategy="commit", max_downtime_ms=3000
        )
asyncio.run(work())
"""


def delete_and_die(scene: Scene, place: str, gone: str) -> None:
    """Delete in a process of its own, which kills itself at a place."""
    what = [str(scene.journal), str(scene.locks), place, gone]
    ended = subprocess.run([sys.executable, "-c", _VICTIM, *what], capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize(
    ("how", "place"),
    sampled(
        2,
        [
            ("alive", DECIDED),
            ("booted", FENCED),
            ("alive", FENCED),
            ("booted", PENDING),
            ("booted", DECIDED),
        ],
    ),
)
def test_engine_dies_while_an_operator_has_paused_the_guest(
    tmp_path: Path, place: str, how: str
) -> None:
    """The guard is dead too, so nobody takes the fence back before recovery does."""

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            scene.machine.qmp("stop")
            delete_and_die(scene, place, "s2")
            await scene.verify_data()
            if how == "booted":
                scene.machine.kill()
                await scene.boot()
                await scene.write(30)
                await scene.verify_data()
            assert (await recovered(scene)).state == "completed"
            if how == "alive":
                assert scene.run_state() == "paused"
                scene.machine.qmp("cont")
            await assert_guest_writes(scene)
            await scene.verify(leaks=True)

    play(story())


def test_disk_kept_on_its_overlay_is_named_while_nobody_has_recovered(
    tmp_path: Path,
) -> None:
    """Decided, cancelled by an operator, released; then engine and QEMU die.

    Whoever asks what to boot must not be sent to the base: the guest went on in the
    overlay.
    """

    async def story() -> None:
        async with scene_in(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()

            def cancel() -> None:
                cancel_jobs(scene, HARD)

            class Died(BaseException):
                pass

            def die() -> None:
                scene.machine.wait_for_writes(15)
                scene.machine.kill()
                raise Died

            class Both(At):
                def reached(self, *where: str) -> None:
                    super().reached(*where)
                    if ".".join(where[1:]) == RELEASED:
                        die()

            await scene.with_probe(Both(DECIDED, cancel))
            with pytest.raises(Died):
                await scene.delete("s1")
            await scene.verify_data()
            await scene.boot()
            await assert_guest_writes(scene)
            await scene.with_probe(At("", lambda: None))
            assert (await recovered(scene)).state == "completed"
            await scene.verify(leaks=True)

    play(story())
