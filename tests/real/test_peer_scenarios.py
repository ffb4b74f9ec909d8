"""What the peer's own tests ask of deletions, with a guest that writes.

The numbers are those of the list of its scenarios (`docs/scenarios.md`): A1 and A2
leave a disk out, A3 and A4 have memory files, A13 has an internal snapshot in an image
that somebody brought.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.journal.errors import Refused
from backfold.journal.model import Disk
from real.scene import DOMAIN, NoGuard, Scene, play
from real.test_disks_come_and_go import io
from real.test_peer_scenarios_memory import snapshots, take_with_memory
from real.test_reasons import everything

#: Microseconds between two writes of the guest.
CALM = 5000


def names(paths: Sequence[str | Path]) -> list[str]:
    return [Path(path).name for path in paths]


async def chains(scene: Scene) -> dict[str, list[str]]:
    """The images of each disk by name, the active one first."""
    return {disk.target: names(disk.chain) for disk in await scene.disks()}


@dataclass(frozen=True)
class Round:
    """How two snapshots are taken, and what state the guest is in when they go."""

    state: str
    has_memory: bool


ROUNDS = {
    "a1, a2": Round("running", has_memory=False),
    "a3": Round("running", has_memory=True),
    "a4": Round("paused", has_memory=True),
}


def test_a1_to_a4_beside_a_guest_that_writes(tmp_path: Path) -> None:
    """Only vdb is in the snapshots; first the older one goes, then the other."""

    async def story() -> None:
        scene = Scene(tmp_path, disks=2, pause=CALM, guard=NoGuard())
        async with scene:
            vda = nodes_of(scene, "vda")
            for each in ROUNDS.values():
                memories = await take_two(scene, each)
                if each.state == "paused":
                    scene.machine.qmp("stop")
                for name, left in (("s1", ["s2"]), ("s2", [])):
                    deletion = await scene.delete(name)
                    (disk,) = deletion.disks
                    assert (disk.target, disk.is_active) == ("vdb", name == "s2")
                    assert scene.run_state() == each.state
                    assert await snapshots(scene) == left
                    chain = [*(f"vdb.{one}" for one in left), "vdb.qcow2"]
                    assert await chains(scene) == {"vda": ["vda.qcow2"], "vdb": chain}
                    assert names(scene.images()) == sorted(["vda.qcow2", *chain])
                    assert nodes_of(scene, "vda") == vda
                    memories.pop(name, None)
                    assert set(tmp_path.glob("*.mem*")) == set(memories.values())
                    await scene.write()
                    if left:
                        await scene.verify_data()
            scene.machine.qmp("cont")
            await scene.write()
            await scene.verify()

    async def take_two(scene: Scene, each: Round) -> dict[str, Path]:
        memories = {}
        for name in ("s1", "s2"):
            if each.has_memory:
                memories[name] = await take_with_memory(scene, name, exclude=["vda"])
            else:
                await scene.take(name, exclude=["vda"])
                await scene.write()
        return memories

    play(story())


def nodes_of(scene: Scene, target: str) -> list[tuple[str, int]]:
    """What QEMU has a disk on, and how many images that is."""
    blocks = [each["inserted"] for each in scene.machine.qmp("query-block")]
    return [
        (each["node-name"], each["backing_file_depth"])
        for each in blocks
        if Path(each["file"]).name.startswith(target)
    ]


def test_a13_an_internal_snapshot_in_the_original_image(tmp_path: Path) -> None:
    """Nothing is written over it, and its image is not removed with the last label."""

    async def story() -> None:
        async with Scene(tmp_path, disks=2, power="off", guard=NoGuard()) as scene:
            originals = [Path(disk.source) for disk in await scene.disks()]
            vda, vdb = originals
            for image in originals:
                io(str(image), "write -P 1 12M 64k")
            qemu_img("snapshot", "-c", "inside", vdb)
            for image in originals:
                io(str(image), "write -P 2 12M 64k")
            memory = scene.memory_file("s2")
            await scene.take("s2", memory=memory)
            for disk in await scene.disks():
                io(disk.source, "write -P 3 13M 64k")

            # As long as the image is in the chain, a fold would write into it.
            before = everything(scene)
            for scope, strategy in (("snapshot", "stream"), ("children", "auto")):
                with pytest.raises(Refused) as caught:
                    await scene.delete("s2", scope=scope, strategy=strategy)
                (reason,) = caught.value.reasons
                assert (reason.code, reason.disk) == ("internal_snapshot", "vdb")
                assert "inside" in reason.message and "snapshot -d" in reason.remedy
            assert everything(scene) == before and memory.exists()
            for disk in await scene.disks():
                io(disk.source, "read -P 2 12M 64k", "read -P 3 13M 64k")

            # Back to the internal snapshot, as only an operator can: by a copy of it.
            await scene.engine.detach_disk(DOMAIN, "vdb")
            (scene.images_folder / "vdb.s2").unlink()
            copy = scene.images_folder / "copy.qcow2"
            qemu_img("convert", "-l", "inside", "-O", "qcow2", vdb, copy)
            content = vdb.read_bytes()
            await scene.delete("s2")
            await scene.engine.attach_disk(DOMAIN, Disk("vdb", str(copy), "qcow2"))

            assert await snapshots(scene) == []
            assert not memory.exists()
            assert names(scene.images()) == ["copy.qcow2", "vda.qcow2", "vdb.qcow2"]
            io(str(vda), "read -P 2 12M 64k", "read -P 3 13M 64k")
            io(str(copy), "read -P 1 12M 64k", "read -P 0 13M 64k")
            assert vdb.read_bytes() == content
            assert scene.open_runs() == []
            await scene.let_helpers_end()
            await scene.verify_data()

    play(story())
