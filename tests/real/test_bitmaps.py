"""Incremental backups across deletions, on real QEMU.

Where the guest does not have to write by itself it stays before its first
instruction: what it would write comes from `Backups.write`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.journal.errors import Reason, Refused, RolledBack
from real.backups import BITMAP, Backups
from real.scene import DOMAIN, At, NoGuard, Scene, play


def test_backups_go_on_across_a_snapshot_and_its_deletion(tmp_path: Path) -> None:
    """The newest snapshot of a running guest: the image that it writes to changes."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            backups = Backups(scene)
            await backups.full()
            await scene.take("s1")
            await scene.take("s2")
            await scene.write()
            scene.machine.qmp("stop")
            before = await backups.noted()
            await scene.delete("s2")
            after = await backups.noted()
            assert before is not None and after is not None
            assert (after["count"], after["recording"]) == (before["count"], True)
            scene.machine.qmp("cont")
            await scene.write()
            await backups.prove()
            await scene.write()
            await scene.delete("s1")
            await scene.write()
            await backups.prove()
            await scene.verify()

    play(story())


def test_roll_back_gives_the_base_its_bitmaps_back(tmp_path: Path) -> None:
    """Somebody takes the vote back when everything was carried already."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            scene.machine.paused = True
            await scene.boot()
            backups, upper = Backups(scene), Backups(scene, name="upper")
            await backups.full()
            await backups.write(0)
            await scene.engine.create_snapshot(DOMAIN, "s1")
            await backups.write(1)
            await backups.incremental()
            await upper.full()
            await backups.write(2)
            below = (await scene.disks())[0].chain[1]
            before = await backups.noted(below), await upper.noted(below)
            assert before[0] is not None and before[1] is None

            def cancel() -> None:
                for job in scene.machine.qmp("query-jobs"):
                    scene.machine.qmp("job-cancel", id=job["id"])

            probe = At("vote.carry_bitmaps.done", cancel)
            await scene.with_probe(probe)
            with pytest.raises(RolledBack):
                await scene.delete("s1")
            assert probe.times == 1
            assert (await backups.noted(below), await upper.noted(below)) == before
            assert [b["name"] for b in backups.bitmaps(below)] == [BITMAP]

            await scene.delete("s1")
            await backups.write(3)
            await backups.prove()
            await upper.prove()

    play(story())


#: The tests' engine commits if nothing is said.
AUTO: dict[str, Any] = {"strategy": "auto"}


async def blocks(backups: Backups) -> int:
    """How many blocks of 64 KiB the active image's bitmap has noted."""
    found = await backups.noted()
    assert found is not None and found["recording"] and found["persistent"]
    return int(found["count"]) // (64 << 10)


async def delete_off(scene: Scene, snapshot: str, strategy: str) -> None:
    """Power off, delete, and boot again."""
    scene.machine.quit()
    await scene.delete(snapshot, strategy=strategy)
    await scene.boot()


async def three_snapshots(scene: Scene, backups: Backups) -> None:
    """A block is written before and after each; s2 is taken with the domain off.

    A backup is made before s2, and the bitmap of the overlay above it begins empty,
    as other programs make it: what is written is told only by all images together.
    """
    scene.machine.paused = True
    await scene.boot()
    await backups.full()
    await backups.write(0)
    await scene.engine.create_snapshot(DOMAIN, "s1")
    await backups.write(1)
    await backups.incremental()
    await backups.write(2)
    scene.machine.quit()
    await scene.engine.create_snapshot(DOMAIN, "s2")
    (disk,) = await scene.disks()
    qemu_img("bitmap", "--clear", disk.source, BITMAP)
    await scene.boot()
    await backups.write(3)
    await scene.engine.create_snapshot(DOMAIN, "s3")
    await backups.write(4)
    assert await blocks(backups) == 2


def test_backups_go_on_when_snapshots_are_deleted_off(tmp_path: Path) -> None:
    """Below the active image by commit, the active image, and by stream."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            backups = Backups(scene)
            await three_snapshots(scene, backups)

            await delete_off(scene, "s3", strategy="commit")
            assert await blocks(backups) == 2
            await delete_off(scene, "s2", strategy="commit")
            assert await blocks(backups) == 3
            await backups.write(5)
            assert await blocks(backups) == 4
            await backups.prove()
            assert await blocks(backups) == 0
            await backups.write(6)
            # What the frozen image had noted before that backup comes once more.
            await delete_off(scene, "s1", strategy="stream")
            assert await blocks(backups) == 2
            await backups.prove()

    play(story())


def test_a_bitmap_of_before_a_revert_does_not_come_back(tmp_path: Path) -> None:
    """The last backup has what was given up; the bitmap does not know that."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            scene.machine.paused = True
            backups = Backups(scene)
            await scene.boot()
            await backups.full()
            await backups.write(0)
            await scene.engine.create_snapshot(DOMAIN, "s1")
            await backups.write(1)
            await backups.incremental()
            scene.machine.quit()
            await scene.engine.revert(DOMAIN, "s1", discard=True)
            await scene.boot()
            assert await backups.noted() is None
            await backups.write(2)
            found = await fates(scene, "s1", strategy="commit")
            assert found == ["commit", f"{BITMAP} dropped"]
            await scene.delete("s1")
            assert await backups.noted() is None
            await backups.full()
            await backups.write(3)
            await backups.prove()

    play(story())


@pytest.mark.parametrize("strategy", ["commit", "stream"])
def test_backups_go_on_when_a_range_is_deleted(tmp_path: Path, strategy: str) -> None:
    """Four images of a living QEMU become one, and all of their notes."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            backups = Backups(scene)
            await three_snapshots(scene, backups)

            await scene.delete("s1", through="s3", strategy=strategy)

            assert len((await scene.disks())[0].chain) == 1
            assert await blocks(backups) == 4  # 0, 2, 3, 4
            await backups.write(5)
            await backups.prove()

    play(story())


async def fates(scene: Scene, snapshot: str, **options: Any) -> list[str]:
    """Strategy, name and fate of each bitmap, as it is planned."""
    plan = await scene.engine.plan(DOMAIN, snapshot, **AUTO | options)
    (fold,) = plan.folds
    return [fold.strategy, *(f"{one.name} {one.fate}" for one in fold.bitmaps)]


async def refused(scene: Scene, snapshot: str, **options: Any) -> Reason:
    with pytest.raises(Refused) as refusal:
        await scene.engine.plan(DOMAIN, snapshot, **AUTO | options)
    (reason,) = refusal.value.reasons
    assert reason.code == "dirty_bitmaps"
    return reason


def test_no_bitmap_is_lost_silently(tmp_path: Path) -> None:
    """The way is chosen so that it survives; else the deletion is refused."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", base_format="raw") as scene:
            for name in ("s1", "s2"):
                await scene.engine.create_snapshot(DOMAIN, name)
            upper, lower, _ = (await scene.disks())[0].chain
            both = {"through": "s2"}
            qemu_img("bitmap", "--add", upper, "b")
            assert await fates(scene, "s1", **both) == ["stream", "b stays"]
            found = await refused(scene, "s1", **both, strategy="commit")
            assert "--strategy stream" in found.remedy
            found_fates = await fates(scene, "s2", strategy="commit")
            assert found_fates == ["commit", "b carried"]

            qemu_img("bitmap", "--remove", upper, "b")
            qemu_img("bitmap", "--add", lower, "b")
            assert await fates(scene, "s2") == ["commit", "b stays"]
            found = await refused(scene, "s2", strategy="stream")
            assert "--strategy commit" in found.remedy
            found = await refused(scene, "s1", **both)
            assert "--remove" in found.remedy

            qemu_img("bitmap", "--disable", lower, "b")
            assert await fates(scene, "s1", **both) == ["stream", "b carried"]

            # Who is killed with an image open for writing leaves its bitmaps behind.
            qemu_img("bitmap", "--add", upper, "c")
            scene.machine.paused = True
            await scene.boot()
            scene.machine.kill()
            plan = await scene.engine.plan(DOMAIN, "s2", strategy="commit")
            fates_of = {one.name: one.fate for one in plan.folds[0].bitmaps}
            assert fates_of == {"b": "stays", "c": "broken"}
            assert any("c of vda is inconsistent" in risk for risk in plan.risks)

    play(story())
