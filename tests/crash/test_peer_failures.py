"""What the peer loses (docs/attacks.md has its figures), done to Backfold.

Each test kills at the peer's worst moment and first looks at what an operator is told
to boot while nobody has recovered yet; every acknowledged write must be there.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlite_utils import Database

from backfold.engine.images import QemuImages
from backfold.engine.results import Deletion
from backfold.engine.truth import boot_sources
from backfold.journal import catalog, runs
from backfold.journal.errors import Refused
from crash.test_kill import kill_at
from real.scene import DOMAIN, At, NoGuard, Scene, play
from sampled import sampled


class Died(BaseException):
    """The engine ends here."""


async def delete_and_die(
    scene: Scene, gone: str, place: str, act: Callable[[], object]
) -> None:
    """Delete with an engine that ends at a place, after ``act``; nobody recovers."""

    def end() -> None:
        act()
        raise Died

    await scene.with_probe(At(place, end))
    with pytest.raises(Died):
        await scene.delete(gone, bandwidth=12 << 20)
    await scene.with_probe(At("", end))


async def recovered(scene: Scene, **options: Any) -> str:
    """`recover`, which must leave nothing open."""
    (end,) = await scene.engine.recover(**options)
    assert isinstance(end, Deletion), end
    assert scene.open_runs() == []
    return end.state


async def released(scene: Scene) -> None:
    """Wait for the guard. The limit is for busy machines only."""
    end = time.monotonic() + 60
    while scene.run_state() != "running":
        assert time.monotonic() < end, scene.run_state()
        await asyncio.sleep(0.05)


async def boot_and_complete(scene: Scene) -> None:
    """Boot what is named, let the guest write, recover to the end, verify."""
    await scene.verify_data()
    await scene.boot()
    await scene.write()
    assert await recovered(scene) == "completed"
    await scene.write()
    await scene.verify(leaks=True)


@pytest.mark.parametrize(
    "point", sampled(1, ["vote.complete_jobs.done", "pivot.finalize.done"])
)
def test_manager_is_killed_after_job_complete_and_qemu_later(
    tmp_path: Path, point: str
) -> None:
    """The peer names the stale overlay: up to 696 flushed writes gone."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, pause=2000) as scene:
            await scene.take("s1")
            await scene.write()
            kill_at(scene, "delete", "s1", point, "self")
            await released(scene)
            await scene.write(30)
            scene.machine.kill()
            await boot_and_complete(scene)

    play(story())


def test_intermediate_commit_is_killed_when_its_link_has_changed(
    tmp_path: Path,
) -> None:
    """QEMU changes the link first and flushes later, or never: all its tries lost."""

    async def story() -> None:
        async with Scene(tmp_path, style="blockdev", guard=NoGuard()) as scene:
            await scene.take("s1")
            await scene.take("s2", writes=60)
            await scene.restart()
            await scene.write()
            # A base that was open for writing before the job is not flushed at its end.
            scene.machine.qmp(
                "blockdev-reopen",
                options=[
                    {
                        "driver": "qcow2",
                        "node-name": "vda-2",
                        "file": "vda-2-file",
                        "read-only": False,
                    }
                ],
            )
            await delete_and_die(scene, "s1", "pivot.finalize.done", scene.machine.kill)
            await boot_and_complete(scene)

    play(story())


@pytest.mark.parametrize(
    "killed", sampled(1, ["engine and QEMU", "engine, and the job aborted"])
)
def test_revert_to_a_snapshot_whose_deletion_was_interrupted(
    tmp_path: Path, killed: str
) -> None:
    """The peer reverts without a word, to wrong data: nine of nine."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard(), pause=8000) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.write(30)
            frozen = (await scene.engine.revert_images(DOMAIN, "s2"))[0].source
            before = scene.fingerprints()[frozen]

            def interrupt() -> None:
                end = time.monotonic() + 30
                while not (jobs := scene.machine.qmp("query-jobs"))[0][
                    "current-progress"
                ]:
                    assert time.monotonic() < end
                if killed == "engine and QEMU":
                    scene.machine.kill()
                else:
                    scene.machine.qmp("job-cancel", id=jobs[0]["id"])

            await delete_and_die(scene, "s2", "vote.hold.noted", interrupt)
            assert scene.fingerprints()[frozen] != before

            async def refused() -> str:
                with pytest.raises(Refused) as refusal:
                    await scene.engine.revert_images(DOMAIN, "s2")
                (reason,) = refusal.value.reasons
                assert reason.code == "invalid_snapshot"
                return reason.message

            assert "open" in await refused()
            assert await recovered(scene, roll_back=True) == "rolled_back"
            assert "written into" in await refused()
            await scene.verify_data()
            assert (await scene.engine.revert_images(DOMAIN, "s1"))[0].source
            if not scene.is_started():
                await scene.boot()
            assert (await scene.delete("s2")).state == "completed"
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


class Definitions:
    """A probe that asks at every moment: booted now, is there a file?"""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.seen: list[str] = []

    def reached(self, *where: str) -> None:
        """Read the journal as whoever comes after a kill would."""
        connection = sqlite3.connect(
            f"file:{self.scene.journal}?mode=ro", uri=True, isolation_level=None
        )
        db = Database(connection, execute_plugins=False)
        try:
            domain = catalog.domain(db, DOMAIN)
            opened = runs.list_deletions(db, only_open=True)
        finally:
            connection.close()
        for source in boot_sources(domain, opened[0] if opened else None, QemuImages()):
            assert source.doubt is None, (where, source)
            assert Path(source.disk.source).is_file(), (where, source)
        self.seen.append(".".join(where[1:]))


@pytest.mark.parametrize("power", sampled(1, ["running", "off"]))
def test_the_definition_never_names_a_missing_file(tmp_path: Path, power: str) -> None:
    """The peer unlinks first and saves the definition later."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, guard=NoGuard()) as scene:
            await scene.take("s1")
            await scene.take("s2", exclude=["vdb"])  # Of vda a link, of vdb the top.
            await scene.write()
            if power == "off":
                scene.machine.kill()
            probe = Definitions(scene)
            await scene.with_probe(probe)
            assert (await scene.delete("s1")).state == "completed"
            assert "update_metadata.unlink.done" in probe.seen
            await scene.write()
            await scene.verify(leaks=True)

    play(story())


def test_killed_when_the_overlay_is_unlinked(tmp_path: Path) -> None:
    """The very end: nobody recovers, and the domain boots with all its data."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, guard=NoGuard()) as scene:
            await scene.take("s1")
            await scene.write()
            await delete_and_die(
                scene, "s1", "update_metadata.unlink.done", scene.machine.kill
            )
            await boot_and_complete(scene)

    play(story())


@pytest.mark.parametrize("killed", sampled(1, ["engine and QEMU", "engine"]))
def test_two_disks_are_killed_between_their_pivots(tmp_path: Path, killed: str) -> None:
    """Of the peer's snapshot this is the end: it can never be deleted again."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, guard=NoGuard()) as scene:
            await scene.take("s1")
            await scene.write()

            def pivot_one() -> None:
                first, second = sorted(
                    job["id"] for job in scene.machine.qmp("query-jobs")
                )
                scene.machine.qmp("job-finalize", id=first)
                end = time.monotonic() + 30
                while True:
                    jobs = scene.machine.qmp("query-jobs")
                    states = {job["id"]: job["status"] for job in jobs}
                    if states == {first: "concluded", second: "pending"}:
                        break
                    assert time.monotonic() < end, states
                if killed == "engine and QEMU":
                    scene.machine.kill()

            await delete_and_die(scene, "s1", "vote.decide.noted", pivot_one)
            if killed == "engine and QEMU":
                await boot_and_complete(scene)
            else:
                assert await recovered(scene) == "completed"
                await scene.write()
                await scene.verify()

    play(story())
