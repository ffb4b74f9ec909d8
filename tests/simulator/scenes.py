"""Domains with snapshots, made by the real engine: where every history begins."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from backfold.journal.model import Disk

from .engine import Journal, SimEngine, new_journal
from .life import Life, Quiet
from .world import CLUSTERS, MONITOR, World, new_image

DOMAIN: Final = "web"


@dataclass(frozen=True, slots=True)
class Scene:
    """A domain, its snapshots, and which of them is deleted (or ``taken``).

    ``history`` is what was done before: ``s1`` takes a snapshot, ``<s1`` goes back to
    it, ``-s1`` deletes it; without it snapshots were taken, one after the other.
    ``more`` are further arguments of the deletion.
    """

    name: str
    power: str
    disks: int = 1
    snapshots: int = 2
    delete: str = "s2"
    #: Snapshots that leave the last disk out.
    partial: tuple[str, ...] = ()
    order: str = "delete"
    #: The snapshot has no disk of its own, as one of the memory alone.
    bare: bool = False
    #: Backups began before the first snapshot.
    backed_up: bool = False
    #: The definition lives elsewhere, and its owner is told.
    owned: bool = False
    history: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> tuple[str, ...]:
        """What is done before the order."""
        return self.history or tuple(f"s{n + 1}" for n in range(self.snapshots))


_STREAM: Final = {"strategy": "stream"}
_AUTO: Final = {"strategy": "auto"}
#: A branch that is not in use (s3, or s3 and s4), beside the one that is.
_FORK: Final = ("s1", "s2", "s3", "<s2")
_BRANCH: Final = ("s1", "s2", "s3", "s4", "<s1")
_TREE: Final = ("s1", "s2", "s3", "s4", "<s2", "s5")

SCENES: Final = {
    scene.name: scene
    for scene in (
        Scene("running-newest", "running"),
        Scene("running-middle", "running", delete="s1"),
        Scene("running-deep", "running", snapshots=3, delete="s1"),
        Scene("running-newest-2", "running", disks=2),
        Scene("running-mixed-2", "running", disks=2, delete="s1", partial=("s2",)),
        Scene("paused-newest", "paused"),
        Scene("paused-mixed-2", "paused", disks=2, delete="s1", partial=("s2",)),
        Scene("off-newest", "off"),
        Scene("off-middle", "off", delete="s1"),
        Scene("off-deep", "off", snapshots=3, delete="s1"),
        Scene("off-mixed-2", "off", disks=2, delete="s1", partial=("s2",)),
        Scene("running-create-2", "running", disks=2, snapshots=1, order="create"),
        Scene("off-create", "off", snapshots=1, order="create"),
        Scene("off-bare", "off", bare=True),
        Scene("off-revert-2", "off", disks=2, delete="s1", order="revert"),
        Scene("off-revert-branch", "off", history=_FORK, delete="s3", order="revert"),
        Scene("running-backed-up", "running", backed_up=True),
        Scene("off-backed-up", "off", delete="s1", backed_up=True),
        Scene("running-owned-2", "running", disks=2, owned=True),
        Scene("paused-owned", "paused", owned=True),
        Scene("off-owned-2", "off", disks=2, owned=True),
        Scene(
            "running-owned-mixed-2",
            "running",
            disks=2,
            delete="s1",
            partial=("s2",),
            owned=True,
        ),
        Scene(
            "running-owned-create-2",
            "running",
            disks=2,
            snapshots=1,
            order="create",
            owned=True,
        ),
        Scene(
            "off-owned-create-2",
            "off",
            disks=2,
            snapshots=1,
            order="create",
            owned=True,
        ),
        Scene(
            "off-owned-revert-2",
            "off",
            disks=2,
            delete="s1",
            order="revert",
            owned=True,
        ),
        Scene("running-stream", "running", more=_STREAM),
        Scene("running-stream-middle", "running", snapshots=3, more=_STREAM),
        Scene(
            "running-stream-all",
            "running",
            delete="s1",
            more={**_STREAM, "through": "s2"},
        ),
        Scene("running-range", "running", snapshots=3, more={"through": "s3"}),
        Scene("running-range-deep", "running", snapshots=4, more={"through": "s3"}),
        Scene(
            "running-range-stream",
            "running",
            snapshots=4,
            more={**_STREAM, "through": "s3"},
        ),
        Scene(
            "running-auto-2",
            "running",
            disks=2,
            snapshots=3,
            partial=("s3",),
            more=_AUTO,
        ),
        Scene("paused-stream", "paused", more=_STREAM),
        Scene("off-stream", "off", snapshots=3, more=_STREAM),
        Scene("off-range", "off", snapshots=4, more={"through": "s3"}),
        Scene("running-keep", "running", history=_FORK),
        Scene("running-again", "running", history=(*_FORK, "-s2"), delete="s3"),
        Scene(
            "running-again-stream",
            "running",
            history=(*_FORK, "-s2"),
            delete="s3",
            more=_STREAM,
        ),
        Scene("off-again", "off", history=(*_FORK, "-s2"), delete="s3"),
        Scene("running-beside", "running", history=_BRANCH, delete="s3"),
        Scene("running-beside-deep", "running", history=_BRANCH),
        Scene(
            "running-beside-stream",
            "running",
            history=_BRANCH,
            delete="s3",
            more=_STREAM,
        ),
        Scene("off-branch", "off", history=_BRANCH, delete="s3"),
        Scene("off-branch-stream", "off", history=_BRANCH, more=_STREAM),
        Scene(
            "running-places",
            "running",
            history=_TREE,
            delete="s1",
            more={**_AUTO, "through": "s3"},
        ),
        Scene(
            "off-places",
            "off",
            history=_TREE,
            delete="s1",
            more={**_AUTO, "through": "s3"},
        ),
        Scene("running-children", "running", history=_FORK, more={"scope": "children"}),
        Scene(
            "running-children-branch",
            "running",
            history=_BRANCH,
            more={"scope": "children"},
        ),
        Scene(
            "running-children-only",
            "running",
            snapshots=3,
            delete="s1",
            more={"scope": "children-only"},
        ),
        Scene(
            "running-metadata", "running", history=_FORK, more={"metadata_only": True}
        ),
    )
}


def build(
    scene: Scene, loop: asyncio.AbstractEventLoop, locks: Path
) -> tuple[World, bytes]:
    """The world and the journal before the first order."""
    world = World()
    targets = [f"vd{letter}" for letter in "abc"[: scene.disks]]
    sources = {t: (f"/images/{t}.qcow2", "qcow2") for t in targets}
    for path, _ in sources.values():
        new_image(world, path)
    world.acknowledged = {t: dict.fromkeys(range(CLUSTERS), 0) for t in targets}
    world.wanted = "paused"
    assert world.boot_domain(sources) is None
    _write(world, 0)
    if scene.backed_up:
        world.begin_backups()
    journal = Journal(new_journal())

    async def prepare() -> None:
        async with SimEngine(world, journal, Life(Quiet()), locks) as engine:
            disks = [Disk(t, path, format) for t, (path, format) in sources.items()]
            hook = "/etc/web.hook" if scene.owned else None
            world.definition = dict(sources) if scene.owned else None
            await engine.add_domain(DOMAIN, disks, MONITOR, hook=hook)
            for number, step in enumerate(scene.steps, 1):
                if step.startswith("-"):
                    await engine.delete(DOMAIN, step[1:])
                elif step.startswith("<"):
                    await _go_back(world, engine, step[1:])
                else:
                    exclude = targets[-1:] if step in scene.partial else ()
                    await engine.create_snapshot(DOMAIN, step, exclude=exclude)
                    note_snapshot(world, step, [t for t in targets if t not in exclude])
                _write(world, number)

    loop.run_until_complete(prepare())
    if scene.bare:
        journal.db.execute("delete from snapshot_disks where snapshot = 's2'")
    domain = world.domain
    assert domain is not None
    world.wanted = scene.power
    if scene.power == "running":
        domain.run_state = "running"
    elif scene.power == "off":
        world.quit(domain)
    for file in world.files.inodes.values():
        file.sync()
    data = journal.data
    journal.close()
    return world, data


async def _go_back(world: World, engine: SimEngine, name: str) -> None:
    """Off, reverted to a snapshot of all disks, and on again."""
    assert world.domain is not None
    world.quit(world.domain)
    await engine.revert(DOMAIN, name, discard=True)
    world.acknowledged = {t: c.copy() for t, c in world.frozen[name].items()}
    sources = {d.target: (d.source, d.format) for d in await engine.disks(DOMAIN)}
    assert world.boot_domain(sources) is None


def note_snapshot(world: World, name: str, targets: list[str]) -> None:
    """What a snapshot holds that was taken just now."""
    world.frozen[name] = {target: world.switched[target] for target in targets}


def _write(world: World, phase: int) -> None:
    """Two clusters of each disk: what no image below holds yet, and what one does."""
    domain = world.domain
    assert domain is not None
    domain.run_state = "running"
    for cluster in (phase, phase + 1):
        for target in domain.devices:
            world.guest_writes(domain, target, cluster % CLUSTERS)
    domain.run_state = "paused"
