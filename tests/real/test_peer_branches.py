"""What the peer's own tests ask of branches: everything that it refuses must work.

The numbers are those of the list of its scenarios (`docs/scenarios.md`). All of them
begin with the same tree: s1, s2 and s3 were taken one after another, then the domain
went back to s1, and s4 and s5 were taken. Each has a memory file.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from backfold.engine.demo.guest import Ledger
from backfold.engine.events import Event, ProgressEvent, StateEvent
from backfold.engine.results import Deletion
from real.scene import DOMAIN, NoGuard, Scene, play
from sampled import sampled

PARENTS = {"s1": None, "s2": "s1", "s3": "s2", "s4": "s1", "s5": "s4"}
#: What each snapshot holds, the last written last, and what the disk holds.
HOLDS = {"s1": [1], "s2": [1, 2], "s3": [1, 2, 3], "s4": [1, 4], "s5": [1, 4, 5]}
DISK = [1, 4, 5, 6]
#: The images; only the first one was not made by a snapshot.
IMAGES = {"vda.qcow2", "vda.s1", "vda.s2", "vda.s1-2", "vda.s4", "vda.s5"}
#: Beyond what the guest of the tests writes to; the first place is written by all.
FAR, STEP = 10 << 20, 64 << 10

#: Snapshots in the order in which they go, a subtree in one deletion, each with the
#: images that go with it.
Order = Sequence[tuple[str, set[str]]]


async def write(scene: Scene, pattern: int) -> None:
    """Into the place of this pattern, and into the place that all write to."""
    (disk,) = await scene.disks()
    _io(
        ["-f", "qcow2", disk.source],
        f"write -P {pattern} {FAR + pattern * STEP} {STEP}",
        f"write -P {pattern} {FAR} {STEP}",
    )


def holds(image: str, patterns: Sequence[int]) -> None:
    """An image with all below it shows these patterns and no other."""
    values = {n: n if n in patterns else 0 for n in range(1, 8)} | {0: patterns[-1]}
    _io(
        ["-r", "-U", "-f", "qcow2", image],
        *(f"read -P {value} {FAR + at * STEP} {STEP}" for at, value in values.items()),
    )


def _io(image: Sequence[str], *commands: str) -> None:
    asked = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(
        ["qemu-io", *asked, *image], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "failed" not in done.stdout, (image, done)


class Tree:
    """The tree of the scenarios, which every test finds as it was made."""

    def __init__(self, folder: Path) -> None:
        self.scene = Scene(folder / "scene", power="off", guard=NoGuard())
        self.kept = folder / "kept"
        play(self._make())
        shutil.copytree(self.scene.folder, self.kept)

    async def _make(self) -> None:
        async with self.scene as scene:
            for number in (1, 2, 3):
                await self._take(number)
            await write(scene, 7)
            await scene.engine.revert(DOMAIN, "s1", discard=True)
            for number in (4, 5):
                await self._take(number)
            await write(scene, 6)
            await self.check(set(PARENTS), IMAGES)

    async def _take(self, number: int) -> None:
        await write(self.scene, number)
        name = f"s{number}"
        await self.scene.take(name, memory=self.scene.memory_file(name))

    async def __aenter__(self) -> Scene:
        """Everything is as it was, with a new engine."""
        shutil.rmtree(self.scene.folder)
        shutil.copytree(self.kept, self.scene.folder)
        self.scene.machine.ledger = Ledger()
        self.scene.engine = self.scene.new_engine()
        await self.scene.engine.__aenter__()
        return self.scene

    async def __aexit__(self, *error: object) -> None:
        await self.scene.__aexit__(None, None, None)

    async def check(self, left: set[str], images: set[str]) -> None:
        """These snapshots are left, with all their data, and these files."""
        found = await self.scene.engine.catalog.snapshots(DOMAIN)
        assert {one.name for one in found} == left
        for one in found:
            parent = PARENTS[one.name]
            while parent is not None and parent not in left:
                parent = PARENTS[parent]
            assert (one.parent, one.status) == (parent, "valid"), one
            (disk,) = one.disks
            holds(disk.frozen, HOLDS[one.name])
        assert {path.name for path in self.scene.images()} == images
        memories = {path.name for path in self.scene.folder.glob("*.mem*")}
        assert memories == {f"{name}.mem" for name in left}
        assert self.scene.open_runs() == []

    async def delete_all(self, order: Order) -> None:
        """One after another; after each, all that is left is there, and no more."""
        left, images = set(PARENTS), set(IMAGES)
        for names, gone in order:
            first, *others = names.split()
            scope = "children" if others else "snapshot"
            deletion = await self.scene.delete(first, scope=scope)
            assert deletion.state == "completed"
            assert deletion.snapshots == (first, *others)
            left -= {first, *others}
            images -= gone
            await self.check(left, images)
            (disk,) = await self.scene.disks()
            holds(disk.source, DISK)
        await self.scene.verify()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    folder = tmp_path_factory.mktemp("tree")
    (folder / "scene").mkdir()
    return Tree(folder)


#: What the peer refuses in each scenario is the first one in A9, the third one in A10
#: (reverted to, with children), and the first one in A11 and A12 (on another branch).
ORDERS: dict[str, Order] = {
    "a9": [
        # Two images are based on what s1 froze: it stays without a name.
        ("s1", set()),
        ("s2", {"vda.s2"}),
        # The branch goes, and then nothing keeps the shared image from being folded.
        ("s3", {"vda.s1", "vda.s1-2"}),
        ("s4 s5", {"vda.s4", "vda.s5"}),
    ],
    "a10": [
        ("s5", {"vda.s5"}),
        ("s4", {"vda.s4"}),
        ("s1", set()),
        ("s2 s3", {"vda.s1", "vda.s1-2", "vda.s2"}),
    ],
    "a11": [
        ("s2", {"vda.s2"}),
        ("s3", {"vda.s1"}),
        ("s5", {"vda.s5"}),
        ("s4", {"vda.s4"}),
        ("s1", {"vda.s1-2"}),
    ],
    "a12": [
        ("s2", {"vda.s2"}),
        ("s3", {"vda.s1"}),
        ("s1", {"vda.s1-2"}),
        ("s4", {"vda.s4"}),
        ("s5", {"vda.s5"}),
    ],
}


@pytest.mark.parametrize("order", sampled(2, [*ORDERS]))
def test_a9_to_a12_any_order(tree: Tree, order: str) -> None:
    """Any snapshot goes at any time; its image and its memory file, and no other."""

    async def story() -> None:
        async with tree:
            await tree.delete_all(ORDERS[order])

    play(story())


class Heard:
    """What a caller was told of each run, and whether anything was copied."""

    def __init__(self) -> None:
        self.states: list[str] = []
        self.disks: set[str] = set()

    def __call__(self, event: Event) -> None:
        if isinstance(event, StateEvent):
            self.states.append(event.state)
        elif isinstance(event, ProgressEvent):
            self.disks.add(event.disk)


JOB = ["commit_per_disk", "vote", "pivot"]


def test_a14_events_of_each_deletion(tree: Tree) -> None:
    """A deletion with a block job tells of it; one that copies nothing has none."""

    async def story() -> None:
        async with tree as scene:

            async def delete(name: str) -> tuple[Deletion, Heard]:
                heard = Heard()
                deletion = await scene.delete(name, on_event=heard)
                work = JOB if deletion.disks else []
                # A vote on a slow machine may be taken twice.
                assert list(dict.fromkeys(heard.states)) == (
                    ["validate", "prepare", *work, "update_metadata", "completed"]
                )
                assert heard.disks == {disk.target for disk in deletion.disks}
                return deletion, heard

            # A guest that is not let go: what it writes would be lost by the revert.
            scene.machine.paused = True
            await scene.boot()
            deletion, _ = await delete("s5")
            (disk,) = deletion.disks
            assert (disk.is_active, Path(disk.top).name) == (True, "vda.s5")
            await tree.check({"s1", "s2", "s3", "s4"}, IMAGES - {"vda.s5"})
            scene.machine.quit()

            reverted = Heard()
            await scene.engine.revert(DOMAIN, "s2", discard=True, on_event=reverted)
            assert reverted.states[-1] == "reverted" and not reverted.disks
            images = IMAGES - {"vda.s4", "vda.s5"} | {"vda.s2-2"}
            await tree.check({"s1", "s2", "s3", "s4"}, images)
            (active,) = await scene.disks()
            holds(active.source, HOLDS["s2"])

            scene.machine.paused = False
            await scene.boot()
            left = {"s1", "s2", "s3", "s4"}
            for name, gone, base in (
                ("s3", "vda.s2", None),
                ("s4", "vda.s1-2", None),
                ("s1", "vda.s1", "vda.qcow2"),
                ("s2", "vda.s2-2", "vda.qcow2"),
            ):
                await scene.write()
                deletion, _ = await delete(name)
                bases = [Path(disk.base).name for disk in deletion.disks]
                assert bases == ([base] if base else [])
                left, images = left - {name}, images - {gone}
                await tree.check(left, images)
            await scene.write()
            await scene.verify()
            (active,) = await scene.disks()
            holds(active.source, HOLDS["s2"])

    play(story())
