"""Memory files that are recorded with snapshots, and snapshots without disks."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.engine.results import Creation
from backfold.engine.runner import crash_points
from backfold.journal.errors import Refused, UsageError
from backfold.states.creation import CREATION
from real.scene import DOMAIN, At, Scene, play


class Died(BaseException):
    """The engine ends here."""


def die() -> None:
    """Be the probe that ends the engine."""
    raise Died


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Some process has the file open meanwhile."""
    with path.open("rb") as file:
        process = subprocess.Popen(["sleep", "60"], stdin=file)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_a_memory_file_is_recorded_with_its_snapshot(tmp_path: Path) -> None:
    """With disks and without; whoever goes on from there sees the same tree."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, power="off") as scene:
            first, second = scene.memory_file("s1"), scene.memory_file("s2")
            before = await scene.disks()
            alone = await scene.take("s1", exclude=("vda", "vdb"), memory=first)
            assert (alone.disks, alone.memory) == ((), str(first))
            assert await scene.disks() == before

            whole = await scene.take("s2", exclude=("vdb",), memory=second)
            assert [disk.target for disk in whole.disks] == ["vda"]
            assert (whole.parent, whole.memory) == ("s1", str(second))
            third = await scene.take("s3")
            assert (third.parent, third.memory) == ("s2", None)

            found = await scene.engine.catalog.snapshots(DOMAIN)
            assert [one.memory for one in found] == [str(first), str(second), None]
            with pytest.raises(UsageError, match="No disk is left"):
                await scene.take("s4", exclude=("vda", "vdb"))
            await scene.verify_data()

    play(story())


def test_a_file_that_cannot_be_a_memory_file_is_refused(tmp_path: Path) -> None:
    """It would be removed with the snapshot, so it must be nothing else."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", base_format="raw") as scene:
            taken, other = scene.memory_file("s1"), scene.memory_file("other")
            await scene.take("s1", memory=taken)
            folder = scene.folder / "a-folder"
            folder.mkdir()
            linked = scene.memory_file("linked")
            os.link(linked, scene.folder / "linked-2")
            to_taken = scene.folder / "to-taken"
            to_taken.symlink_to(taken)
            foreign = scene.folder / "foreign.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", foreign, "1M")
            wrong: Mapping[Path, str] = {
                scene.folder / "nothing": "is missing",
                folder: "not a regular file",
                linked: "2 hard links",
                taken: "the memory of snapshot s1 of domain web",
                to_taken: "the memory of snapshot s1 of domain web",
                Path(scene.first_disks[0].source): "an image of the catalog",
                foreign: "a qcow2 image",
            }
            before, files = scene.catalog(), sorted(scene.folder.rglob("*"))
            for path, words in wrong.items():
                with pytest.raises(Refused, match=words) as caught:
                    await scene.take("s2", memory=path)
                codes = [reason.code for reason in caught.value.reasons]
                assert codes == ["memory_file"]
            assert scene.catalog() == before
            assert sorted(scene.folder.rglob("*")) == files
            assert scene.open_runs() == []

            with held(other), pytest.raises(Refused, match="has it open"):
                await scene.take("s2", memory=other)
            await scene.take("s2", memory=other)

    play(story())


#: Moments that the creation of a snapshot without disks comes to. Nobody owns a
#: definition here.
MOMENTS = [
    ".".join(point)
    for point in crash_points(CREATION)
    if point[1] not in ("switch", "undo", "remove_overlays", "ask_owner", "tell_owner")
]


def test_a_snapshot_without_disks_is_killed_anywhere(tmp_path: Path) -> None:
    """It is there with its memory, or it is not; the file and the disks stay."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            disks = scene.rows("disks")
            taken: list[str] = []
            for number, moment in enumerate(MOMENTS):
                name = f"s{number}"
                memory = scene.memory_file(name)
                content = memory.read_bytes()
                await scene.with_probe(At(moment, die, machine="creation"))
                with pytest.raises(Died):
                    await scene.take(name, exclude=("vda",), memory=memory)
                await scene.with_probe(At("", die))
                for end in await scene.engine.recover():
                    assert isinstance(end, Creation), end
                state, _, _ = moment.split(".")
                if state != "planned" or moment == "planned.made.noted":
                    taken.append(name)
                found = await scene.engine.catalog.snapshots(DOMAIN)
                assert [one.name for one in found] == taken, moment
                assert all(
                    (one.memory or "").endswith(f"/{one.name}.mem") for one in found
                )
                assert (memory.read_bytes(), scene.rows("disks")) == (content, disks)
            assert taken
            assert scene.open_runs() == []

    play(story())
