"""Memory files that go with their snapshots, and those that must stay."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.engine.results import Deletion
from backfold.engine.runner import crash_points
from backfold.journal.errors import Interrupted, Refused
from backfold.journal.model import Disk
from backfold.states.deletion import DELETION
from real.scene import DOMAIN, At, Scene, play
from real.test_memory_files import Died, die, held

#: Moments that the deletion of a snapshot without disks comes to.
MOMENTS = [
    ".".join(point)
    for point in crash_points(DELETION)
    if point[0] in ("validate", "prepare", "update_metadata")
    and point[1] in ("accept", "proceed", "record", "set_aside", "unlink")
]


async def alone(scene: Scene, name: str) -> Path:
    """A snapshot of the memory alone; its file."""
    path = scene.memory_file(name)
    await scene.take(name, exclude=("vda",), memory=path)
    return path


async def snapshots(scene: Scene) -> list[str]:
    return [one.name for one in await scene.engine.catalog.snapshots(DOMAIN)]


async def alarms(scene: Scene, deletion: Deletion) -> list[str]:
    """What was told during a deletion."""
    rows = await scene.engine.log(deletion.id)
    return [row.detail["what"] for row in rows if row.trigger == "alarm"]


def test_a_memory_file_goes_with_its_snapshot(tmp_path: Path) -> None:
    """With disks and without; the files of other snapshots stay."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            first = await alone(scene, "s1")
            second = scene.memory_file("s2")
            await scene.take("s2", memory=second)
            third = await alone(scene, "s3")
            watch = At("", die)
            await scene.with_probe(watch)
            prints = scene.fingerprints()
            deletion = await scene.delete("s1")

            assert (deletion.state, deletion.disks) == ("completed", ())
            assert "update_metadata.unlink.done" in watch.seen
            assert not [place for place in watch.seen if "start_paused" in place]
            assert scene.fingerprints() == prints
            assert [p.exists() for p in (first, second, third)] == [False, True, True]
            plan = await scene.engine.plan(DOMAIN, "s2")
            assert [memory.path for memory in plan.memories] == [str(second)]
            await scene.delete("s2")
            assert [path.exists() for path in (second, third)] == [False, True]
            fourth = await alone(scene, "s4")
            await scene.delete("s3", through="s4")
            assert [path.exists() for path in (third, fourth)] == [False, False]
            assert await snapshots(scene) == []
            assert list(scene.folder.glob("*.mem*")) == []
            await scene.verify()

    play(story())


def test_killed_anywhere_while_a_memory_file_goes(tmp_path: Path) -> None:
    """Snapshot and file are gone in the end; the disk is never touched."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            disks, prints = scene.rows("disks"), scene.fingerprints()
            other = await alone(scene, "other")
            seen = 0
            for number, moment in enumerate(MOMENTS):
                name = f"s{number}"
                await alone(scene, name)
                probe = At(moment, die)
                await scene.with_probe(probe)
                with pytest.raises(Died):
                    await scene.delete(name)
                seen += probe.times
                await scene.with_probe(At("", die))
                for end in await scene.engine.recover():
                    assert isinstance(end, Deletion), end
                    assert end.state == "completed"
                    assert await alarms(scene, end) == []
                assert await snapshots(scene) == ["other"]
                assert list(scene.folder.glob("*.mem*")) == [other]
            assert seen == len(MOMENTS)
            assert (scene.rows("disks"), scene.fingerprints()) == (disks, prints)
            assert scene.open_runs() == []

    play(story())


def replaced(path: Path) -> None:
    """Another file has the name, while the old one is still somewhere."""
    path.rename(path.with_name("moved"))
    path.write_text("somebody else's")


def test_what_is_no_memory_file_any_more_is_left(tmp_path: Path) -> None:
    """It is told, the snapshot goes, and nobody's file is removed."""

    async def attached(scene: Scene, path: Path) -> None:
        path.unlink()
        qemu_img("create", "-q", "-f", "raw", path, "1M")
        await scene.engine.attach_disk(DOMAIN, Disk("vdb", str(path), "raw"))

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            linked = scene.folder / "linked"
            qcow2 = scene.folder / "other.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", qcow2, "1M")
            before: dict[str, tuple[Callable[[Path], object], str]] = {
                "missing": (Path.unlink, "is missing"),
                "linked": (lambda path: os.link(path, linked), "2 hard links"),
                "image": (lambda path: shutil.copy(qcow2, path), "a qcow2 image"),
            }
            for name, (change, words) in before.items():
                path = await alone(scene, name)
                change(path)
                content = path.read_bytes() if path.exists() else None
                deletion = await scene.delete(name)
                (told,) = await alarms(scene, deletion)
                assert deletion.state == "completed" and words in told
                assert content == (path.read_bytes() if path.exists() else None)

            path = await alone(scene, "disk")
            await attached(scene, path)
            (told,) = await alarms(scene, await scene.delete("disk"))
            assert "an image of the catalog" in told and path.exists()

            path = await alone(scene, "replaced")
            place = "update_metadata.record.noted"
            await scene.with_probe(At(place, lambda: replaced(path)))
            (told,) = await alarms(scene, await scene.delete("replaced"))
            assert "another file than it was" in told
            assert path.read_text() == "somebody else's"
            assert path.with_name("moved").exists()
            assert await snapshots(scene) == []

    play(story())


def test_a_memory_file_that_is_open_stays(tmp_path: Path) -> None:
    """Something may be restored from it: refused, or left open until it is free."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            path = await alone(scene, "s1")
            before = scene.catalog()
            with held(path), pytest.raises(Refused, match="has it open") as caught:
                await scene.delete("s1")
            assert [reason.code for reason in caught.value.reasons] == ["memory_file"]
            assert scene.catalog() == before

            holder = held(path)
            place = "update_metadata.record.noted"
            await scene.with_probe(At(place, holder.__enter__))
            with pytest.raises(Interrupted, match="still in use"):
                await scene.delete("s1")
            assert path.exists()
            holder.__exit__(None, None, None)
            (end,) = await scene.engine.recover()
            assert isinstance(end, Deletion) and end.state == "completed"
            assert not path.exists()

    play(story())
