"""Disks that a domain gets and loses between its snapshots."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable
from pathlib import Path

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.engine.images import QemuImages
from backfold.journal.errors import Busy, Refused, UsageError
from backfold.journal.locks import Locks
from backfold.journal.model import Disk
from real.scene import DOMAIN, At, Scene, play


class Died(BaseException):
    """The engine ends here."""


def die() -> None:
    """Be the probe that ends the engine."""
    raise Died


def io(image: str, *commands: str) -> None:
    """Write or verify patterns; fails when they differ."""
    asked = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", "-f", "qcow2", *asked, image], capture_output=True, text=True
    )
    assert done.returncode == 0 and "failed" not in done.stdout, (image, done)


async def sources(scene: Scene) -> dict[str, str]:
    """What to boot each disk from."""
    return {disk.target: disk.source for disk in await scene.disks()}


def test_a_disk_that_was_attached_between_two_snapshots(tmp_path: Path) -> None:
    """It is in the second one only, and both can be deleted."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            await scene.take("s1")
            vdb = await scene.attach_disk("vdb")
            for number, source in enumerate((await sources(scene)).values(), 1):
                io(source, f"write -P {number} 64k 64k")
            second = await scene.take("s2")
            for number, source in enumerate((await sources(scene)).values(), 3):
                io(source, f"write -P {number} 256k 64k")
            before = (await scene.disks())[1]

            first = await scene.engine.catalog.snapshot(DOMAIN, "s1")
            assert [disk.target for disk in first.disks] == ["vda"]
            assert [disk.target for disk in second.disks] == ["vda", "vdb"]
            await scene.delete("s1")
            assert (await scene.disks())[1] == before
            assert len((await scene.disks())[0].chain) == 2
            await scene.delete("s2")

            assert (await sources(scene))["vdb"] == vdb.source
            for number, disk in enumerate(await scene.disks()):
                assert disk.chain == (disk.source,)
                first_pattern = f"read -P {1 + number} 64k 64k"
                io(disk.source, first_pattern, f"read -P {3 + number} 256k 64k")
            there = {str(path) for path in scene.images()}
            assert there == set((await sources(scene)).values())

    play(story())


def test_a_disk_that_was_detached(tmp_path: Path) -> None:
    """Snapshots keep what they have of it; the images are as they were."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, power="off") as scene:
            await scene.take("s1")
            disks, prints = await sources(scene), scene.fingerprints()
            snapshot = await scene.engine.catalog.snapshot(DOMAIN, "s1")
            await scene.engine.detach_disk(DOMAIN, "vdb")

            assert await sources(scene) == {"vda": disks["vda"]}
            assert await scene.engine.catalog.snapshot(DOMAIN, "s1") == snapshot
            assert not await scene.engine.catalog.is_ours(disks["vdb"])
            second = await scene.take("s2")
            assert [disk.target for disk in second.disks] == ["vda"]
            await scene.delete("s2")
            assert scene.fingerprints().keys() == prints.keys()

            await scene.engine.attach_disk(DOMAIN, Disk("vdb", disks["vdb"], "qcow2"))
            assert await sources(scene) == disks
            await scene.delete("s1")
            await scene.verify_data()
            assert (await sources(scene))["vdb"] == scene.first_disks[1].source

    play(story())


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """The catalog is as it was."""

    async def refused(work: Awaitable[object], words: str) -> None:
        with pytest.raises(UsageError, match=words):
            await work

    async def story() -> None:
        async with Scene(tmp_path, disks=2, power="off") as scene:
            engine = scene.engine
            await scene.take("s1")
            before = scene.catalog()
            active = (await sources(scene))["vda"]
            other = scene.images_folder / "other.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", other, "1M")
            link = scene.folder / "link.qcow2"
            link.symlink_to(active)
            for path in (active, link):
                new = Disk("vdc", str(path), "qcow2")
                await refused(engine.attach_disk(DOMAIN, new), "disk vda of domain web")
            frozen = Disk("vdc", scene.first_disks[0].source, "qcow2")
            await refused(engine.attach_disk(DOMAIN, frozen), "belongs to snapshot s1")
            taken = Disk("vdb", str(other), "qcow2")
            await refused(engine.attach_disk(DOMAIN, taken), "has a disk vdb already")
            await refused(engine.detach_disk(DOMAIN, "vdc"), "has no disk vdc")
            with pytest.raises(Refused) as caught:
                missing = Disk("vdc", str(scene.folder / "none"), "qcow2")
                await engine.attach_disk(DOMAIN, missing)
            assert [reason.code for reason in caught.value.reasons] == ["missing_image"]
            with Locks(scene.locks) as locks:
                file = QemuImages().identify(active)
                assert file is not None
                locks.acquire([file])
                with pytest.raises(Busy):
                    await engine.detach_disk(DOMAIN, "vda")
            assert scene.catalog() == before

            await engine.detach_disk(DOMAIN, "vda")
            await refused(engine.detach_disk(DOMAIN, "vdb"), "the only disk")

            point = "planned.make_overlays.announced"
            await scene.with_probe(At(point, die, machine="creation"))
            with pytest.raises(Died):
                await scene.take("s2")
            await scene.with_probe(At("", die))
            before = scene.catalog()
            for work in (
                scene.engine.detach_disk(DOMAIN, "vdb"),
                scene.engine.attach_disk(DOMAIN, Disk("vdc", str(other), "qcow2")),
            ):
                with pytest.raises(Refused) as caught:
                    await work
                codes = [reason.code for reason in caught.value.reasons]
                assert codes == ["creation_open"]
            assert scene.catalog() == before

    play(story())
