"""Images that somebody else has put on an image of ours, and told nobody of.

The peer corrupts them silently. Here they stop the deletion with their name, in
whatever way they name our image, and their content is what it was.
"""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from backfold import Engine
from backfold.engine.demo.guest import export_raw, qemu_img
from backfold.engine.images import QemuImages
from backfold.journal.errors import Refused
from backfold.journal.model import Disk, FileId
from real.scene import DOMAIN, Scene, play


def by_name(base: Path, other: Path) -> Path:
    return base


def by_symlink(base: Path, other: Path) -> Path:
    link = other / "link.qcow2"
    link.symlink_to(base)
    return link


def by_hard_link(base: Path, other: Path) -> Path:
    link = other / "hard.qcow2"
    os.link(base, link)
    return link


def by_bind_mount(base: Path, other: Path) -> Path:
    place = other / "mounted"
    place.mkdir()
    subprocess.run(["mount", "--bind", str(base.parent), str(place)], check=True)
    return place / base.name


def clone(path: Path, base: Path) -> bytes:
    """A linked clone; returns what it shows."""
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", path)
    return shown(path)


def shown(path: Path) -> bytes:
    raw = path.with_suffix(".raw")
    export_raw(path, "qcow2", raw)
    content = raw.read_bytes()
    raw.unlink()
    return content


async def refused(scene: Scene, path: Path, **options: Any) -> None:
    """Both ways are refused for this image, by planning as by deleting."""
    for strategy in ("commit", "stream"):
        for call in (scene.engine.plan, scene.engine.delete):
            with pytest.raises(Refused) as caught:
                await call(DOMAIN, "s2", strategy=strategy, **options)
            (reason,) = caught.value.reasons
            assert (reason.code, reason.disk) == ("foreign_user_of_base", "vda")
            assert str(path) in reason.message


@pytest.mark.parametrize("way", [by_name, by_symlink, by_hard_link, by_bind_mount])
def test_a_clone_in_a_named_folder_stops_the_deletion(
    tmp_path: Path, way: Callable[[Path, Path], Path]
) -> None:
    """Compared by device and inode; without the folder nobody could know of it."""
    other = tmp_path / "elsewhere"
    other.mkdir()

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            await scene.take("s1")
            await scene.take("s2")
            base = scene.images_folder / "vda.s1"
            path = other / "clone.qcow2"
            before = clone(path, way(base, other))

            await refused(scene, path, image_folders=(str(other),))

            assert shown(path) == before
            path.unlink()
            await scene.engine.delete(DOMAIN, "s2", image_folders=(str(other),))
            assert (await scene.engine.catalog.snapshot(DOMAIN, "s1")).status == "valid"

    try:
        play(story())
    finally:
        if (other / "mounted").exists():
            subprocess.run(["umount", str(other / "mounted")], check=True)


def test_clones_beside_and_of_other_domains_are_found_by_themselves(
    tmp_path: Path,
) -> None:
    """In the folder of the chain, and in every folder of the catalog."""
    other = tmp_path / "elsewhere"
    other.mkdir()

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            await scene.take("s1")
            await scene.take("s2")
            base = scene.images_folder / "vda.s1"
            beside = scene.images_folder / "clone.qcow2"
            clone(beside, base)
            await refused(scene, beside)
            beside.unlink()
            path = other / "clone.qcow2"
            before = clone(path, base)
            await scene.engine.add_domain("db", [Disk("vda", str(path), "qcow2")])
            await refused(scene, path)
            assert shown(path) == before
            # An image that is removed without a copy must have no clone, either.
            with pytest.raises(Refused):
                await scene.engine.delete(DOMAIN, "s1", scope="children")

    play(story())


def test_a_folder_that_is_none_is_told_at_once(tmp_path: Path) -> None:
    """Nothing is begun with a folder that cannot be searched."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            await scene.take("s1")
            with pytest.raises(Exception, match="is not a folder"):
                await scene.engine.delete(
                    DOMAIN, "s1", image_folders=(str(tmp_path / "none"),)
                )
            assert await scene.engine.deletions() == []

    play(story())


class CountingImages(QemuImages):
    """The real images, and how often each folder was searched."""

    def __init__(self) -> None:
        super().__init__()
        self.searched: Counter[str] = Counter()

    async def dependents(
        self, folders: Sequence[str]
    ) -> Mapping[FileId, Sequence[str]]:
        self.searched.update(folders)
        return await super().dependents(folders)


def test_a_plan_searches_each_folder_once(tmp_path: Path) -> None:
    """However many images it asks for: there may be thousands in a folder."""
    other = tmp_path / "elsewhere"
    other.mkdir()

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            for name in ("s1", "s2", "s3"):
                await scene.take(name)
            images = CountingImages()
            async with Engine(scene.journal, images=images) as engine:
                plan = await engine.plan(
                    DOMAIN, "s1", through="s3", image_folders=(str(other),)
                )
            assert len(plan.folds[0].layers) == 4
            folders = {str(scene.images_folder), str(other)}
            assert {path: images.searched[path] for path in folders} == dict.fromkeys(
                folders, 1
            )
            assert max(images.searched.values()) == 1

    play(story())
