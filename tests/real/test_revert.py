"""Going back to snapshots of a domain that is off, and what is in the way of it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.engine.qemu_img import QemuImg
from backfold.journal.errors import Refused
from backfold.journal.model import FileId
from crash.test_reversion import io, nothing_is_left_over
from real.scene import DOMAIN, NoGuard, Scene, play
from real.test_reasons import everything, sql


def off(folder: Path, disks: int = 1, **options: Any) -> Scene:
    """A domain that is off."""
    return Scene(folder, disks=disks, power="off", guard=NoGuard(), **options)


async def write(scene: Scene, pattern: int) -> None:
    """A pattern of its own place and value into every disk."""
    for disk in await scene.disks():
        io(disk.source, f"write -P {pattern} {pattern}M 64k")


async def shows(scene: Scene, *patterns: int) -> None:
    """Every disk has these patterns and no other."""
    for disk in await scene.disks():
        holds(disk.source, *patterns)


def holds(image: str, *patterns: int) -> None:
    """An image, with all below it, has these patterns and no other."""
    values = {pattern: pattern if pattern in patterns else 0 for pattern in range(1, 6)}
    io(image, *(f"read -P {value} {at}M 64k" for at, value in values.items()))


async def frozen(scene: Scene, snapshot: str) -> dict[str, str]:
    """The frozen images of a snapshot by disk."""
    found = await scene.engine.catalog.snapshot(DOMAIN, snapshot)
    return {disk.target: disk.frozen for disk in found.disks}


async def refused(scene: Scene, *codes: str, **options: Any) -> Refused:
    """Refused for exactly these reasons, and nothing changes."""
    before = everything(scene)
    with pytest.raises(Refused) as caught:
        await scene.engine.revert(DOMAIN, "s1", **options)
    assert everything(scene) == before
    assert {reason.code for reason in caught.value.reasons} == set(codes)
    assert all(reason.remedy for reason in caught.value.reasons)
    return caught.value


def test_a_tree_of_snapshots(tmp_path: Path) -> None:
    """s1 with the branches s2 and s3; each reads back exactly, whatever is current."""

    async def story() -> None:
        async with off(tmp_path, disks=2) as scene:
            engine = scene.engine
            await write(scene, 1)
            await engine.create_snapshot(DOMAIN, "s1")
            await write(scene, 2)
            await engine.create_snapshot(DOMAIN, "s2")
            await write(scene, 3)
            lost = [disk.source for disk in await scene.disks()]
            refusal = await refused(scene, "would_discard")
            assert [r.disk for r in refusal.reasons] == ["vda", "vdb"]
            assert "65536 bytes" in refusal.what and "since the snapshot s2" in (
                refusal.what
            )
            done = await engine.revert(DOMAIN, "s1", discard=True)
            assert [(d.held, d.since, d.stays) for d in done.disks] == (
                [(65536, "s2", None)] * 2
            )
            assert not [path for path in lost if Path(path).exists()]
            await shows(scene, 1)
            await write(scene, 4)
            below = [disk.source for disk in await scene.disks()]
            taken = await engine.create_snapshot(DOMAIN, "s3")
            assert taken.parent == "s1"
            assert [disk.frozen for disk in taken.disks] == below
            # Nothing was written since s3: going to s2 needs no --discard.
            await engine.revert(DOMAIN, "s2")
            await shows(scene, 1, 2)
            await write(scene, 5)
            assert (await engine.create_snapshot(DOMAIN, "s4")).parent == "s2"
            tree = {s.name: s.parent for s in await engine.catalog.snapshots(DOMAIN)}
            assert tree == {"s1": None, "s2": "s1", "s3": "s1", "s4": "s2"}
            for name, patterns in (
                ("s1", (1,)),
                ("s2", (1, 2)),
                ("s3", (1, 4)),
                ("s4", (1, 2, 5)),
            ):
                for image in (await frozen(scene, name)).values():
                    holds(image, *patterns)
            await engine.revert(DOMAIN, "s3")
            await shows(scene, 1, 4)
            await nothing_is_left_over(scene)
            # The shared base stays without a name, whatever is gone back to then.
            assert (await engine.delete(DOMAIN, "s1")).state == "completed"
            await engine.revert(DOMAIN, "s4")
            await shows(scene, 1, 2, 5)
            for image in (await frozen(scene, "s3")).values():
                holds(image, 1, 4)

    play(story())


def test_a_guest_goes_on_from_where_it_was(tmp_path: Path) -> None:
    """It boots from the new overlay, with all that it had written by the snapshot."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2) as scene:
            await scene.take("s1")
            await scene.write()
            on = await refused_while_on(scene)
            assert [r.code for r in on.reasons] == ["domain_running"]
            scene.machine.quit()
            await scene.engine.revert(DOMAIN, "s1", discard=True)
            low, high = scene.brackets["s1"]
            raw = tmp_path / "raw"
            for number, disk in enumerate(await scene.disks()):
                qemu_img("convert", "-O", "raw", "-f", "qcow2", disk.source, raw)
                verdict = scene.ledger.verify(raw, number, low=low, high=high)
                assert verdict.ok
            await nothing_is_left_over(scene)

    async def refused_while_on(scene: Scene) -> Refused:
        scene.machine.qmp("stop")
        return await refused(scene, "domain_running", discard=True)

    play(story())


def test_overlays_are_made_as_a_creation_makes_them(tmp_path: Path) -> None:
    """Owner, mode and relative links; the path that was asked for."""

    async def story() -> None:
        async with off(tmp_path, disks=2, relative=True) as scene:
            await scene.engine.create_snapshot(DOMAIN, "s1")
            (scene.images_folder / "other").mkdir()
            place = scene.images_folder / "other" / "new"
            for image in (await frozen(scene, "s1")).values():
                os.chmod(image, 0o640)
            await scene.engine.revert(DOMAIN, "s1", overlays={"vda": str(place)})
            vda, vdb = await scene.disks()
            assert vda.source == str(place)
            assert vda.chain[1:] == ((await frozen(scene, "s1"))["vda"], vda.chain[2])
            links = [
                (await QemuImg().header(d.source, "qcow2")).backing for d in (vda, vdb)
            ]
            assert links == ["../vda-first.qcow2", "vdb-first.qcow2"]
            assert os.stat(place).st_mode & 0o777 == 0o640

    play(story())


def test_disks_that_the_snapshot_lacks_or_the_domain(tmp_path: Path) -> None:
    """The one stays as it is, the other is left out, and both are said."""

    async def story() -> None:
        async with off(tmp_path, disks=3) as scene:
            await write(scene, 1)
            await scene.engine.create_snapshot(DOMAIN, "s1", exclude=["vdb"])
            await write(scene, 2)
            sql(scene, "delete from disks where target = 'vdc'")
            before = {disk.target: disk.source for disk in await scene.disks()}
            done = await scene.engine.revert(DOMAIN, "s1", discard=True)
            assert [disk.target for disk in done.disks] == ["vda"]
            assert (done.untouched, done.missing) == (("vdb",), ("vdc",))
            after = {disk.target: disk.source for disk in await scene.disks()}
            assert after["vdb"] == before["vdb"]
            holds(after["vda"], 1)
            holds(after["vdb"], 1, 2)
            holds((await frozen(scene, "s1"))["vdc"], 1)
            sql(scene, "delete from disks where target = 'vda'")
            await refused(scene, "nothing_to_revert")

    play(story())


def test_a_disk_that_stays_on_another_branch_is_in_order(tmp_path: Path) -> None:
    """`check` must not call its link wrong: mending that would lose the disk."""

    async def story() -> None:
        async with off(tmp_path, disks=2) as scene:
            engine = scene.engine
            for name in ("s1", "s2", "s3"):
                exclude = ["vdb"] if name == "s3" else []
                await engine.create_snapshot(DOMAIN, name, exclude=exclude)
            await engine.revert(DOMAIN, "s1")
            await write(scene, 1)
            await engine.create_snapshot(DOMAIN, "s4")
            await engine.revert(DOMAIN, "s3")
            vda, vdb = await scene.disks()
            holds(vda.source)
            holds(vdb.source, 1)
            assert (await engine.create_snapshot(DOMAIN, "s5")).parent == "s3"
            assert [f.code for f in (await engine.check(DOMAIN)).findings] == []

    play(story())


@pytest.mark.parametrize("why", ["not ours", "a clone", "another snapshot"])
def test_a_former_image_that_stays(tmp_path: Path, why: str) -> None:
    """Not made by a snapshot, or needed by something else: never unlinked."""

    async def story() -> None:
        async with off(tmp_path) as scene:
            await write(scene, 1)
            await scene.engine.create_snapshot(DOMAIN, "s1")
            await write(scene, 2)
            [former] = [disk.source for disk in await scene.disks()]
            folders: list[str] = []
            if why == "not ours":
                sql(scene, "update images set made_by = null")
                told = "no snapshot made it"
            elif why == "a clone":
                clone = tmp_path / "elsewhere" / "clone"
                clone.parent.mkdir()
                folders = [str(clone.parent)]
                qemu_img(
                    "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", former, clone
                )
                told = f"{clone} is based on it"
            else:
                sql(
                    scene,
                    "insert into snapshots (domain, name, parent, created, status,"
                    " current) values ('web', 'other', 's1', 'now', 'valid', 0)",
                )
                sql(
                    scene,
                    "insert into snapshot_disks values ('web', 'other', 'vda', ?)",
                    former,
                )
                told = "snapshot other of domain web needs it"
            await refused(scene, "would_discard", image_folders=folders)
            done = await scene.engine.revert(
                DOMAIN, "s1", discard=True, image_folders=folders
            )
            assert [disk.stays for disk in done.disks] == [told]
            holds(former, 1, 2)
            await shows(scene, 1)

    play(story())


def test_what_is_in_the_way(tmp_path: Path) -> None:
    """Each of them is refused with its reason, and nothing changes."""

    async def story() -> None:
        async with off(tmp_path, disks=2, monitored=False) as scene:
            await scene.engine.create_snapshot(DOMAIN, "s1")
            images = await frozen(scene, "s1")
            vda, vdb = (Path(images[target]) for target in ("vda", "vdb"))
            taken = scene.images_folder / "taken"
            taken.write_text("somebody else's")
            await refused(scene, "overlay_exists", overlays={"vda": str(taken)})
            both = str(scene.images_folder / "both")
            await refused(scene, "overlay_exists", overlays={"vda": both, "vdb": both})
            for status, reason in (("invalid", "'written into'"), ("deleting", "null")):
                sql(scene, f"update snapshots set status = '{status}', reason={reason}")
                await refused(scene, "invalid_snapshot")
            sql(scene, "update snapshots set status = 'valid', reason = null")
            vda.rename(tmp_path / "away")
            await refused(scene, "missing_image")
            (tmp_path / "away").rename(vda)
            content = vdb.read_bytes()
            vdb.write_bytes(b"damaged" + content[7:])
            await refused(scene, "corrupt_image")
            vdb.write_bytes(content)
            [active, _] = [disk.source for disk in await scene.disks()]
            Path(active).rename(tmp_path / "away")
            await refused(scene, "missing_image")
            os.link(tmp_path / "away", active)
            await refused(scene, "fence_impossible")
            (tmp_path / "away").unlink()
            await refused_in_use(scene, active)
            await refused_in_use(scene, str(vdb))
            await scene.engine.revert(DOMAIN, "s1")

    async def refused_in_use(scene: Scene, image: str) -> None:
        opened = os.open(image, os.O_RDONLY)
        user = await asyncio.create_subprocess_exec("sleep", "300", stdin=opened)
        os.close(opened)
        try:
            assert (await refused(scene, "image_in_use")).exit_status == 4
        finally:
            user.kill()
            await user.wait()

    play(story())


def test_images_of_libvirt(tmp_path: Path) -> None:
    """Refused, unless the operator insists."""

    async def story() -> None:
        async with off(tmp_path) as scene:
            await scene.engine.create_snapshot(DOMAIN, "s1")
            file = os.stat((await frozen(scene, "s1"))["vda"])
            await scene.engine.__aexit__(None, None, None)
            named = {FileId(file.st_dev, file.st_ino): "domain web"}
            scene.engine = scene.new_engine(managed=lambda: named)
            await scene.engine.__aenter__()
            await refused(scene, "managed_by_libvirt")
            await scene.engine.revert(DOMAIN, "s1", ignore_libvirt=True)

    play(story())
