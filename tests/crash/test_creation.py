"""A snapshot that is being taken, killed anywhere: on all disks, or on none.

What matters after the kill is not only what `recover` makes of it, but what the
operator is told to boot before anybody recovers.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.creation_run import plan_creation
from backfold.engine.results import Creation
from backfold.engine.runner import crash_points
from backfold.journal.errors import BackfoldError
from backfold.journal.model import CreationPlan
from backfold.states.creation import CREATION
from crash.test_kill import kill_at
from real.owners import Launcher
from real.scene import DOMAIN, At, NoGuard, Scene, play


class Died(BaseException):
    """The engine ends here."""


def die() -> None:
    """Be the probe that ends the engine."""
    raise Died


async def take_and_die(scene: Scene, point: str) -> None:
    """Take s1 with an engine that ends at a moment; nobody recovers."""
    low = scene.machine.acknowledged()
    await scene.with_probe(At(point, die, machine="creation"))
    with pytest.raises(Died):
        await scene.engine.create_snapshot(DOMAIN, "s1")
    scene.brackets["s1"] = (low, scene.machine.acknowledged())
    await scene.with_probe(At("", die))


async def recovered(scene: Scene) -> Creation:
    """`recover`, which must leave nothing open."""
    (end,) = await scene.engine.recover()
    assert isinstance(end, Creation), end
    assert scene.open_runs() == []
    return end


async def left_open(scene: Scene) -> BackfoldError:
    """`recover` that reports, and touches nothing."""
    names = [str(path) for path in scene.images()]
    catalog = scene.catalog()
    (end,) = await scene.engine.recover()
    assert isinstance(end, BackfoldError), end
    assert [str(path) for path in scene.images()] == names
    assert scene.catalog() == catalog
    return end


async def snapshots(scene: Scene) -> list[str]:
    return [one.name for one in await scene.engine.catalog.snapshots(DOMAIN)]


def boot_from(scene: Scene, *sources: str) -> None:
    """Boot by hand from these images, in the disks' order."""
    scene.machine.disks = [
        (disk.target, scene.images_folder / source, "qcow2")
        for disk, source in zip(scene.first_disks, sources, strict=True)
    ]
    scene.machine.start()


#: Moments that a creation of an off domain comes to when nothing fails.
OFF = [
    ".".join(point)
    for point in crash_points(CREATION)
    if point[1] not in ("switch", "undo", "remove_overlays")
    and point[:2] != ("switched", "tell_owner")
]


def test_off_killed_at_every_moment(tmp_path: Path) -> None:
    """Each ends recorded or undone, and both disks show what they showed."""

    async def story() -> None:
        for point in OFF:
            folder = tmp_path / point
            folder.mkdir()
            async with Scene(folder, disks=2, power="off") as scene:
                for disk in scene.first_disks:
                    _io(disk.source, "write -P 7 64k 64k")
                owner = Launcher(folder)
                await scene.engine.set_hook(DOMAIN, str(owner.hook))
                await take_and_die(scene, point)
                if scene.open_runs():
                    end = await recovered(scene)
                    taken = end.state == "recorded"
                    # Not before the switch: a snapshot of what nobody asked for now.
                    assert taken == point.startswith("switched") or (
                        point == "overlays_made.switched.noted"
                    ), point
                else:
                    assert point == "switched.recorded.noted"
                    taken = True
                assert await snapshots(scene) == (["s1"] if taken else [])
                for found in await scene.disks():
                    assert len(found.chain) == 1 + taken, point
                    _io(found.source, "read -P 7 64k 64k")
                chains = {path for disk in await scene.disks() for path in disk.chain}
                assert {str(path) for path in scene.images()} == chains
                never = not owner.disks and not taken
                assert never or owner.agrees(await scene.disks()), point

    play(story())


def _io(image: str, command: str) -> None:
    """Write or verify a pattern beside the guest's area; fails when it differs."""
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", command, image],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "failed" not in done.stdout, (image, done)


@pytest.mark.parametrize("lives", [True, False])
def test_off_domain_that_was_booted_before_anybody_recovered(
    tmp_path: Path, lives: bool
) -> None:
    """It was booted from its old images, as it was told, and keeps them."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, power="off", guard=NoGuard()) as scene:
            await take_and_die(scene, "switched.recorded.announced")
            await scene.boot()
            await scene.write()
            if not lives:
                scene.machine.kill()
                await scene.verify_data()
            end = await recovered(scene)
            assert (end.state, await snapshots(scene)) == ("undone", [])
            if not lives:
                await scene.boot()
            await scene.write()
            await scene.verify()

    play(story())


def test_engine_killed_after_the_switch_and_qemu_later(tmp_path: Path) -> None:
    """Nobody recovers: what is to be booted are the overlays, with all the writes."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2) as scene:
            await scene.write()
            low = scene.machine.acknowledged()
            kill_at(scene, "create", "s1", "overlays_made.switch.done", "self")
            scene.brackets["s1"] = (low, scene.machine.acknowledged())
            await scene.write(30)
            scene.machine.kill()
            await scene.verify_data()
            assert [d.source[-3:] for d in await scene.disks()] == [".s1", ".s1"]
            await scene.boot()
            await scene.write()
            assert (await recovered(scene)).state == "recorded"
            assert await snapshots(scene) == ["s1"]
            await scene.verify()

    play(story())


def test_both_went_on(tmp_path: Path) -> None:
    """Somebody booted the old images over written overlays: reported, not guessed."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await take_and_die(scene, "switched.recorded.announced")
            await scene.write(30)
            scene.machine.kill()
            (overlay,) = await scene.disks()
            boot_from(scene, "vda.qcow2")
            await scene.write()
            assert "hold data" in (await left_open(scene)).what
            scene.machine.kill()
            assert "hold data" in (await left_open(scene)).what
            (disk,) = await scene.disks()
            assert disk.broken is not None
            assert Path(overlay.source).exists()

    play(story())


def test_disks_of_which_only_one_is_on_its_overlay(tmp_path: Path) -> None:
    """No transaction did that: somebody booted it so; then from the overlays."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, power="off", guard=NoGuard()) as scene:
            await take_and_die(scene, "overlays_made.sync_frozen.noted")
            scene.machine.paused = True
            boot_from(scene, "vda.s1", "vdb.qcow2")
            assert "some of vda, vdb" in (await left_open(scene)).what
            scene.machine.kill()
            scene.machine.paused = False
            boot_from(scene, "vda.s1", "vdb.s1")
            await scene.write()
            assert (await recovered(scene)).state == "recorded"
            await scene.write()
            await scene.verify()

    play(story())


def test_overlay_of_a_qemu_that_does_not_answer(tmp_path: Path) -> None:
    """It looks empty and QEMU has it: neither removed nor renamed, asked again."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await scene.write()
            scene.machine.qmp("stop")
            await take_and_die(scene, "overlays_made.switch.done")
            monitor = scene.machine.monitor
            hidden = monitor.with_suffix(".hidden")
            monitor.rename(hidden)
            assert "in use" in (await left_open(scene)).what
            hidden.rename(monitor)
            assert (await recovered(scene)).state == "recorded"
            scene.machine.qmp("cont")
            await scene.write()
            await scene.verify()

    play(story())


@pytest.mark.parametrize("power", ["running", "off"])
def test_plan_that_another_engine_outdated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power: str
) -> None:
    """Two engines plan at once; the second one plans again under the lock."""

    async def story() -> None:
        async with Scene(tmp_path, power=power, guard=NoGuard()) as scene:
            others = ["s1"]

            async def plan_slowly(*arguments: Any) -> CreationPlan:
                plan = await plan_creation(*arguments)
                if others:
                    await scene.take(others.pop())
                return plan

            monkeypatch.setattr("backfold.engine.begin.plan_creation", plan_slowly)
            await scene.take("s2")
            assert await snapshots(scene) == ["s1", "s2"]
            assert len((await scene.disks())[0].chain) == 3
            await scene.write()
            await scene.verify()

    play(story())
