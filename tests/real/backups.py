"""Incremental backups of a domain's disk, as a backup program makes them over QMP.

A full backup makes the bitmap in the same instant; each incremental one copies what
the bitmap has noted since into an overlay of the backup before. What is restored from
the last one must be the disk.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from backfold.engine.demo.guest import qemu_img
from backfold.engine.results import DomainDisk
from real.scene import SIZE, Scene

BITMAP = "nightly"


class Backups:
    """The backups of one disk of a running domain."""

    def __init__(self, scene: Scene, target: str = "vda", name: str = BITMAP) -> None:
        """No backup yet."""
        self.scene = scene
        self.name = name
        self.target = target
        self.folder = scene.folder / f"backups-{target}-{name}"
        self.folder.mkdir()
        self.last: Path | None = None
        self._count = self._pattern = 0

    async def full(self) -> None:
        """Everything, and a bitmap of what is written from then on."""
        image = self._new()
        qemu_img("create", "-q", "-f", "qcow2", image, str(SIZE))
        node = await self.node()
        job = self._job(node, image, sync="full")
        bitmap = {"node": node, "name": self.name, "persistent": True}
        await self._run(
            {"type": "drive-backup", "data": job},
            {"type": "block-dirty-bitmap-add", "data": bitmap},
        )

    async def incremental(self) -> None:
        """What was written since the backup before, on top of it."""
        assert self.last is not None
        below = ("-b", self.last, "-F", "qcow2")
        image = self._new()
        qemu_img("create", "-q", "-f", "qcow2", *below, image)
        job = self._job(await self.node(), image, sync="incremental", bitmap=self.name)
        await self._run({"type": "drive-backup", "data": job})

    async def prove(self) -> None:
        """The guest stands still, and a restored backup is what its disk shows."""
        state = self.scene.run_state()
        self.scene.machine.qmp("stop")
        await self.incremental()
        active = (await self._disk()).source
        assert self.last is not None
        qemu_img("compare", "-U", "-f", "qcow2", "-F", "qcow2", active, self.last)
        if state == "running":
            self.scene.machine.qmp("cont")

    async def noted(self, image: str | None = None) -> dict[str, Any] | None:
        """The bitmap of an image, the active one for None, as QEMU tells of it."""
        path = image or (await self._disk()).source
        found = [one for one in self.bitmaps(path) if one["name"] == self.name]
        return found[0] if found else None

    def bitmaps(self, image: str) -> list[dict[str, Any]]:
        """All bitmaps of an image that have a name."""
        nodes = self.scene.machine.qmp("query-named-block-nodes", flat=True)
        return [
            dict(bitmap)
            for node in nodes
            if node["drv"] == "qcow2" and Path(node["file"]).name == Path(image).name
            for bitmap in node.get("dirty-bitmaps", [])
            if "name" in bitmap
        ]

    async def write(self, megabyte: int, kilobytes: int = 64) -> None:
        """Write through QEMU, as the guest would."""
        self._pattern += 1
        line = f"write -P {self._pattern} {megabyte}M {kilobytes}k"
        device = (await self._device())["qdev"]
        said = self.scene.machine.qmp(
            "human-monitor-command",
            **{"command-line": f'qemu-io -d {device} "{line}"'},
        )
        assert said == "", said

    async def node(self) -> str:
        """The node of the active image, found by its name."""
        return str((await self._device())["inserted"]["node-name"])

    async def _device(self) -> dict[str, Any]:
        active = Path((await self._disk()).source).name
        for device in self.scene.machine.qmp("query-block"):
            inserted = device.get("inserted")
            if inserted and Path(inserted["image"]["filename"]).name == active:
                return dict(device)
        raise AssertionError(f"QEMU has {active} on none of its devices")

    async def _disk(self) -> DomainDisk:
        disks = {disk.target: disk for disk in await self.scene.disks()}
        return disks[self.target]

    def _new(self) -> Path:
        self._count += 1
        self._next = self.folder / f"{self._count}.qcow2"
        return self._next

    @staticmethod
    def _job(node: str, image: Path, **more: str) -> dict[str, Any]:
        target = {"target": str(image), "format": "qcow2", "mode": "existing"}
        return {"job-id": "backup", "device": node, **target, **more}

    async def _run(self, *actions: dict[str, Any]) -> None:
        qmp = self.scene.machine.qmp
        for action in actions:
            if action["type"] == "drive-backup":
                action["data"]["auto-dismiss"] = False
        qmp("transaction", actions=list(actions))
        while True:
            (job,) = [job for job in qmp("query-jobs") if job["id"] == "backup"]
            if job["status"] == "concluded":
                break
            await asyncio.sleep(0.01)
        assert "error" not in job, job
        qmp("job-dismiss", id="backup")
        self.last = self._next
