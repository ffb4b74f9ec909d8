"""qcow2 images whose data lies in another file: it counts wherever data counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.journal.errors import Refused
from backfold.journal.model import Disk
from real.scene import DOMAIN, SIZE, At, NoGuard, Scene, play

#: Microseconds between two writes of the guest.
CALM = 2000


class Dead(BaseException):
    """Raised in a probe: the engine does nothing more, as if it were dead."""


class DataScene(Scene):
    """A domain whose first images have data files: raw ones, and such of qcow2."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.data: list[Path] = []
        super().__init__(folder, guard=NoGuard(), pause=CALM, **options)

    def _new_disk(self, target: str, format: str, relative: bool) -> Disk:
        path = self.images_folder / f"{target}.qcow2"
        data = self.images_folder / f"{target}.data"
        raw = "on" if target == "vda" else "off"
        option = f"data_file={data},data_file_raw={raw}"
        qemu_img("create", "-q", "-f", "qcow2", "-o", option, path, str(SIZE))
        self.data.append(data)
        return Disk(target, str(path), "qcow2")


def test_bases_with_data_files(tmp_path: Path) -> None:
    """Intermediate folds while the guest runs, active ones while it is off."""

    async def story() -> None:
        async with DataScene(tmp_path, disks=2) as scene:
            for name in ("s1", "s2"):
                await scene.take(name)
            await scene.write()
            assert (await scene.delete("s1")).state == "completed"
            await scene.write()
            await scene.verify_data()
            scene.machine.quit()
            assert (await scene.delete("s2")).state == "completed"
            chains = [disk.chain for disk in await scene.disks()]
            assert chains == [(disk.source,) for disk in scene.first_disks]
            await scene.verify(strays=scene.data)

    play(story())


def test_only_the_data_file_went_on(tmp_path: Path) -> None:
    """A guest that writes where clusters are mapped changes nothing but that file.

    The overlay has its name back, as if it were the truth; the data file tells that
    the base went on. Both write so much that some of it is in the same clusters.
    """

    async def story() -> None:
        async with DataScene(tmp_path) as scene:
            await scene.take("s1")
            await scene.write(100)

            def die() -> None:
                scene.machine.kill()
                raise Dead

            await scene.with_probe(At("vote.decide.noted", die))
            with pytest.raises(Dead):
                await scene.delete("s1")
            await scene.with_probe(At("nowhere", lambda: None))
            base = Path(scene.first_disks[0].source)
            before = base.stat().st_mtime_ns
            await scene.boot()
            await scene.write(100)
            scene.machine.quit()
            assert base.stat().st_mtime_ns == before
            (fence,) = [p for p in scene.images() if ".backfold-" in p.name]
            fence.rename(str(fence).partition(".backfold-")[0])

            (end,) = await scene.engine.recover()
            assert not isinstance(end, Exception) and end.state == "completed"
            await scene.verify(strays=scene.data)

    play(story())


def test_overlay_with_a_data_file(tmp_path: Path) -> None:
    """It was not made by a snapshot, so its data file stays where it is."""

    async def story() -> None:
        async with Scene(tmp_path, pause=CALM) as scene:
            await scene.write()
            scene.machine.quit()
            await scene.take("s1")
            (disk,) = await scene.disks()
            overlay, data = Path(disk.source), scene.images_folder / "overlay.data"
            overlay.unlink()
            link = ["-b", disk.chain[1], "-F", "qcow2", "-o", f"data_file={data}"]
            qemu_img("create", "-q", "-f", "qcow2", *link, overlay)
            await scene.boot()
            await scene.write()
            assert (await scene.delete("s1")).state == "completed"
            await scene.write()
            await scene.verify(strays=[data])

    play(story())


def test_data_files_that_are_not_trusted(tmp_path: Path) -> None:
    """Refused with what helps, and the file that they name is never opened."""

    async def story() -> None:
        async with DataScene(tmp_path, power="off") as scene:
            await scene.take("s1")
            image, data = Path(scene.first_disks[0].source), scene.data[0]
            other = scene.images_folder / "other.qcow2"
            option = f"data_file={data},data_file_raw=on"
            qemu_img("create", "-q", "-f", "qcow2", "-o", option, other, str(SIZE))
            before = scene.fingerprints()
            with pytest.raises(Refused) as caught:
                await scene.engine.delete(DOMAIN, "s1")
            assert [r.code for r in caught.value.reasons] == ["foreign_user_of_base"]
            other.unlink()

            away = scene.folder / "away.data"
            data.rename(away)
            data.symlink_to(away)
            with pytest.raises(Refused) as caught:
                await scene.engine.delete(DOMAIN, "s1")
            (reason,) = caught.value.reasons
            assert reason.code == "unsupported_image" and str(image) in reason.message
            assert "data_file=PATH" in reason.remedy
            data.unlink()
            away.rename(data)
            before.pop(str(other))
            assert scene.fingerprints() == before
            assert (await scene.engine.delete(DOMAIN, "s1")).state == "completed"

    play(story())
