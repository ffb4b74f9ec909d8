"""What was found by attacking the protocol, done to the whole engine.

`docs/attacks.md` lists every attack with the test that carries it out; those that
other files hold already are not repeated here.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlite_utils import Database

from backfold.engine.demo.guest import export_raw
from backfold.engine.demo.machine import MachineError
from backfold.engine.results import Deletion
from backfold.journal.errors import (
    CommitUnknown,
    Interrupted,
    JournalError,
    RolledBack,
)
from backfold.journal.meter import CommitMeter
from backfold.journal.store import Store
from real.scene import DOMAIN, At, NoGuard, Scene, play

T = TypeVar("T")
TESTS = Path(__file__).parents[1]


async def recovered(scene: Scene) -> str:
    """`recover`, which must leave nothing open."""
    (end,) = await scene.engine.recover()
    assert isinstance(end, Deletion), end
    assert scene.open_runs() == []
    return end.state


async def writes_on(scene: Scene) -> None:
    """The guest runs, and writes."""
    assert scene.run_state() == "running"
    await scene.write()


# The fence


#: An engine that nobody watches over, and that kills itself at a place.
_UNGUARDED = """
import asyncio, os, sys
from pathlib import Path
tests, journal, locks, place = sys.argv[1:]
sys.path.insert(0, tests)
from backfold.engine.api import Engine
from real.scene import At, NoGuard
async def work():
    probe = At(place, lambda: os.kill(os.getpid(), 9))
    async with Engine(
        journal, probe=probe, guard=NoGuard(), locks=Path(locks), managed=dict
    ) as engine:
        await engine.delete("web", "s1", max_downtime_ms=3000)
asyncio.run(work())
"""


@pytest.mark.parametrize("point", ["vote.fence.done", "vote.decide.noted"])
def test_cancel_and_cont_while_the_overlay_is_fenced(
    tmp_path: Path, point: str
) -> None:
    """The engine dies, the guest goes on in the renamed overlay, then QEMU dies."""

    async def story() -> None:
        async with Scene(tmp_path, pause=2000) as scene:
            await scene.take("s1")
            await scene.write()
            unguarded = [*(sys.executable, "-c", _UNGUARDED, str(TESTS))]
            died = subprocess.run(  # noqa: ASYNC221
                [*unguarded, str(scene.journal), str(scene.locks), point],
                capture_output=True,
            )
            assert died.returncode == -signal.SIGKILL, died.stderr
            (job,) = scene.machine.qmp("query-jobs")
            scene.machine.qmp("job-cancel", id=job["id"])
            scene.machine.qmp("cont")
            scene.machine.wait_for_writes(30)
            scene.machine.kill()
            (disk,) = await scene.disks()
            assert ".backfold-" in disk.source
            await scene.verify_data()
            assert await recovered(scene) == "completed"
            await scene.boot()
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


# The image above the top


class OnceAt:
    """A probe that acts at the first of several places, once."""

    def __init__(self, places: set[str], act: Callable[[], object]) -> None:
        self.places = places
        self.act = act
        self.done = False

    def reached(self, *where: str) -> None:
        if ".".join(where[1:]) in self.places and not self.done:
            self.done = True
            self.act()


def test_image_above_that_cannot_be_reopened(tmp_path: Path) -> None:
    """QEMU crashes at job-finalize; the reopen before the job finds it out."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await scene.take_three()
            above = scene.images_folder / "vda.s2"
            away = above.with_name("away")
            probe = OnceAt(
                {
                    "commit_per_disk.reopen_above.announced",
                    "commit_per_disk.start_job.announced",
                },
                lambda: above.rename(away),
            )
            await scene.with_probe(probe)
            with pytest.raises(RolledBack):
                await scene.delete("s1")
            assert probe.done
            away.rename(above)
            assert scene.machine.qmp("query-jobs") == []
            await writes_on(scene)
            await scene.verify_data()
            assert (await scene.delete("s1")).state == "completed"
            await scene.verify()

    play(story())


def test_image_above_is_renamed_when_the_job_ends(tmp_path: Path) -> None:
    """It is open for writing since before the job: QEMU needs its name no more."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await scene.take_three()
            above = scene.images_folder / "vda.s2"
            away = above.with_name("away")

            class Back(At):
                def reached(self, *where: str) -> None:
                    super().reached(*where)
                    if ".".join(where[1:]) == "pivot.finalize.done":
                        away.rename(above)

            probe = Back("vote.decide.noted", lambda: above.rename(away))
            await scene.with_probe(probe)
            assert (await scene.delete("s1")).state == "completed"
            assert probe.times == 1
            await writes_on(scene)
            await scene.verify()

    play(story())


# The journal


@pytest.mark.parametrize("journal", ["answers again", "stays broken"])
def test_commit_of_the_decision_fails_and_its_row_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, journal: str
) -> None:
    """An I/O error at COMMIT; after a restart the row is found.

    The guest goes on in its overlay, and it is the truth whatever the row says.
    """
    write = Store.write
    failed: list[str] = []
    works = [True]

    async def commit_fails(
        store: Store,
        unit: Callable[[Database], T],
        patience: float | None = None,
        meter: CommitMeter | None = None,
    ) -> T:
        if not works[0]:
            raise JournalError("disk I/O error")
        result = await write(store, unit, patience, meter)
        if patience is not None and not failed:  # Only the decision has a bound.
            failed.append("decide")
            works[0] = journal == "answers again"
            raise CommitUnknown("disk I/O error")
        return result

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard(), pause=2000) as scene:
            await scene.take("s1")
            await scene.write()
            monkeypatch.setattr(Store, "write", commit_fails)
            with pytest.raises(Interrupted):
                await scene.delete("s1")
            assert failed
            await writes_on(scene)
            scene.machine.kill()
            works[0] = True
            [(state, _)] = scene.rows("deletions", "state, id")
            assert state == ("vote" if journal == "answers again" else "pivot")
            await scene.verify_data()
            await scene.with_probe(At("", lambda: None))
            await scene.boot()
            await scene.write()
            assert await recovered(scene) == "completed"
            await writes_on(scene)
            await scene.verify(leaks=True)

    play(story())


# Locks that QEMU does not hold


def test_qemu_that_has_migrated_away_holds_no_lock(tmp_path: Path) -> None:
    """`postmigrate`: the images look free; it is refused by its run state."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.qmp("migrate", uri="exec:cat >/dev/null")
            end = time.monotonic() + 60
            while scene.run_state() != "postmigrate":
                assert time.monotonic() < end, scene.run_state()
            before = scene.fingerprints()
            done = subprocess.run(  # noqa: ASYNC221
                [
                    *(sys.executable, "-m", "backfold", "--json"),
                    *("--journal", str(scene.journal)),
                    *("delete", DOMAIN, "s1", "--yes"),
                ],
                capture_output=True,
                text=True,
            )
            assert done.returncode == 3, done
            result = json.loads(done.stdout.splitlines()[-1])
            assert [r["code"] for r in result["reasons"]] == ["unsafe_run_state"]
            assert scene.fingerprints() == before
            await scene.verify_data()

    play(story())


# I/O errors in the hold


def test_io_error_after_the_guest_was_stopped(tmp_path: Path) -> None:
    """PENDING never comes: the guest is released within the downtime, nothing lost."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard(), pause=8000) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.quit()
            # Writes beyond a file size limit fail; the signal would end QEMU.
            start = scene.machine._command
            scene.machine._command = lambda *args: [  # type: ignore[method-assign]
                "env",
                "--ignore-signal=XFSZ",
                *start(*args),
            ]
            await scene.boot()
            await scene.write()
            free = resource.prlimit(scene.machine.pid, resource.RLIMIT_FSIZE)

            def break_storage() -> None:
                # Something is left to copy that cannot be written any more.
                (job,) = scene.machine.qmp("query-jobs")
                scene.machine.qmp("job-pause", id=job["id"])
                command = 'qemu-io -d vda/virtio-backend "write -P 9 12M 1M"'
                said = scene.machine.qmp(
                    "human-monitor-command", **{"command-line": command}
                )
                assert "wrote" in said or said == "", said
                limit = (4096, free[1])
                resource.prlimit(scene.machine.pid, resource.RLIMIT_FSIZE, limit)
                scene.machine.qmp("job-resume", id=job["id"])

            def mend() -> None:
                resource.prlimit(scene.machine.pid, resource.RLIMIT_FSIZE, free)

            class Both(At):
                def reached(self, *where: str) -> None:
                    super().reached(*where)
                    if ".".join(where[1:]) == "vote.release_votes.announced":
                        mend()

            probe = Both("vote.stop_guest.done", break_storage)
            await scene.with_probe(probe)
            with pytest.raises(Interrupted) as caught:
                await scene.delete("s1")
            assert probe.times == 1
            assert "vote.complete_jobs.done" not in probe.seen
            assert "vda stopped" in caught.value.what
            await writes_on(scene)
            await scene.verify_data()
            await scene.with_probe(At("", mend))
            assert await recovered(scene) == "completed"
            await writes_on(scene)
            await scene.verify(leaks=True)

    play(story())


# What takes long is done while the guest runs


def test_copied_data_is_flushed_before_the_guest_is_held(tmp_path: Path) -> None:
    """The first flush of a GiB took 318 ms: too long for a guest that stands."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, guard=NoGuard()) as scene:
            await scene.take("s1")
            await scene.take("s2", exclude=["vdb"])  # Of vda a link, of vdb the top.
            await scene.write()
            states: list[str] = []
            probe = At(
                "vote.flush_copied.done", lambda: states.append(scene.run_state())
            )
            await scene.with_probe(probe)
            assert (await scene.delete("s1")).state == "completed"
            assert states == ["running"]
            flushed = probe.seen.index("vote.flush_copied.done")
            assert flushed < probe.seen.index("vote.hold.announced")
            assert flushed < probe.seen.index("vote.stop_guest.announced")
            await writes_on(scene)
            await scene.verify()

    play(story())


# Somebody else takes a snapshot


def take_by_hand(scene: Scene, node: str) -> str | None:
    """A snapshot that Backfold does not know of; its image, or None if refused."""
    overlay = scene.images_folder / "foreign.qcow2"
    try:
        scene.machine.qmp(
            "blockdev-snapshot-sync",
            **{"device": node, "snapshot-file": str(overlay), "format": "qcow2"},
        )
    except MachineError:
        return None
    return str(overlay)


@pytest.mark.parametrize(
    ("gone", "place"),
    [
        ("s2", "vote.complete_jobs.done"),
        ("s2", "pivot.finalize.done"),
        ("s1", "vote.flush_copied.done"),
    ],
)
def test_foreign_snapshot_during_a_deletion(
    tmp_path: Path, gone: str, place: str
) -> None:
    """QEMU refuses it on a disk with a job; where it is taken, no write is lost."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            taken: list[str | None] = []
            probe = At(place, lambda: taken.append(take_by_hand(scene, "drive-vda")))
            await scene.with_probe(probe)
            left = None
            try:
                await scene.delete(gone)
            except (RolledBack, Interrupted) as error:
                left = error
            assert len(taken) == 1
            await writes_on(scene)
            if taken == [None]:
                assert left is None
                await scene.verify()
                return
            # QEMU's graph is the truth: the guest writes into the foreign overlay.
            scene.machine.kill()
            raw = tmp_path / "foreign.raw"
            export_raw(Path(str(taken[0])), "qcow2", raw)
            verdict = scene.ledger.verify(raw, 0)
            assert verdict.ok, verdict.lost[:5]

    play(story())


# Processes that have ended and are still there


_LATE_REAPER = """
import ctypes, subprocess, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
subprocess.run(sys.argv[1:])
print("ended", flush=True)
sys.stdin.read()
"""


def test_helper_that_has_ended_and_is_not_reaped(tmp_path: Path) -> None:
    """A zombie answers signals for as long as its parent likes; it is no helper."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.kill()
            point = "commit_per_disk.start_job.done"
            victim = [
                str(TESTS / "crash" / "victim.py"),
                str(scene.journal),
                "delete",
                "s1",
            ]
            reaper = subprocess.Popen(  # noqa: ASYNC220
                [
                    *(sys.executable, "-c", _LATE_REAPER, sys.executable),
                    *(*victim, point, "helper,self"),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            try:
                assert reaper.stdout is not None
                said = list(iter(reaper.stdout.readline, b"ended\n"))
                assert b"reached\n" in said
                [(text, _)] = scene.rows("deletions", "helper, id")
                helper: dict[str, Any] = json.loads(text)
                os.kill(helper["pid"], 0)  # It is still there.
                assert await recovered(scene) == "completed"
                os.kill(helper["pid"], 0)
            finally:
                reaper.send_signal(signal.SIGKILL)
                reaper.communicate()
            await scene.boot()
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


# Streams


def test_others_end_the_job_of_a_stream(tmp_path: Path) -> None:
    """Cancelled, finalized before it is flushed, its QEMU killed and started again."""

    async def story() -> None:
        async with Scene(tmp_path, pause=8000, guard=NoGuard()) as scene:
            for name in ("s1", "s2", "s3", "s4"):
                await scene.take(name, writes=5)
            machine = scene.machine

            def by_id(command: str) -> Callable[[], None]:
                def act() -> None:
                    (job,) = machine.qmp("query-jobs")
                    word = "device" if command.startswith("block") else "id"
                    machine.qmp(command, **{word: job["id"]})

                return act

            def restart() -> None:
                machine.kill()
                machine.disks = [("vda", Path(active), "qcow2")]
                machine.start()

            async def attacked(
                snapshot: str, place: str, act: Callable[[], None]
            ) -> bool:
                """Whether the disk was streamed again after the decision."""
                probe = At(place, act)
                await scene.with_probe(probe)
                await scene.delete(snapshot, strategy="stream")
                await writes_on(scene)
                return "pivot.start_job.done" in probe.seen

            # Its vote is the last look: what was cancelled before is given up.
            before = scene.catalog()
            for command in ("job-cancel", "block-job-cancel"):
                with pytest.raises(RolledBack):
                    await attacked("s4", "vote.hold.noted", by_id(command))
                assert scene.catalog() == before  # The snapshot is valid.
                await writes_on(scene)
            await scene.verify_data()
            # Nothing was flushed yet, and there is only forward.
            finalize = by_id("job-finalize")
            assert not await attacked("s4", "commit_per_disk.proceed.noted", finalize)
            # Decided: the old chain is the truth, and it is streamed again.
            assert await attacked("s3", "vote.decide.noted", by_id("job-cancel"))
            (active,) = [disk.source for disk in await scene.disks()]
            assert await attacked("s2", "vote.decide.noted", restart)
            assert {s.name for s in await scene.engine.catalog.snapshots(DOMAIN)} == {
                "s1"
            }
            await scene.verify(leaks=True)

    play(story())
