"""What the peer's own tests ask of memory files and of disks that come and go.

The numbers are those of the list of its scenarios: A5 and A6 are snapshots of the
memory alone, A7 has a disk that was attached while the guest ran, and in A8 only the
name of a snapshot goes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backfold.journal.model import Disk
from real.scene import DOMAIN, Scene, play
from real.test_disks_come_and_go import io

#: Beyond what the guest of the tests writes to.
FAR = 10 << 20
#: Microseconds between two writes, so that the guest leaves the processors to others.
PAUSE = 1000


async def take_with_memory(
    scene: Scene, name: str, *, exclude: Sequence[str] = ()
) -> Path:
    """A snapshot of one instant, whose memory QEMU itself has saved."""
    memory = await scene.save_memory(name)
    await scene.take(name, exclude=exclude, memory=memory)
    scene.machine.qmp("cont")
    await scene.write()
    return memory


async def snapshots(scene: Scene) -> list[str]:
    return [one.name for one in await scene.engine.catalog.snapshots(DOMAIN)]


async def delete_memory_only_snapshots(scene: Scene, files: Sequence[Path]) -> None:
    """Both go with their files, the current one last; the guest is left alone."""
    pid, disks, state = scene.machine.pid, await scene.disks(), scene.run_state()
    for number, name in enumerate(("s1", "s2"), 1):
        deletion = await scene.delete(name)
        assert (deletion.state, deletion.disks) == ("completed", ())
        assert [path.exists() for path in files] == [number < 1, number < 2]
        assert scene.run_state() == state
    assert await snapshots(scene) == []
    assert (scene.machine.pid, await scene.disks()) == (pid, disks)


def test_a5_a6_memory_only_snapshots(tmp_path: Path) -> None:
    """A5 of a running guest, A6 of one that is paused when they are deleted."""

    async def story() -> None:
        async with Scene(tmp_path, pause=PAUSE) as scene:
            for state in ("running", "paused"):
                first = await take_with_memory(scene, "s1", exclude=("vda",))
                if state == "paused":
                    scene.machine.qmp("stop")
                second = scene.memory_file("s2")
                await scene.take("s2", exclude=("vda",), memory=second)
                await delete_memory_only_snapshots(scene, (first, second))
            scene.machine.qmp("cont")
            await scene.write()
            await scene.verify()

    play(story())


def test_a7_snapshot_after_a_disk_was_attached(tmp_path: Path) -> None:
    """Two snapshots of vda, vdb plugged in, then two of both: the third one goes."""

    def put(pattern: int, scene: Scene) -> None:
        where = FAR + pattern * (64 << 10)
        device = "/machine/peripheral/vdb/virtio-backend"
        line = f'qemu-io -d {device} "write -f -P {pattern} {where} 64k"'
        said = scene.machine.qmp("human-monitor-command", **{"command-line": line})
        assert said == ""

    async def story() -> None:
        scene = Scene(tmp_path, pause=PAUSE)
        scene.machine.extra_args = ["-device", "pcie-root-port,id=free,chassis=1"]
        async with scene:
            await scene.take("s1")
            await scene.take("s2")
            vdb = await plug_in(scene, "vdb")
            put(1, scene)
            memory = await take_with_memory(scene, "s3")
            put(2, scene)
            await scene.take("s4")
            put(3, scene)
            prior = await scene.engine.catalog.snapshot(DOMAIN, "s2")
            third = (await scene.disks())[1].chain[1]
            deletion = await scene.delete("s3")

            assert [disk.target for disk in deletion.disks] == ["vda", "vdb"]
            assert await snapshots(scene) == ["s1", "s2", "s4"]
            assert await scene.engine.catalog.snapshot(DOMAIN, "s2") == prior
            assert third not in (await scene.disks())[1].chain
            assert not Path(third).exists() and not memory.exists()
            put(4, scene)
            await scene.write()
            await scene.verify()
            active = (await scene.disks())[1].source
            for pattern in (1, 2, 3, 4):
                where = FAR + pattern * (64 << 10)
                io(active, f"read -P {pattern} {where} 64k")
                # What s4 froze: nothing that came later.
                if pattern < 3:
                    io(vdb.source, f"read -P {pattern} {where} 64k")
                else:
                    io(vdb.source, f"read -P 0 {where} 64k")

    play(story())


def test_a8_metadata_only(tmp_path: Path) -> None:
    """The name goes; images and memory files stay, and the others can be deleted."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            memories = [scene.memory_file(name) for name in ("s1", "s2", "s3")]
            for number, memory in enumerate(memories, 1):
                await scene.take(f"s{number}", memory=memory)
                (disk,) = await scene.disks()
                io(disk.source, f"write -P {number} {number << 20} 64k")
            before, chain = scene.fingerprints(), (await scene.disks())[0].chain
            await scene.delete("s1", metadata_only=True)

            assert await snapshots(scene) == ["s2", "s3"]
            assert scene.fingerprints() == before
            assert (await scene.disks())[0].chain == chain
            assert [path.exists() for path in memories] == [True, True, True]
            for name in ("s3", "s2"):
                await scene.delete(name)
            assert [path.exists() for path in memories] == [True, False, False]
            (disk,) = await scene.disks()
            io(disk.source, *(f"read -P {n} {n << 20} 64k" for n in (1, 2, 3)))
            assert scene.open_runs() == []

    play(story())


async def plug_in(scene: Scene, target: str) -> Disk:
    """Give the running machine one more disk, and tell the catalog."""
    disk = await scene.attach_disk(target)
    file = {"driver": "file", "filename": disk.source}
    scene.machine.qmp(
        "blockdev-add", **{"driver": "qcow2", "node-name": "plugged", "file": file}
    )
    device = {
        "driver": "virtio-blk-pci",
        "id": target,
        "drive": "plugged",
        "bus": "free",
    }
    scene.machine.qmp("device_add", **device)
    return disk
