"""Killed by SIGKILL, then recovered by the command line.

What the matrix of `make crash` does not do: recovery from outside, and what may be
asked for in between. What is on the disks is compared with what the guest was told
to be written.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.results import Deletion
from backfold.journal.errors import AlreadyDecided, Refused
from real.scene import DOMAIN, Scene, play
from sampled import sampled

BACKFOLD = [sys.executable, "-m", "backfold"]
VICTIM = Path(__file__).with_name("victim.py")


def kill_at(scene: Scene, order: str, snapshot: str, point: str, kills: str) -> str:
    """Run the victim; returns what it said."""
    if "qemu" in kills:
        kills = kills.replace("qemu", str(scene.machine.pid))
    done = subprocess.run(
        [sys.executable, VICTIM, scene.journal, order, snapshot, point, kills],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "reached" in done.stdout, done.stderr
    if "self" in kills:
        assert done.returncode == -signal.SIGKILL, done.stderr
    return done.stderr


def command(scene: Scene, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command line; returns its exit status and its JSON lines."""
    done = subprocess.run(
        [*BACKFOLD, "--journal", str(scene.journal), "--json", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def recover(scene: Scene, *options: str) -> str:
    """`backfold recover`; returns the state of the last run."""
    status, lines = command(scene, "recover", *options)
    assert status == 0, lines
    # A guard may have finished everything before: then there is nothing to recover.
    states = [line["state"] for line in lines if line.get("event") == "result"]
    return (
        str(states[-1]) if states else str(scene.rows("deletions", "state, id")[0][0])
    )


@pytest.mark.parametrize("point", sampled(1, ["vote.fence.done", "vote.decide.noted"]))
def test_an_operators_pause_survives(tmp_path: Path, point: str) -> None:
    """Recovery lets nobody go on that it did not stop."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            scene.machine.qmp("stop")
            kill_at(scene, "delete", "s3", point, "self")
            assert recover(scene) == "completed"
            assert scene.run_state() == "paused"
            scene.machine.qmp("cont")
            await scene.write()
            await scene.verify()

    play(story())


def test_recover_attaches_to_a_living_job(tmp_path: Path) -> None:
    """The same job goes on: started once, and no byte is copied twice."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            kill_at(scene, "delete", "s3", "commit_per_disk.start_job.noted", "self")
            [before] = scene.machine.qmp("query-jobs")
            assert recover(scene) == "completed"
            starts = [
                row
                for row in scene.rows("transitions", "id, trigger, kind, detail")
                if row[1] == "start_job" and row[2] == "announce"
            ]
            assert [json.loads(row[3])["job"] for row in starts] == [before["id"]]
            await scene.verify()

    play(story())


def test_roll_back_of_a_killed_deletion(tmp_path: Path) -> None:
    """Undone on request: the domain as before, the snapshot invalid, and deletable."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            kill_at(scene, "delete", "s3", "vote.fence.done", "self")
            assert recover(scene, "--roll-back") == "rolled_back"
            assert (await scene.engine.catalog.snapshot(DOMAIN, "s3")).status == (
                "invalid"
            )
            with pytest.raises(Refused) as refusal:
                await scene.engine.revert_images(DOMAIN, "s3")
            assert [r.code for r in refusal.value.reasons] == ["invalid_snapshot"]
            assert scene.machine.qmp("query-jobs") == []
            await scene.write()
            await scene.delete("s3")
            await scene.verify()

    play(story())


def test_no_way_back_after_the_decision(tmp_path: Path) -> None:
    """Roll back and cancel are refused with exit status 6; recover finishes."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            kill_at(scene, "delete", "s3", "vote.decide.noted", "qemu,self")
            [(run, _)] = scene.rows("deletions", "id, state")
            # The guard may finish the pivot meanwhile; it is decided either way.
            with pytest.raises(AlreadyDecided):
                await scene.engine.roll_back(run)
            assert command(scene, "cancel", run)[0] == 6
            assert recover(scene) == "completed"
            scene.machine.kill()
            await scene.boot()
            await scene.verify()

    play(story())


@pytest.mark.parametrize(
    ("point", "kills"),
    sampled(
        1,
        [
            ("overlays_made.switch.done", "self"),
            ("planned.make_overlays.done", "self"),
            ("overlays_made.switch.announced", "self"),
            ("overlays_made.switch.done", "qemu,self"),
            ("switched.recorded.announced", "qemu,self"),
        ],
    ),
)
def test_creation(tmp_path: Path, point: str, kills: str) -> None:
    """A snapshot that was being taken: on all disks, or on none."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2) as scene:
            await scene.take("s1")
            low = scene.machine.acknowledged()
            kill_at(scene, "create", "s2", point, kills)
            scene.brackets["s2"] = (low, scene.machine.acknowledged())
            if kills == "self":
                await scene.write()
            status, lines = command(scene, "recover")
            taken = [s.name for s in await scene.engine.catalog.snapshots(DOMAIN)]
            assert (taken, status) in ((["s1"], 5), (["s1", "s2"], 0)), lines
            overlays = [d.source.endswith(".s2") for d in await scene.disks()]
            assert overlays == [len(taken) == 2] * 2
            scene.machine.kill()
            await scene.boot()
            await scene.write()
            await scene.verify()

    play(story())


def test_the_command_line_killed_while_it_copies(tmp_path: Path) -> None:
    """SIGKILL of `backfold delete` itself, then of `backfold recover`, then an end."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            await scene.write(100)
            scene.machine.qmp("stop")  # A guest that outruns 1 MiB/s never converges.
            for order in (
                ["delete", DOMAIN, "s3", "--yes", "--bandwidth", "1M"],
                ["recover"],
            ):
                process = await asyncio.create_subprocess_exec(
                    *BACKFOLD,
                    "--journal",
                    str(scene.journal),
                    "--json",
                    *order,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                )
                assert process.stdout is not None
                async for line in process.stdout:
                    if json.loads(line)["event"] == "progress":
                        break
                os.kill(process.pid, signal.SIGKILL)
                await process.wait()
            assert scene.run_state() == "paused"
            [run] = await scene.engine.deletions(only_open=True)
            assert isinstance(run, Deletion) and run.state == "commit_per_disk"
            assert recover(scene) == "completed"
            scene.machine.qmp("cont")
            await scene.write()
            await scene.verify()

    play(story())
