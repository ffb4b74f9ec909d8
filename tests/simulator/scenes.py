"""Domains with snapshots, made by the real engine: where every history begins."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backfold.journal.model import Disk

from .engine import Journal, SimEngine, new_journal
from .life import Life, Quiet
from .world import CLUSTERS, MONITOR, World, new_image

DOMAIN: Final = "web"


@dataclass(frozen=True, slots=True)
class Scene:
    """A domain, its snapshots, and which of them is deleted (or ``taken``)."""

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
        Scene("running-backed-up", "running", backed_up=True),
        Scene("off-backed-up", "off", delete="s1", backed_up=True),
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
            await engine.add_domain(DOMAIN, disks, MONITOR)
            for number in range(1, scene.snapshots + 1):
                name = f"s{number}"
                exclude = targets[-1:] if name in scene.partial else ()
                await engine.create_snapshot(DOMAIN, name, exclude=exclude)
                note_snapshot(world, name, [t for t in targets if t not in exclude])
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
