"""A running domain whose snapshots somebody else took is adopted and tidied up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from backfold.journal.errors import Refused
from backfold.journal.model import Disk
from real.scene import DOMAIN, NoGuard, Scene, play


def take_by_hand(scene: Scene, name: str) -> None:
    """Put overlays on all disks in one transaction, as any tool does."""
    low = scene.machine.acknowledged()
    devices = [
        device
        for device in scene.machine.qmp("query-block")
        if (inserted := device.get("inserted"))
        and str(scene.images_folder) in inserted["file"]
    ]
    actions = []
    for device in devices:
        stem = device["inserted"]["file"].split(".")[0]
        overlay = {"snapshot-file": f"{stem}.{name}", "format": "qcow2"}
        data = {"device": device["device"], **overlay}
        actions.append({"type": "blockdev-snapshot-sync", "data": data})
    scene.machine.qmp("transaction", actions=actions)
    assert len(devices) == len(scene.first_disks)
    scene.brackets[name] = (low, scene.machine.acknowledged())


async def record_again(scene: Scene, name: str) -> None:
    """Forget the domain, and record it with the images that it has now."""
    await scene.engine.catalog.remove_domain(DOMAIN)
    disks = [
        Disk(d.target, f"{d.source.split('.')[0]}.{name}", "qcow2")
        for d in scene.first_disks
    ]
    await scene.engine.add_domain(DOMAIN, disks, str(scene.machine.monitor))


def test_a_running_chain_is_adopted_and_deleted(tmp_path: Path) -> None:
    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            for name in ("s1", "s2", "s3"):
                await scene.write()
                await asyncio.to_thread(take_by_hand, scene, name)
            # The catalog does not know what QEMU has: nothing is adopted.
            with pytest.raises(Refused) as refused:
                await scene.engine.adopt(DOMAIN)
            assert {r.code for r in refused.value.reasons} == {"chain_differs"}
            seen = await scene.engine.check(DOMAIN)
            assert {f.code for f in seen.findings} == {"chain_differs", "orphan_image"}
            assert {f.disk for f in seen.findings} == {"vda", None}

            await record_again(scene, "s3")
            adopted = await scene.engine.adopt(DOMAIN)
            assert adopted.power == "running"
            assert [s.name for s in adopted.snapshots] == ["s1", "s2", "s3"]
            assert (await scene.engine.check(DOMAIN)).findings == ()
            await scene.verify_data()

            await scene.delete("s2")
            await scene.delete("s3")
            await scene.write()
            assert (await scene.engine.check(DOMAIN, fix=True)).findings == ()
            left = await scene.engine.catalog.snapshots(DOMAIN)
            assert [(s.name, s.current) for s in left] == [("s1", True)]
            assert len(scene.images()) == 2
            await scene.verify()

    play(story())
