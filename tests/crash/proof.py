"""Everything read back after a case: writes, snapshots, images, and what is left over.

Nothing here trusts a status: disks and snapshots are read as QEMU reads them, and
compared with what the guest was told to be written.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import time
from glob import glob
from pathlib import Path

from backfold.engine.demo.guest import export_raw, qemu_img
from backfold.journal.model import Snapshot
from crash.scenarios import Scenario
from crash.stage import Copied
from real.owners import Launcher
from real.scene import DOMAIN, header_format

#: What may be found wrong, as sentences for the one who looks for the cause.
Faults = list[str]


def of_living(scene: Copied, power: str, before: int) -> Faults:
    """The guest is as it was: it runs and writes, or is paused; nothing of ours."""
    found = scene.wait_for_run_state(power)
    if found != power:
        return [f"the guest is {found}, not {power}"]
    faults: Faults = []
    if power == "running":
        scene.machine.wait_for_writes(3)
    elif scene.machine.acknowledged() != before:
        faults.append("the paused guest has written")
    if jobs := scene.machine.qmp("query-jobs"):
        faults.append(f"jobs are left: {[job['id'] for job in jobs]}")
    nodes = scene.machine.qmp("query-named-block-nodes")
    opened = {node["file"] for node in nodes if node["drv"] == "file"}
    known = {str(path) for path in scene.images()}
    floppies = {str(path) for path in scene.folder.glob("acknowledged-*.img")}
    written = [n["node-name"] for n in nodes if n["drv"] == "qcow2" and not n["ro"]]
    if len(written) != len(scene.first_disks):
        faults.append(f"open for writing: {written}")
    # A node keeps the name that it was opened by: an image that was fenced and got
    # its name back is known by it again.
    if left := {name for name in opened - known - floppies}:
        faults.append(f"nodes are left: {sorted(left)}")
    return faults


def of_bitmap(scene: Copied, name: str) -> Faults:
    """The living disk has its bitmap, and nothing of ours is left beside it."""
    bitmaps = {
        node["node-name"]: node.get("dirty-bitmaps", [])
        for node in scene.machine.qmp("query-named-block-nodes", flat=True)
    }
    active = [
        device["inserted"]["node-name"]
        for device in scene.machine.qmp("query-block")
        if device.get("inserted") and device["inserted"]["drv"] == "qcow2"
    ]
    faults = []
    for node in active:
        found = [b for b in bitmaps[node] if b.get("name") == name]
        if not found or not found[0]["recording"] or found[0].get("inconsistent"):
            faults.append(f"LOST: the bitmap of {node} is {found}")
    named = {b["name"] for each in bitmaps.values() for b in each if "name" in b}
    if left := named - {name}:
        faults.append(f"bitmaps are left: {sorted(left)}")
    return faults


async def of_launcher(scene: Copied, *, at_rest: bool) -> Faults:
    """With everything off: it boots what `domain show` names, or nothing at all.

    ``at_rest``, it boots; unless nothing has ever changed, and it was never written.
    """
    launcher = Launcher(scene.folder).disks
    async with scene.new_engine() as engine:
        disks = {disk.target: disk.source for disk in await engine.disks(DOMAIN)}
    boots = bool(launcher) and all(Path(path).exists() for path in launcher.values())
    if (boots or (at_rest and launcher)) and launcher != disks:
        return [f"LOST: it would boot from {launcher}, not from {disks}"]
    return []


async def of_dead(
    scene: Copied, run: str, scenario: Scenario, leaks: bool
) -> tuple[int, Faults]:
    """With everything off: writes verified, and what is lost or left over.

    Args:
        scene: Its guest has ended.
        run: The deletion.
        scenario: What it deleted, where.
        leaks: Whether lower images may have leaked clusters, as after a SIGKILL of
            QEMU in the middle of a copy. The active images always may.
    """
    faults = _journal(scene)
    async with scene.new_engine() as engine:
        disks = await engine.disks(DOMAIN)
        snapshots = await engine.catalog.snapshots(DOMAIN)
        deletion = await engine.deletion(run)
    raw = scene.folder / "verified.raw"
    written = scene.ledger.last_acknowledged()
    for number, disk in enumerate(disks):
        if disk.broken is not None:
            faults.append(f"{disk.target} cannot be booted: {disk.broken}")
            continue
        export_raw(Path(disk.source), disk.format, raw)
        verdict = scene.ledger.verify(raw, number)
        if not verdict.ok:
            faults.append(f"LOST on {disk.target}: {verdict.lost[:5]}")
    names = {snapshot.name for snapshot in snapshots}
    gone = scenario.order.gone if deletion.state == "completed" else ()
    expected = set(scene.brackets) - set(gone)
    if names != expected:
        faults.append(f"snapshots are {sorted(names)}, not {sorted(expected)}")
    targets = [disk.target for disk in disks]
    for snapshot in snapshots:
        faults += _snapshot(scene, snapshot, targets, scenario, raw)
    chains = {path for disk in disks for path in disk.chain}
    for snapshot in snapshots:
        for entry in snapshot.disks:
            chains |= _chain(entry.frozen, entry.format)
    active = {disk.source for disk in disks}
    there = {str(path) for path in scene.images()}
    needed = chains | {str(scene.images_folder / name) for name in scenario.left}
    if there != needed:
        faults.append(f"files and chains differ: {sorted(there ^ needed)}")
    recorded = {path for path, *_ in scene.rows("images")}
    # What no snapshot made is left, and stays recorded.
    known = chains | {str(scene.images_folder / name) for name in scenario.order.left}
    if recorded != known:
        faults.append(f"catalog and chains differ: {sorted(recorded ^ known)}")
    for path in sorted(there & chains):
        faults += _unsound(path, leaks or path in active)
    return written, faults + _left_over(scene, run)


def _journal(scene: Copied) -> Faults:
    faults = []
    if found := scene.open_runs():
        faults.append(f"still open: {found}")
    if scene.rows("deletions where hold is not null or helper is not null"):
        faults.append("the journal still has a hold or a helper")
    if scene.rows("snapshots where status = 'deleting'"):
        faults.append("a snapshot is still being deleted")
    return faults


def _chain(path: str, format: str) -> set[str]:
    """An image and all below it, by their headers."""
    found = qemu_img(
        "info", "-f", format, "--backing-chain", "--output=json", Path(path)
    )
    return {str(image["filename"]) for image in json.loads(found)}


def _snapshot(
    scene: Copied,
    snapshot: Snapshot,
    targets: list[str],
    scenario: Scenario,
    raw: Path,
) -> Faults:
    """A valid snapshot holds its instant, the same on all disks.

    What a commit has written into may be invalid; a stream leaves all of them valid.
    """
    if snapshot.status != "valid":
        is_written = scenario.order.strategy == "commit"
        gone = is_written and snapshot.name in scenario.order.gone
        excused = gone and snapshot.status == "invalid"
        return [] if excused else [f"{snapshot.name} is {snapshot.status}"]
    low, high = scene.brackets[snapshot.name]
    faults: Faults = []
    cuts = []
    for entry in snapshot.disks:
        export_raw(Path(entry.frozen), entry.format, raw)
        number = targets.index(entry.target)
        ledger = scene.ledger_of(snapshot.name)
        verdict = ledger.verify(raw, number, low=low, high=high)
        if verdict.cut is None:
            where = f"{snapshot.name} on {entry.target}"
            faults.append(f"LOST in {where}: {verdict.lost[:5]}")
        else:
            cuts.append(verdict.cut)
    if cuts and max(cut[0] for cut in cuts) > min(cut[1] for cut in cuts):
        faults.append(f"LOST: the disks of {snapshot.name} are of two instants")
    return faults


def _unsound(path: str, may_leak: bool) -> Faults:
    if header_format(path) == "raw":
        return []
    check = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True
    )
    if check.returncode in ({0, 3} if may_leak else {0}):
        return []
    return [f"qemu-img check of {path}: {check.stdout} {check.stderr}"]


def _left_over(scene: Copied, run: str) -> Faults:
    faults: Faults = []
    end = time.monotonic() + 30
    while (helpers := scene.helpers()) and time.monotonic() < end:
        time.sleep(0.02)
    if helpers:
        faults.append(f"processes are left: {helpers}")
    sockets = [f"{place}/{run}-*" for place in ("/run/backfold", "/tmp/backfold-*")]
    if found := [path for place in sockets for path in glob(place)]:
        faults.append(f"sockets are left: {found}")
    for lock in scene.locks.iterdir():
        handle = os.open(lock, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            faults.append(f"the lock {lock.name} is still held")
        finally:
            os.close(handle)
    return faults
