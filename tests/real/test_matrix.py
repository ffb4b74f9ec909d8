"""Deletions on real QEMU: every way to start it, every state of the domain.

The guest writes all the time; afterwards every acknowledged write must be found by
what the engine says is to be booted, in snapshots that stay as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.command import Style
from backfold.engine.demo.guest import qemu_img
from backfold.engine.results import Deletion
from real.scene import DOMAIN, DOWNTIME_MS, SIZE, Scene, play
from sampled import sampled

STYLES: tuple[Style, ...] = ("drive", "blockdev", "implicit", "relative")


def link_of(path: str | Path) -> str | None:
    """The backing file name in a header, word for word."""
    header = json.loads(qemu_img("info", "-U", "--output=json", path))
    name = header.get("backing-filename")
    return None if name is None else str(name)


def live_chains(scene: Scene) -> list[list[str]]:
    """The names of the images that QEMU has for each disk, the active one first."""
    chains = []
    folder = scene.machine.disks[0][1].parent
    for device in scene.machine.qmp("query-block"):
        if not device.get("inserted") or "floppy" in str(device.get("qdev")):
            continue
        names: list[str] = []
        image: dict[str, Any] | None = device["inserted"]["image"]
        while image is not None:
            name = str(image["filename"])
            if name.startswith("json:"):
                name = json.loads(name[5:])["file"]["filename"]
            names.append(os.path.join(folder, name))
            image = image.get("backing-image")
        if not names[0].endswith(".img"):
            chains.append(names)
    return chains


async def assert_qemu_agrees(scene: Scene) -> None:
    """A living QEMU has exactly the chains that the engine names, and no job."""
    told = [list(disk.chain) for disk in await scene.disks()]
    assert sorted(live_chains(scene)) == sorted(told)
    assert scene.machine.qmp("query-jobs") == []
    for name in Path(f"/proc/{scene.machine.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # The connection of our last question.
            assert not os.readlink(name).endswith("(deleted)")


async def assert_catalog(scene: Scene, parents: dict[str, str | None]) -> None:
    """The snapshots that are left, with their parents; images that are in a chain."""
    snapshots = await scene.engine.catalog.snapshots(DOMAIN)
    assert {s.name: s.parent for s in snapshots} == parents
    assert {s.status for s in snapshots} <= {"valid"}
    current = [s.name for s in snapshots if s.current]
    assert current == [s.name for s in snapshots][-1:]
    disks = {disk.target: disk for disk in await scene.disks()}
    for snapshot in snapshots:
        for entry in snapshot.disks:
            assert entry.frozen in disks[entry.target].chain[1:]
    recorded = (await scene.engine.catalog.domain(DOMAIN)).disks
    assert [d.source for d in recorded] == [d.source for d in disks.values()]


def assert_downtime(deletion: Deletion, is_held: bool) -> None:
    if is_held:
        assert deletion.downtime_ms is not None
        assert 0 < deletion.downtime_ms < DOWNTIME_MS
    else:
        assert deletion.downtime_ms is None


async def put_into(scene: Scene, power: str) -> None:
    """Bring the running domain to this power state, as an operator would."""
    if power == "paused":
        scene.machine.qmp("stop")
    elif power == "off":
        scene.machine.quit()


async def assert_still(scene: Scene, power: str, before: int) -> None:
    """The domain is in the same power state; then the guest writes on."""
    if power == "off":
        assert not scene.is_started()
        return
    assert scene.run_state() == power
    if power == "paused":
        assert scene.machine.acknowledged() == before
        scene.machine.qmp("cont")
    await scene.write()
    await assert_qemu_agrees(scene)


def parents_of(left: list[str]) -> dict[str, str | None]:
    return dict(zip(left, [None, *left], strict=False))


async def delete_in_turn(scene: Scene, power: str, order: str) -> None:
    """Delete some of s1, s2, s3 in this order, and look at everything each time."""
    count = len(scene.first_disks)
    left = ["s1", "s2", "s3"]
    for gone in order.split():
        is_newest = gone == left[-1]
        left.remove(gone)
        before = scene.machine.acknowledged()
        deletion = await scene.delete(gone)

        assert deletion.state == "completed"
        assert [disk.state for disk in deletion.disks] == ["retired"] * count
        assert {disk.is_active for disk in deletion.disks} == {is_newest}
        assert_downtime(deletion, power == "running" and is_newest)
        await assert_still(scene, power, before)
        await assert_catalog(scene, parents_of(left))
        depths = [len(disk.chain) for disk in await scene.disks()]
        assert depths == [len(left) + 1] * count
        await scene.verify_data()
        if power == "paused":
            scene.machine.qmp("stop")
    await scene.verify()


# One disk: every style


@pytest.mark.parametrize(
    ("style", "order"),
    sampled(
        1,
        [
            ("drive", "s1 s3"),
            ("blockdev", "s3 s1"),
            ("implicit", "s1 s3"),
            ("relative", "s3 s1"),
            ("blockdev", "s1 s3"),
        ],
    ),
)
def test_running_with_chain_opened_by_qemu(
    tmp_path: Path, style: Style, order: str
) -> None:
    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            await scene.restart(style)
            await scene.write()
            await delete_in_turn(scene, "running", order)

    play(story())


@pytest.mark.parametrize("style", sampled(1, STYLES))
def test_running_with_overlays_taken_live(tmp_path: Path, style: Style) -> None:
    async def story() -> None:
        async with Scene(tmp_path, style=style) as scene:
            await scene.take_three()
            await delete_in_turn(scene, "running", "s2 s3")

    play(story())


@pytest.mark.parametrize(
    ("style", "order"),
    sampled(
        1,
        [
            ("blockdev", "s1 s3"),
            ("implicit", "s2 s3"),
            ("drive", "s3 s1"),
            ("relative", "s3 s1"),
        ],
    ),
)
def test_paused_by_an_operator(tmp_path: Path, style: Style, order: str) -> None:
    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            await scene.restart(style)
            await scene.write()
            await put_into(scene, "paused")
            await delete_in_turn(scene, "paused", order)

    play(story())


@pytest.mark.parametrize("order", ["s3 s1", "s1 s3", "s2 s3"])
def test_off(tmp_path: Path, order: str) -> None:
    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            await put_into(scene, "off")
            await delete_in_turn(scene, "off", order)

    play(story())


@pytest.mark.parametrize("style", sampled(1, ["implicit", "relative"]))
def test_chain_partly_opened_by_qemu(tmp_path: Path, style: Style) -> None:
    async def story() -> None:
        async with Scene(tmp_path, style=style) as scene:
            await scene.take("s1")
            await scene.take("s2")
            await scene.restart()
            await scene.take("s3")
            await scene.write()
            # s2's frozen image was opened by QEMU, the overlay above it live.
            await delete_in_turn(scene, "running", "s2 s3")

    play(story())


# Three disks


@pytest.mark.parametrize(
    ("power", "style"),
    sampled(1, [("running", "blockdev"), ("off", None), ("paused", "relative")]),
)
def test_three_disks(tmp_path: Path, power: str, style: Style | None) -> None:
    async def story() -> None:
        async with Scene(tmp_path, disks=3, style=style or "drive") as scene:
            await scene.take("s1")
            await scene.take("s2")
            if style is not None:
                await scene.restart(style)
            await scene.take("s3")
            await scene.write()
            await put_into(scene, power)
            await delete_in_turn(scene, power, "s2 s3")

    play(story())


# What else a domain can be


@pytest.mark.parametrize(
    ("power", "order"), sampled(1, [("running", "s1 s2 s3"), ("off", "s3 s2 s1")])
)
def test_every_snapshot_after_another(tmp_path: Path, power: str, order: str) -> None:
    async def story() -> None:
        async with Scene(tmp_path, disks=2) as scene:
            await scene.take_three()
            await put_into(scene, power)
            for name in order.split():
                assert (await scene.delete(name)).state == "completed"
                await scene.write()
            disks = await scene.disks()
            assert [disk.chain for disk in disks] == [
                (disk.source,) for disk in scene.first_disks
            ]
            await assert_catalog(scene, {})
            await scene.verify()

    play(story())


def test_guest_that_was_never_started_stays_so(tmp_path: Path) -> None:
    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            scene.machine.paused = True
            await scene.restart()
            assert scene.run_state() == "prelaunch"
            deletion = await scene.delete("s3")
            assert deletion.downtime_ms is None
            assert scene.run_state() == "prelaunch"
            scene.machine.qmp("cont")
            await scene.write()
            await assert_qemu_agrees(scene)
            await scene.verify()

    play(story())


@pytest.mark.parametrize("power", sampled(2, ["running", "paused", "off"]))
def test_active_and_intermediate_folds_in_one_deletion(
    tmp_path: Path, power: str
) -> None:
    async def story() -> None:
        async with Scene(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.take("s2", exclude=["vdb"])
            await scene.write()
            await put_into(scene, power)
            before = scene.machine.acknowledged()
            deletion = await scene.delete("s1")

            assert {d.target: d.is_active for d in deletion.disks} == {
                "vda": False,
                "vdb": True,
            }
            assert_downtime(deletion, power == "running")
            await assert_still(scene, power, before)
            await assert_catalog(scene, {"s2": None})
            chains = [len(disk.chain) for disk in await scene.disks()]
            assert chains == [2, 1]
            await scene.verify()

    play(story())


@pytest.mark.parametrize("power", ["running", "off"])
def test_disk_that_the_snapshot_leaves_out(tmp_path: Path, power: str) -> None:
    async def story() -> None:
        async with Scene(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.take("s2", exclude=["vda"])
            await scene.write()
            await put_into(scene, power)
            vda = (await scene.disks())[0]
            deletion = await scene.delete("s2")

            assert [disk.target for disk in deletion.disks] == ["vdb"]
            assert (await scene.disks())[0] == vda
            await scene.write()
            await assert_catalog(scene, {"s1": None})
            await scene.verify()

    play(story())


def test_disk_attached_later(tmp_path: Path) -> None:
    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.quit()
            await scene.attach_disk("vdb")
            await scene.boot()
            await scene.take("s2")
            await scene.write()
            deletion = await scene.delete("s2")

            assert [disk.target for disk in deletion.disks] == ["vda", "vdb"]
            await scene.write()
            await assert_qemu_agrees(scene)
            await assert_catalog(scene, {"s1": None})
            await scene.verify()

    play(story())


@pytest.mark.parametrize(("power", "gone"), [("running", "s1"), ("off", "s2")])
def test_raw_base(tmp_path: Path, power: str, gone: str) -> None:
    async def story() -> None:
        async with Scene(tmp_path, base_format="raw") as scene:
            await scene.take("s1")
            if gone == "s1":
                await scene.take("s2")
            await scene.restart("blockdev")
            if gone == "s2":
                await scene.take("s2")
            await scene.write()
            await put_into(scene, power)
            for name in (gone, "s2" if gone == "s1" else "s1"):
                assert (await scene.delete(name)).state == "completed"
            disk = (await scene.disks())[0]
            assert (disk.source, disk.format) == (scene.first_disks[0].source, "raw")
            await scene.write()
            await assert_catalog(scene, {})
            await scene.verify()

    play(story())


@pytest.mark.parametrize(
    ("power", "gone"), sampled(2, [("off", "s1"), ("running", "s2"), ("running", "s1")])
)
def test_overlay_in_another_folder(tmp_path: Path, power: str, gone: str) -> None:
    async def story() -> None:
        async with Scene(tmp_path, relative=True) as scene:
            folders = [scene.images_folder / name for name in ("one", "and, two")]
            for number, folder in enumerate(folders, start=1):
                folder.mkdir()
                overlay = str(folder / "overlay.qcow2")
                await scene.take(f"s{number}", overlays={"vda": overlay})
            await scene.write()
            scene.machine.quit()
            if power == "running":
                await scene.boot("drive")
            assert (await scene.delete(gone)).state == "completed"
            (disk,) = await scene.disks()
            first = scene.first_disks[0].source
            if gone == "s1":
                assert disk.chain[:2] == (str(folders[1] / "overlay.qcow2"), first)
                assert link_of(disk.source) == "../vda-first.qcow2"
            else:
                assert disk.chain[:2] == (str(folders[0] / "overlay.qcow2"), first)
            await scene.write()
            await scene.verify()

    play(story())


@pytest.mark.parametrize(
    ("how", "gone"),
    sampled(
        1,
        [
            ("relative", "s2"),
            ("off", "s3"),
            ("live", "s2"),
            ("drive", "s1"),
            ("blockdev", "s1"),
            ("off", "s1"),
        ],
    ),
)
def test_relative_links_stay_relative(tmp_path: Path, how: str, gone: str) -> None:
    async def story() -> None:
        async with Scene(tmp_path, relative=True) as scene:
            await scene.take_three()
            if how == "off":
                scene.machine.quit()
            elif how != "live":
                style = next(style for style in STYLES if style == how)
                await scene.restart(style)
            assert (await scene.delete(gone)).state == "completed"
            (disk,) = await scene.disks()
            links = [link_of(path) for path in disk.chain]
            below = [os.path.basename(path) for path in disk.chain[1:]]
            assert links == [*below, None]
            await scene.write()
            await scene.verify()

    play(story())


def test_absolute_links_stay_absolute(tmp_path: Path) -> None:
    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()
            await scene.restart("relative")
            assert (await scene.delete("s2")).state == "completed"
            (disk,) = await scene.disks()
            assert [link_of(path) for path in disk.chain] == [*disk.chain[1:], None]
            await scene.verify()

    play(story())


def test_larger_overlay_on_another_file_system(tmp_path: Path) -> None:
    """The base grows with the fold, and nothing is moved between file systems."""

    async def story(other: str) -> None:
        async with Scene(tmp_path, power="off") as scene:
            overlay = os.path.join(other, "vda.s1")
            assert os.stat(other).st_dev != os.stat(scene.images_folder).st_dev
            await scene.take("s1", overlays={"vda": overlay})
            qemu_img("resize", "-q", "-f", "qcow2", overlay, "+1M")
            await asyncio.to_thread(qemu_io, overlay, f"write -P 7 {SIZE} 1M")
            assert (await scene.delete("s1")).state == "completed"
            assert os.listdir(other) == []
            (disk,) = await scene.disks()
            assert disk.chain == (scene.first_disks[0].source,)
            await asyncio.to_thread(qemu_io, disk.source, f"read -P 7 {SIZE} 1M")

    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        play(story(other))


def qemu_io(path: str, order: str) -> None:
    """Write a pattern, or find it again."""
    command = ["qemu-io", "-f", "qcow2", "-c", order, path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "failed" not in done.stdout, done.stdout
