"""Block devices as images: snapshots of a disk that lies on one are deleted into it.

A device tells nothing by its times, cannot be renamed and never grows.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.journal.errors import Interrupted, Refused, UsageError
from backfold.journal.model import Disk
from real.loops import loop_devices
from real.scene import DOMAIN, SIZE, At, NoGuard, Scene, play

#: Microseconds between two writes of the guest.
CALM = 2000
#: Room for the tables of a qcow2 image that is full.
ROOMY = SIZE + (8 << 20)


class Dead(BaseException):
    """Raised in a probe: the engine does nothing more, as if it were dead."""


class DeviceScene(Scene):
    """A domain whose disks begin on block devices; their overlays are files."""

    def __init__(
        self, folder: Path, devices: tuple[str, ...], formats: str, **options: Any
    ) -> None:
        """``formats`` names the format of each device: ``raw qcow2``."""
        self.devices = devices
        self.formats = formats.split()
        super().__init__(
            folder, disks=len(devices), guard=NoGuard(), pause=CALM, **options
        )

    def _new_disk(self, target: str, format: str, relative: bool) -> Disk:
        number = "abcdefgh".index(target[-1])
        device, format = self.devices[number], self.formats[number]
        if format == "qcow2":
            qemu_img("create", "-q", "-f", "qcow2", device, str(SIZE))
        return Disk(target, device, format)

    def images(self) -> list[Path]:
        """All images, the devices included."""
        return sorted([*super().images(), *map(Path, self.devices)])

    async def take(self, name: str, **options: Any) -> Any:
        """A snapshot, with overlays in the images' folder."""
        overlays = {
            f"vd{letter}": str(self.images_folder / f"vd{letter}.{name}")
            for letter in "abcdefgh"[: len(self.devices)]
        }
        return await super().take(name, overlays=overlays, **options)


def fill(image: Path) -> None:
    """Write 4 MiB, as a guest would."""
    write = ["qemu-io", "-f", "qcow2", "-c", "write -P 9 0 4M", str(image)]
    subprocess.run(write, check=True, capture_output=True)


def move(image: Path, device: Path) -> None:
    """Put an image on a device instead."""
    with device.open("r+b") as file:
        file.write(image.read_bytes())
    image.unlink()


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[tuple[str, ...]]:
    with loop_devices(tmp_path, ROOMY, SIZE) as made:
        yield made


def test_disks_on_devices(tmp_path: Path, devices: tuple[str, ...]) -> None:
    """Intermediate folds into devices while the guest runs, active ones while off."""

    async def story() -> None:
        async with DeviceScene(tmp_path, devices, "qcow2 raw") as scene:
            with pytest.raises(UsageError) as caught:
                await scene.engine.create_snapshot(DOMAIN, "s0")
            assert "--overlay vda=PATH" in caught.value.remedy
            for name in ("s1", "s2"):
                await scene.take(name)
            await scene.write()
            assert (await scene.delete("s1")).state == "completed"
            await scene.write()
            await scene.verify_data()
            scene.machine.quit()
            assert (await scene.delete("s2")).state == "completed"
            assert [disk.chain for disk in await scene.disks()] == [
                (device,) for device in devices
            ]
            await scene.verify()

    play(story())


def test_everything_dies_after_the_decision(
    tmp_path: Path, devices: tuple[str, ...]
) -> None:
    """The fenced, unchanged overlays prove that the devices are the truth.

    An overlay that has its name back could have gone on, and the device as well: then
    nothing is touched, until somebody puts the fence back.
    """

    async def story() -> None:
        async with DeviceScene(tmp_path, devices, "qcow2 raw") as scene:
            await scene.take("s1")
            await scene.write()

            def die() -> None:
                scene.machine.kill()
                raise Dead

            await scene.with_probe(At("vote.decide.noted", die))
            with pytest.raises(Dead):
                await scene.delete("s1")
            await scene.with_probe(At("nowhere", lambda: None))
            assert [disk.source for disk in await scene.disks()] == list(devices)

            fences = sorted(p for p in scene.images() if ".backfold-" in p.name)
            assert len(fences) == 2
            overlay = fences[1].with_name(fences[1].name.partition(".backfold-")[0])
            fences[1].rename(overlay)
            before = scene.fingerprints()
            (end,) = await scene.engine.recover()
            assert isinstance(end, Interrupted)
            assert "does not tell" in end.what and overlay.name in end.what
            assert (await scene.disks())[1].broken is not None
            assert scene.fingerprints() == before

            overlay.rename(fences[1])
            # The guest goes on on the devices before anybody recovers.
            await scene.boot()
            await scene.write()
            scene.machine.quit()
            (end,) = await scene.engine.recover()
            assert not isinstance(end, Exception) and end.state == "completed"
            await scene.verify()

    play(story())


def test_roll_back_leaves_a_doubt(tmp_path: Path, devices: tuple[str, ...]) -> None:
    """Once a job was started, nothing proves that a device was left alone."""

    async def story() -> None:
        async with DeviceScene(tmp_path, devices[:1], "qcow2") as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.quit()

            def die() -> None:
                raise Dead

            await scene.with_probe(At("commit_per_disk.start_job.announced", die))
            with pytest.raises(Dead):
                await scene.delete("s1")
            await scene.with_probe(At("nowhere", lambda: None))
            ((run, _),) = scene.open_runs()
            assert (await scene.engine.roll_back(run)).state == "rolled_back"
            snapshot = await scene.engine.catalog.snapshot(DOMAIN, "s1")
            assert snapshot.status == "invalid"
            assert snapshot.reason is not None and "device" in snapshot.reason
            assert (await scene.delete("s1")).state == "completed"
            await scene.verify()

    play(story())


def test_devices_do_not_grow(tmp_path: Path) -> None:
    """What does not fit on a device is refused before anything is written."""

    async def story(small: str, exact: str) -> None:
        async with DeviceScene(
            tmp_path, (small, exact), "qcow2 raw", power="off"
        ) as scene:
            await scene.take("s1")
            before = scene.fingerprints()
            overlay = scene.images_folder / "vda.s1"
            grown = scene.images_folder / "vdb.s1"
            fill(overlay)
            qemu_img("resize", "-q", "-f", "qcow2", grown, "+64K")
            for path in (overlay, grown):
                before[str(path)] = scene.fingerprints()[str(path)]
            with pytest.raises(Refused) as caught:
                await scene.engine.delete(DOMAIN, "s1")
            reasons = [(reason.code, reason.disk) for reason in caught.value.reasons]
            assert reasons == [("no_space", "vda"), ("no_space", "vdb")]
            assert scene.fingerprints() == before

    with loop_devices(tmp_path, 2 << 20, SIZE) as (small, exact):
        play(story(small, exact))


def test_overlay_on_a_device(tmp_path: Path, devices: tuple[str, ...]) -> None:
    """As an active image it cannot be fenced; below another overlay it just stays."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard(), pause=CALM) as scene:
            await scene.take("s1")
            await scene.write()
            scene.machine.quit()
            overlay = (await scene.disks())[0].source
            move(Path(overlay), Path(devices[0]))
            with closing(sqlite3.connect(scene.journal)) as db, db:
                db.execute("pragma foreign_keys = on")
                db.execute(
                    "insert into images (path, format) values (?, 'qcow2')", devices[:1]
                )
                db.execute("update disks set source = ?", devices[:1])
                db.execute("delete from images where path = ?", (overlay,))
            with pytest.raises(Refused) as caught:
                await scene.engine.delete(DOMAIN, "s1")
            assert [r.code for r in caught.value.reasons] == ["fence_impossible"]

            await scene.boot()
            place = {"vda": str(scene.images_folder / "vda.s2")}
            await scene.take("s2", overlays=place)
            await scene.write()
            names = sorted(os.listdir("/dev"))
            assert (await scene.delete("s1")).state == "completed"
            await scene.write()
            assert sorted(os.listdir("/dev")) == names
            with closing(sqlite3.connect(scene.journal)) as db, db:
                # Recorded as before, since it is still there.
                gone = db.execute("delete from images where path = ?", devices[:1])
                assert gone.rowcount == 1
            await scene.verify()

    play(story())
