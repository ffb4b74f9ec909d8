"""Planning a reversion: facts, every reason against it, and what it would discard."""

from __future__ import annotations

import itertools
import os.path
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from ..journal import catalog, runs
from ..journal.errors import CommandFailed, MonitorBusy, Reason, Refused
from ..journal.model import (
    Disk,
    DiskReversion,
    Domain,
    FileId,
    Image,
    OverlayPlan,
    ReversionPlan,
    Snapshot,
    SnapshotDisk,
)
from ..states.stamps import stamp_of
from .overlay_plans import (
    default_overlay,
    exists_already,
    plan_overlay,
    refuse_beside_device,
    refuse_unknown_disks,
    shared_paths,
)
from .reader import Reader
from .secret_files import SecretRefused
from .sizes import held_bytes

#: Stands for a run that is not begun yet, in names that are only looked at.
_NO_RUN: Final = "0" * 12


async def plan_reversion(
    reader: Reader,
    domain_name: str,
    name: str,
    overlays: Mapping[str, str],
    secrets: Mapping[str, str],
    *,
    insist: bool,
    image_folders: Sequence[str] = (),
) -> ReversionPlan:
    """Check everything and plan a revert; changes nothing.

    ``overlays`` gives paths for some targets; others get the name of the frozen image
    with the snapshot's name as extension, and a number when that is taken.
    ``secrets`` names the files with the keys of encrypted images, by target. ``insist``
    accepts images that libvirt manages; ``image_folders`` are searched for images that
    are based on those that would be removed, besides the catalog's. Raises `Refused`
    with all reasons, which do not include that data would be discarded (see
    `discard_reasons`), and `UsageError` for targets that the domain does not have.
    """
    domain = await reader.store.read(lambda db: catalog.domain(db, domain_name))
    snapshot = await reader.store.read(
        lambda db: catalog.snapshot(db, domain_name, name)
    )
    every = await reader.store.read(lambda db: catalog.snapshots(db, domain_name))
    refuse_unknown_disks(domain, overlays.keys())
    reasons = list(
        await reader.store.read(lambda db: runs.open_run_reasons(db, domain_name))
    )
    if (reason := not_valid(snapshot)) is not None:
        reasons.append(reason)
    reasons += reader.hook_reasons(domain)
    powered = await _power_reasons(reader, domain)
    reasons += powered
    if not powered:  # Else that very QEMU has them.
        paths = [disk.source for disk in domain.disks]
        paths += [entry.frozen for entry in snapshot.disks]
        for each in dict.fromkeys(paths):
            reasons += await _use_reasons(reader, domain, snapshot, each)
    entries = {entry.target: entry for entry in snapshot.disks}
    included = [disk for disk in domain.disks if disk.target in entries]
    if not included:
        reasons.append(
            Reason(
                "nothing_to_revert",
                f"{name} includes no disk that {domain_name} has now.",
                f"`backfold snapshot show {domain_name} {name}` lists its disks.",
            )
        )
    folders = await reader.store.read(catalog.image_folders)
    folders = sorted({*folders, *image_folders})
    planner = _DiskPlanner(reader, domain, every, secrets, reasons, insist, folders)
    disks = []
    for disk in included:
        path = overlays.get(disk.target)
        planned = await planner.plan(disk, entries[disk.target], name, path)
        if planned is not None:
            disks.append(planned)
    reasons += shared_paths([disk.overlay for disk in disks])
    if reader.hook.is_program or domain.hook is not None:
        reasons += _bootable_reasons(domain_name, disks)
    if reasons:
        raise Refused(reasons)
    has = {disk.target for disk in domain.disks}
    return ReversionPlan(
        domain_name,
        name,
        reader.boot_id(),
        tuple(disks),
        untouched=tuple(d.target for d in domain.disks if d.target not in entries),
        missing=tuple(target for target in entries if target not in has),
        image_folders=tuple(image_folders),
    )


def _bootable_reasons(domain: str, disks: Sequence[DiskReversion]) -> Iterator[Reason]:
    """Former images that a definition could go on in when its owner is not told.

    One that is removed is set aside before the owner is called; one that stays cannot
    be, since others need its name.
    """
    for disk in disks:
        if disk.stays is not None:
            yield Reason(
                "former_image_stays",
                f"{disk.former.path} would stay under its name ({disk.stays}): if the"
                f" hook of {domain} failed, its definition would go on in that image.",
                f"Let go of the hook (`backfold domain hook {domain} --remove`),"
                f" revert, write the definition by what `backfold domain args {domain}`"
                " prints, and record the hook again.",
                disk.target,
            )


def not_valid(snapshot: Snapshot) -> Reason | None:
    """Why a snapshot's images do not hold its point in time any more, if so."""
    if snapshot.status == "valid":
        return None
    why = snapshot.reason or "its deletion is open"
    return Reason(
        "invalid_snapshot",
        f"The snapshot {snapshot.name} of {snapshot.domain} cannot be reverted to:"
        f" {why}.",
        "Finish its deletion: `backfold recover`, or delete it again.",
    )


def discard_reasons(plan: ReversionPlan) -> Iterator[Reason]:
    """Each disk whose data the revert would discard, and how to keep it."""
    for disk in plan.disks:
        if disk.held:
            since = f" since the snapshot {disk.since}" if disk.since else ""
            yield Reason(
                "would_discard",
                f"{disk.former.path} holds {disk.held} bytes that {plan.domain} wrote"
                f"{since}; the revert would discard them.",
                f"To keep them, take a snapshot first (`backfold snapshot create"
                f" {plan.domain} NAME`). To discard them, add --discard.",
                disk.target,
            )


async def _power_reasons(reader: Reader, domain: Domain) -> list[Reason]:
    """Off means: no answer on the monitor; see `_use_reasons` for what else."""
    try:
        session = domain.monitor and await reader.hypervisor.attach(domain.monitor)
    except MonitorBusy:
        return [
            Reason(
                "monitor_busy",
                f"The monitor {domain.monitor} is in use by another client.",
                "Close the other connection, and shut the domain down.",
            )
        ]
    if session:
        try:
            state = await session.run_state()
        finally:
            await session.close()
        return [
            Reason(
                "domain_running",
                f"The domain {domain.name} is on ({state}): its disks cannot be"
                " exchanged under it.",
                "Shut it down first. If its present state is to be kept, take a"
                " snapshot then.",
            )
        ]
    return []


async def _use_reasons(
    reader: Reader, domain: Domain, snapshot: Snapshot, path: str
) -> list[Reason]:
    """Nobody has an image: no lock, no open file, no command line."""
    disks = [(disk.target, disk.source) for disk in domain.disks]
    disks += [(entry.target, entry.frozen) for entry in snapshot.disks]
    target = next(target for target, image in disks if image == path)
    return [
        Reason(
            "image_in_use",
            f"{path} is in use: {user.what}.",
            "Shut the domain down, or wait until that process ends.",
            target,
        )
        for user in await reader.images.users(path)
    ]


class _DiskPlanner:
    """Plans one disk after another; every reason against it goes to ``reasons``."""

    def __init__(
        self,
        reader: Reader,
        domain: Domain,
        snapshots: Sequence[Snapshot],
        secrets: Mapping[str, str],
        reasons: list[Reason],
        insist: bool,
        folders: Sequence[str],
    ) -> None:
        self._reader = reader
        self._images = reader.images
        self._domain = domain
        self._snapshots = {snapshot.name: snapshot for snapshot in snapshots}
        self._secrets = secrets
        self._reasons = reasons
        self._folders = folders
        self._managed = {} if insist else reader.managed()

    async def plan(
        self, disk: Disk, entry: SnapshotDisk, snapshot: str, path: str | None
    ) -> DiskReversion | None:
        """One disk; None when an image is missing or cannot be read."""
        frozen = Disk(disk.target, entry.frozen, entry.format)
        refuse_beside_device(
            self._images, frozen, () if path is None else (disk.target,)
        )
        if path is None:
            overlay = await self._free_path(entry.frozen, snapshot)
        else:
            overlay = os.path.abspath(path)
            if await self._is_known(overlay):
                self._reasons.append(exists_already(overlay, disk.target))
        planned = await plan_overlay(
            self._images,
            frozen,
            overlay,
            self._secrets.get(disk.target),
            self._reasons,
        )
        if planned is None:
            return None
        await self._check_chain(frozen)
        return await self._former(disk, planned)

    async def _former(self, disk: Disk, planned: OverlayPlan) -> DiskReversion | None:
        """The image that the disk is on: what it holds, and whether it is removed."""
        images = self._images
        file = images.identify(disk.source)
        if file is None:
            self._refuse("missing_image", f"{disk.source} is missing.", disk.target)
            return None
        self._check_managed(disk.target, disk.source, file)
        try:
            header = await images.header(disk.source, disk.format)
            former = Image(
                disk.source, disk.format, file, header.virtual_size, header.data
            )
            # First, so that what is written after it was measured does not go unseen.
            stamp = stamp_of(former, images)
            secret = self._secrets.get(disk.target) if header.encrypted else None
            extents = await images.extents(disk.source, disk.format, secret)
            stays = await self._stays(disk, file)
        except SecretRefused as error:
            self._reasons.append(
                Reason("secret_refused", error.what, error.remedy, disk.target)
            )
            return None
        except CommandFailed as error:
            self._refuse("corrupt_image", error.what, disk.target)
            return None
        held = held_bytes(extents)
        if file == planned.frozen.file:
            held = 0  # The snapshot keeps all of it.
        if stays is None:
            obstacle = images.fence_obstacle(disk.source, _NO_RUN)
            if obstacle is not None:
                self._reasons.append(
                    Reason(
                        "fence_impossible",
                        f"{disk.source} cannot be renamed: {obstacle}.",
                        "Without that, it cannot be removed safely. Remove the"
                        " obstacle.",
                        disk.target,
                    )
                )
        if stamp is None:
            message = f"{disk.source} or its data file is missing."
            self._refuse("missing_image", message, disk.target)
            return None
        since = self._snapshot_below(disk.target)
        return DiskReversion(planned, former, stamp, held, since, stays)

    async def _stays(self, disk: Disk, file: FileId) -> str | None:
        """Why the image that a disk is on must not be removed; None when it may."""
        read = self._reader.store.read
        if not await read(lambda db: catalog.is_ours(db, disk.source)):
            return "no snapshot made it"
        mine = f"disk {disk.target} of domain {self._domain.name}"
        users = await read(lambda db: catalog.users_of_image(db, disk.source))
        if others := [user for user in users if user != mine]:
            return f"{', '.join(others)} needs it"
        folders = {os.path.dirname(os.path.realpath(disk.source)), *self._folders}
        below = (await self._images.dependents(sorted(folders))).get(file)
        if below:
            return f"{', '.join(below)} is based on it"
        return None

    async def _check_chain(self, frozen: Disk) -> None:
        """The frozen image and everything below it is there and sound."""
        chain = await self._reader.chain(frozen.source, frozen.format)
        if chain.broken is not None:
            code, message = chain.broken
            self._refuse(code, message, frozen.target)
        failed = await self._reader.store.read(
            lambda db: runs.failed_flushes(db, self._reader.boot_id())
        )
        for image in chain.images:
            if image.corrupt:
                message = f"{image.path} is marked corrupt."
                self._refuse("corrupt_image", message, frozen.target)
            if image.path in failed:
                message = f"{image.path} could not be flushed at {failed[image.path]}."
                self._refuse("flush_failed", message, frozen.target)
            self._check_managed(frozen.target, image.path, image.file)

    def _check_managed(self, target: str, path: str, file: FileId) -> None:
        if (name := self._managed.get(file)) is not None:
            self._reasons.append(
                Reason(
                    "managed_by_libvirt",
                    f"{path} belongs to libvirt's {name}.",
                    "Revert with libvirt, or insist with --ignore-libvirt and change"
                    " its definition yourself.",
                    target,
                )
            )

    def _refuse(self, code: str, message: str, target: str) -> None:
        self._reasons.append(Reason(code, message, _REMEDY[code], target))

    def _snapshot_below(self, target: str) -> str | None:
        """The snapshot since which a disk's active image has been written to."""
        found = next((s for s in self._snapshots.values() if s.current), None)
        while found is not None and found.disk(target) is None:
            found = self._snapshots.get(found.parent or "")
        return None if found is None else found.name

    async def _free_path(self, frozen: str, snapshot: str) -> str:
        """A name that neither a file nor an image of the catalog has."""
        plain = default_overlay(frozen, snapshot)
        numbered = (f"{plain}-{number}" for number in itertools.count(2))
        for path in itertools.chain([plain], numbered):
            if self._images.identify(path) is None and not await self._is_known(path):
                return path
        raise AssertionError("there are infinitely many names")

    async def _is_known(self, path: str) -> bool:
        known = await self._reader.store.read(lambda db: catalog.image_format(db, path))
        return known is not None


_REMEDY: Final = {
    "missing_image": "Bring the image back to that path.",
    "corrupt_image": "Restore it from a backup, or try `qemu-img check -r all` on a"
    " copy.",
    "unsupported_image": "Give it a plain backing path and format"
    " (`qemu-img rebase -u -F FORMAT`).",
    "flush_failed": "Look at the storage, restart the host, and run `qemu-img check`.",
}
