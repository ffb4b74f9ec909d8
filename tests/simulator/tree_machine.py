"""Where walks through trees find their images, on a simulated host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from backfold.engine.api import Engine
from backfold.journal.model import Disk
from backfold.states.ports import Probe
from trees.model import Content
from trees.walk import BLOCKS

from .engine import Journal, SimEngine, new_journal
from .files import CLUSTER, Header
from .life import Life, Quiet
from .world import MONITOR, World, new_image

FOLDER = "/images"


class Both:
    """Two probes as one: the world's own goes first."""

    def __init__(self, first: Probe, second: Probe) -> None:
        self._probes = (first, second)

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Tell both."""
        for probe in self._probes:
            probe.reached(machine, state, step, moment)


class SimMachine:
    """One simulated host. The domain's guest does nothing by itself."""

    monitor = MONITOR

    def __init__(self, locks: Path, origins: Sequence[str]) -> None:
        """Make a disk of each origin: qcow2, raw, or qcow2 over a template."""
        self._world = World()
        self._journal = Journal(new_journal())
        self._locks = locks
        self.templates = frozenset(
            f"{FOLDER}/template{number}"
            for number, origin in enumerate(origins)
            if origin == "template"
        )
        self.disks: Sequence[Disk] = [
            self._disk(number, origin) for number, origin in enumerate(origins)
        ]

    def new_engine(self, probe: Probe | None = None) -> Engine:
        """An engine on the journal of this host."""
        life = Life(Quiet())
        engine = SimEngine(self._world, self._journal, life, self._locks)
        if probe is not None:
            world = engine._world
            engine._world = replace(world, probe=Both(world.probe, probe))
        return engine

    @property
    def is_on(self) -> bool:
        """Whether the domain's QEMU runs."""
        return self._world.domain is not None

    def power_on(self, disks: Sequence[Disk]) -> None:
        """Start QEMU on these images."""
        self._world.wanted = "paused"
        sources = {disk.target: (disk.source, disk.format) for disk in disks}
        assert self._world.boot_domain(sources) is None

    def power_off(self) -> None:
        """End QEMU in good order."""
        if self._world.domain is not None:
            self._world.quit(self._world.domain)

    def write(self, disk: Disk, changes: Mapping[int, int]) -> None:
        """Through QEMU when it is on, else into the file."""
        world, domain = self._world, self._world.domain
        world.tick()
        if domain is None:
            file = world.files.file(disk.source)
            assert file is not None
            file.clusters.update(changes)
            file.mtime = world.now
            file.sync()
            return
        domain.run_state = "running"
        for block, value in changes.items():
            written = domain.guest_write(
                world.files, disk.target, block, value, world.now
            )
            assert written
        domain.run_state = "paused"

    def wrong(self, expected: Sequence[tuple[str, str, Content]]) -> list[str]:
        """Compare what a guest would read from each image."""
        found = []
        for path in self.templates:
            file = self._world.files.file(path)
            if file is None or file.clusters:
                found.append(f"the template {path} was changed")
        for path, _, content in expected:
            shown = self._world.content(path, BLOCKS)
            if shown != dict(enumerate(content)):
                found.append(f"{path}: {shown}, not {content}")
        return found

    def below(self, path: str, format: str) -> str | None:
        """From the header itself."""
        file = self._world.files.file(path)
        assert file is not None and file.header is not None, path
        return self._world.backing_path(path, file.header)

    def files(self) -> set[str]:
        """Every name in the folder."""
        return {name for name in self._world.files.names if name.startswith(FOLDER)}

    def _disk(self, number: int, origin: str) -> Disk:
        target = f"vd{'abcdefgh'[number]}"
        path, format = f"{FOLDER}/{target}", "raw" if origin == "raw" else "qcow2"
        new_image(self._world, path, format, BLOCKS * CLUSTER)
        if origin == "template":
            template = f"{FOLDER}/template{number}"
            new_image(self._world, template, "qcow2", BLOCKS * CLUSTER)
            file = self._world.files.file(path)
            assert file is not None
            file.header = Header(BLOCKS * CLUSTER, template, "qcow2")
            file.sync()
        return Disk(target, path, format)
