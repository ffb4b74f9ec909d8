"""A revert, killed anywhere: every disk shows what it showed, or what the snapshot has.

One domain that is off is reverted again and again: what it wrote since its snapshot is
the pattern `NEW`, what the snapshot holds is `OLD`.
"""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from backfold.engine.results import Reversion
from backfold.engine.runner import crash_points
from backfold.journal.errors import BackfoldError, Interrupted, Refused, RolledBack
from backfold.states.reversion import REVERSION
from real.owners import Launcher
from real.scene import DOMAIN, At, NoGuard, Scene, play

OLD, NEW, LATER = 7, 9, 11
#: Where a run is when it is killed the first time, to recover it into a state.
ENTRY = {
    "planned": "planned.make_overlays.done",
    "overlays_made": "overlays_made.sync_images.noted",
    "recorded": "overlays_made.recorded.noted",
}


class Died(BaseException):
    """The engine ends here."""


def die() -> None:
    """Be the probe that ends the engine."""
    raise Died


def io(image: str | Path, *commands: str) -> None:
    """Write or verify patterns; fails when one differs."""
    options = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", *options, image],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "failed" not in done.stdout, (image, done)


async def write(scene: Scene, pattern: int) -> None:
    """What the guest would write, while it is off, into every disk."""
    for disk in await scene.disks():
        io(disk.source, f"write -P {pattern} 64k 64k")


async def shows(scene: Scene, pattern: int) -> None:
    """Every disk and its whole chain read back as this pattern; nothing is in doubt."""
    for disk in await scene.disks():
        assert disk.broken is None
        io(disk.source, f"read -P {pattern} 64k 64k")


async def snapshot_holds(scene: Scene, name: str, pattern: int) -> None:
    """The frozen images themselves."""
    for entry in (await scene.engine.catalog.snapshot(DOMAIN, name)).disks:
        io(entry.frozen, f"read -P {pattern} 64k 64k")


async def nothing_is_left_over(scene: Scene) -> None:
    """Every image file is in the chain of a disk or of a snapshot."""
    needed = {path for disk in await scene.disks() for path in disk.chain}
    for snapshot in await scene.engine.catalog.snapshots(DOMAIN):
        needed |= {entry.frozen for entry in snapshot.disks}
    assert {str(path) for path in scene.images()} == needed
    assert {path for path, *_ in scene.rows("images")} == needed
    assert scene.open_runs() == []


async def ready(scene: Scene, owner: Launcher | None = None) -> None:
    """Every disk with `OLD` in the snapshot s1 and `NEW` written since."""
    if owner is not None:
        await scene.engine.set_hook(DOMAIN, str(owner.hook))
    await write(scene, OLD)
    await scene.engine.create_snapshot(DOMAIN, "s1")
    await write(scene, NEW)


async def killed(scene: Scene, point: str) -> None:
    """Revert with an engine that ends at a moment."""
    probe = At(point, die, machine="reversion")
    await scene.with_probe(probe)
    with pytest.raises(Died):
        await scene.engine.revert(DOMAIN, "s1", discard=True)
    await scene.with_probe(At("", die))


async def recovered(scene: Scene, point: str = "") -> bool:
    """`recover` with an engine that ends at a moment; whether it came to it."""
    probe = At(point, die, machine="reversion")
    await scene.with_probe(probe)
    with suppress(Died):
        (end,) = await scene.engine.recover()
        assert isinstance(end, Reversion), end
    await scene.with_probe(At("", die))
    return probe.times > 0


async def left_open(scene: Scene) -> BackfoldError:
    """`recover` that reports, and touches nothing."""
    names, catalog = scene.fingerprints(), scene.catalog()
    (end,) = await scene.engine.recover()
    assert isinstance(end, Interrupted), end
    assert (scene.fingerprints(), scene.catalog()) == (names, catalog)
    return end


#: Moments that a run comes to when nothing fails, and when it is undone.
UNDOING = ("remove_overlays", "undo")
POINTS = [".".join(point) for point in crash_points(REVERSION)]
FORWARD = [point for point in POINTS if point.split(".")[1] not in UNDOING]


def test_killed_at_every_moment(tmp_path: Path) -> None:
    """Then it is recovered: undone or finished, and everything reads back."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            owner = Launcher(tmp_path)
            await ready(scene, owner)
            for point in FORWARD:
                assert owner.agrees(await scene.disks()), point
                await killed(scene, point)
                done = (
                    "recorded" in point and point != "overlays_made.recorded.announced"
                )
                told = await scene.disks()
                if scene.open_runs():
                    await recovered(scene)
                # What was to be booted before the recovery is what is read after it.
                assert await scene.disks() == told, point
                await shows(scene, OLD if done else NEW)
                await nothing_is_left_over(scene)
                assert owner.agrees(await scene.disks()), point
                _, last = max(scene.rows("reversions", "started, state"))
                assert last == ("reverted" if done else "undone"), point
                await write(scene, NEW)
            await snapshot_holds(scene, "s1", OLD)

    play(story())


def test_recovery_is_killed_at_every_moment(tmp_path: Path) -> None:
    """One after the other, until one of them comes to the end; with two disks."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, power="off", guard=NoGuard()) as scene:
            owner = Launcher(tmp_path)
            await ready(scene, owner)
            for state, entry in ENTRY.items():
                await killed(scene, entry)
                told = await scene.disks()
                done = state == "recorded"
                points = [p for p in POINTS if p.startswith(f"{state}.")]
                for point in points if done else sorted(set(points) - set(FORWARD)):
                    assert await recovered(scene, point), point
                    assert await scene.disks() == told, point
                await shows(scene, OLD if done else NEW)
                await nothing_is_left_over(scene)
                assert owner.agrees(await scene.disks())

    play(story())


def test_booted_from_the_former_images_before_it_was_recorded(tmp_path: Path) -> None:
    """As `domain show` says: they stay the disks, with all that the guest wrote."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            await scene.boot()
            await scene.take("s1")
            await scene.write()
            scene.machine.quit()
            await killed(scene, ENTRY["overlays_made"])
            await scene.boot()
            await scene.write()
            (end,) = await scene.engine.recover()
            assert isinstance(end, Reversion)
            assert end.state == "undone"
            await scene.write()
            await scene.verify()

    play(story())


def test_written_into_a_former_image_after_it_was_recorded(tmp_path: Path) -> None:
    """Somebody booted the wrong image: not removed, said, and let go when moved."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            await ready(scene)
            [former] = [disk.source for disk in await scene.disks()]
            await killed(scene, ENTRY["recorded"])
            io(former, f"write -P {LATER} 64k 64k")
            error = await left_open(scene)
            assert "was written into since" in error.what
            assert "move it" in error.remedy
            [disk] = await scene.disks()
            assert disk.source != former
            assert disk.broken is not None and "written into" in disk.broken[1]
            kept = tmp_path / "kept"
            Path(former).rename(kept)
            await recovered(scene)
            io(disk.source, f"read -P {OLD} 64k 64k")
            await shows(scene, OLD)
            await nothing_is_left_over(scene)
            io(kept, f"read -P {LATER} 64k 64k")

    play(story())


def test_written_into_a_former_image_right_before_its_removal(tmp_path: Path) -> None:
    """Between the first look and the fence: the second look sees it."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            await ready(scene)
            [former] = [disk.source for disk in await scene.disks()]

            def write_late() -> None:
                io(former, f"write -P {LATER} 64k 64k")

            late = At("recorded.set_aside.announced", write_late, machine="reversion")
            await scene.with_probe(late)
            with pytest.raises(Interrupted) as caught:
                await scene.engine.revert(DOMAIN, "s1", discard=True)
            assert "was written into since" in caught.value.what
            [fenced] = [p for p in scene.images() if ".backfold-" in p.name]
            io(fenced, f"read -P {LATER} 64k 64k")
            await left_open(scene)

    play(story())


def test_the_former_image_is_in_use_after_it_was_recorded(tmp_path: Path) -> None:
    """Its guest runs on it: nothing is renamed under it."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            await ready(scene)
            [former] = [disk.source for disk in await scene.disks()]
            await killed(scene, ENTRY["recorded"])
            scene.machine.disks = [("vda", Path(former), "qcow2")]
            scene.machine.paused = True
            scene.machine.start()
            assert "still in use" in (await left_open(scene)).what

    play(story())


@pytest.mark.parametrize("what", ["former", "frozen", "overlay"])
def test_the_world_changes_before_it_is_recorded(tmp_path: Path, what: str) -> None:
    """Somebody writes into an image, or takes an overlay's name: it is undone."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            await ready(scene)
            [former] = [disk.source for disk in await scene.disks()]
            plan = await scene.engine.plan_revert(DOMAIN, "s1")
            [overlay] = plan.overlays
            seen = {}

            def change() -> None:
                if what == "overlay":
                    Path(overlay.overlay).write_bytes(b"somebody's")
                else:
                    path = former if what == "former" else overlay.frozen.path
                    io(path, f"write -P {LATER} 128k 64k")
                seen.update(scene.fingerprints())

            point = "planned.make_overlays." + (
                "announced" if what == "overlay" else "noted"
            )
            await scene.with_probe(At(point, change, machine="reversion"))
            catalog = scene.catalog()
            with pytest.raises(RolledBack) as caught:
                await scene.engine.revert(DOMAIN, "s1", discard=True)
            assert ("exists already" if what == "overlay" else "written into") in (
                caught.value.what
            )
            if what != "overlay":
                seen.pop(overlay.overlay)
            assert scene.fingerprints() == seen
            assert scene.catalog() == catalog
            assert scene.open_runs() == []
            await shows(scene, NEW)

    play(story())


def test_an_open_revert_bars_everything_else(tmp_path: Path) -> None:
    """One open run per domain, and it is said which one."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            await ready(scene)
            await killed(scene, ENTRY["planned"])
            with pytest.raises(Refused) as caught:
                await scene.engine.create_snapshot(DOMAIN, "s2")
            assert "reversion_open" in [r.code for r in caught.value.reasons]
            with pytest.raises(Refused) as caught:
                await scene.engine.revert(DOMAIN, "s1", discard=True)
            assert "reversion_open" in [r.code for r in caught.value.reasons]

    play(story())
