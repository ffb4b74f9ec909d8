"""A creation, planned and driven: taking a snapshot, all disks or none."""

from __future__ import annotations

import os.path
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..journal import catalog, runs
from ..journal.errors import (
    CommandFailed,
    MonitorBusy,
    OutcomeUnknown,
    Reason,
    Refused,
    UsageError,
)
from ..journal.model import CreationPlan, Disk, Image, OverlayPlan
from ..states.context import Stuck
from ..states.creation import CREATION
from ..states.new_overlays import identify_overlays_again
from ..states.ports import LiveChain
from ..states.stamps import stamp_of
from ..states.take_snapshot import HANDLERS, CreationContext
from .facts import unsupported
from .memory_files import memory_obstacles
from .reader import Reader
from .runner import Runner

#: How often in a row a failed call is met before the run is left open.
FAILURE_LIMIT: Final = 5
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*")


def valid_name(what: str, name: str) -> str:
    """A name that is safe in file names and terminals. Raises `UsageError`."""
    if not _NAME.fullmatch(name) or len(name) > 100:
        raise UsageError(
            f"{name!r} cannot be the name of a {what}.",
            remedy="Use letters, digits and _ . : @ + -, beginning with a letter,"
            " a digit or _; 100 characters at most.",
        )
    return name


@dataclass
class CreationModel:
    """The creation's machine has no guards."""

    state: str = CREATION.initial


class CreationRun(Runner):
    """Drives one creation from the state that it is in."""

    declaration = CREATION
    ctx: CreationContext

    @property
    def state(self) -> str:
        """The state that the journal has."""
        return self.ctx.row.state

    @property
    def subject(self) -> tuple[str, str]:
        """Domain and snapshot of the run."""
        return self.ctx.row.domain, self.ctx.row.snapshot

    def model(self) -> CreationModel:
        """Nothing to look at."""
        return CreationModel()

    async def refresh(self) -> None:
        """Read the run again, with the device numbers of this boot."""
        row = await self.store.read(lambda db: runs.creation(db, self.key.id))
        plan = identify_overlays_again(row.plan, self.ctx.images, self.clock.boot_id())
        self.ctx.row = replace(row, plan=plan)

    async def run(self) -> str:
        """Go on until a final state. Raises `Stuck` when the run stays open."""
        errors = 0
        while self.state not in CREATION.final:
            try:
                move = await HANDLERS[self.state](self.ctx)
            except (OutcomeUnknown, CommandFailed, MonitorBusy) as error:
                errors += 1
                await self.alarm(f"{self.state}: {error.what}")
                session, self.ctx.session = self.ctx.session, None
                if session is not None:
                    await session.close()
                if errors >= FAILURE_LIMIT:
                    raise Stuck(
                        error.what,
                        "The disks are switched together or not at all.",
                        f"Run `backfold recover {self.key.id}`.",
                    ) from error
                self.ctx.resumed = True
                await self.clock.sleep(0.1 * 2**errors)
                continue
            await self.fire(move)
        return self.state


def locked_by(plan: CreationPlan) -> list[str]:
    """The files that a creation excludes all others from."""
    frozen = [overlay.frozen.path for overlay in plan.overlays]
    return frozen if plan.memory is None else [*frozen, plan.memory]


async def plan_creation(
    reader: Reader,
    domain_name: str,
    name: str,
    overlays: Mapping[str, str],
    exclude: Collection[str],
    memory: str | None,
) -> CreationPlan:
    """Check everything and plan a creation; changes nothing.

    ``overlays`` gives paths for some targets; others get the name of the image
    below with the snapshot's name as extension. ``memory`` is the file that holds
    the guest's memory; with it, every disk may be left out. Raises `Refused` with all
    reasons, `UsageError` for targets that the domain does not have.
    """
    valid_name("snapshot", name)
    domain = await reader.store.read(lambda db: catalog.domain(db, domain_name))
    reasons = list(
        await reader.store.read(lambda db: runs.open_run_reasons(db, domain_name))
    )
    existing = await reader.store.read(lambda db: catalog.snapshots(db, domain_name))
    if any(snapshot.name == name for snapshot in existing):
        reasons.append(
            Reason(
                "snapshot_exists",
                f"The domain {domain_name} already has a snapshot {name!r}.",
                "Choose another name, or delete that snapshot first.",
            )
        )
    targets = {disk.target for disk in domain.disks}
    if unknown := sorted((set(overlays) | set(exclude)) - targets):
        raise UsageError(
            f"The domain {domain_name} has no disk {', '.join(unknown)}.",
            remedy=f"`backfold domain show {domain_name}` lists its disks.",
        )
    included = [disk for disk in domain.disks if disk.target not in exclude]
    if memory is not None:
        memory = os.path.abspath(memory)
        reasons += await memory_obstacles(reader, memory)
    elif not included:
        raise UsageError(
            "No disk is left to take a snapshot of.",
            remedy="Only a snapshot with a memory file can be without disks.",
        )
    power, chains = "off", tuple[LiveChain, ...]()
    try:
        session = domain.monitor and await reader.hypervisor.attach(domain.monitor)
        if session:
            try:
                running = await session.run_state() == "running"
                power = "running" if running else "paused"
                chains = await session.chains({})
            finally:
                await session.close()
    except MonitorBusy:
        reasons.append(
            Reason(
                "monitor_busy",
                f"The monitor {domain.monitor} is in use by another client.",
                "Close the other connection.",
            )
        )
    plans = []
    for disk in included:
        path = overlays.get(disk.target) or default_overlay(disk.source, name)
        file = reader.images.identify(disk.source)
        if file is not None and file.is_block_device and disk.target not in overlays:
            raise UsageError(
                f"{disk.source} is a block device, and no overlay is made beside it.",
                remedy=f"Say where it goes: --overlay {disk.target}=PATH.",
            )
        planned = await _plan_disk(reader, disk, os.path.abspath(path), reasons)
        if planned is None:
            continue
        plans.append(planned)
        await _check_live(reader, planned, power, chains, reasons)
    paths = [plan.overlay for plan in plans]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        reasons.append(_exists(path, None))
    if reasons:
        raise Refused(reasons)
    return CreationPlan(
        domain_name, name, power, reader.boot_id(), tuple(plans), memory=memory
    )


def default_overlay(source: str, snapshot: str) -> str:
    """The overlay's path: the image's name with the snapshot's as extension."""
    return f"{os.path.splitext(source)[0]}.{snapshot}"


async def _plan_disk(
    reader: Reader, disk: Disk, overlay: str, reasons: list[Reason]
) -> OverlayPlan | None:
    images = reader.images
    file, stamp = images.identify(disk.source), images.stamp(disk.source)
    if file is None or stamp is None:
        reasons.append(
            Reason(
                "missing_image",
                f"{disk.source} is missing.",
                "Bring the image back to that path.",
                disk.target,
            )
        )
        return None
    try:
        header = await images.header(disk.source, disk.format)
    except CommandFailed as error:
        reasons.append(
            Reason("corrupt_image", error.what, "Repair the image.", disk.target)
        )
        return None
    if (why := unsupported(header)) is not None:
        reasons.append(Reason("unsupported_image", *why, disk.target))
    if images.identify(overlay) is not None:
        reasons.append(_exists(overlay, disk.target))
    link = disk.source
    if header.backing is not None and not header.backing.startswith("/"):
        link = os.path.relpath(disk.source, os.path.dirname(overlay))
    image = Image(disk.source, disk.format, file, header.virtual_size, header.data)
    stamp = stamp_of(image, images) or stamp
    return OverlayPlan(disk.target, image, overlay, link, stamp)


async def _check_live(
    reader: Reader,
    plan: OverlayPlan,
    power: str,
    chains: tuple[LiveChain, ...],
    reasons: list[Reason],
) -> None:
    if power != "off":
        active = {chain.images[0].file for chain in chains if chain.images}
        if plan.frozen.file not in active:
            reasons.append(
                Reason(
                    "chain_differs",
                    f"QEMU does not have {plan.frozen.path} as an active image.",
                    "Compare `backfold domain show` with the running QEMU.",
                    plan.target,
                )
            )
        return
    for user in await reader.images.users(plan.frozen.path):
        reasons.append(
            Reason(
                "image_in_use",
                f"{plan.frozen.path} is in use: {user.what}.",
                "If the domain runs, record its monitor (`domain add --monitor`).",
                plan.target,
            )
        )


def _exists(path: str, target: str | None) -> Reason:
    return Reason(
        "overlay_exists",
        f"The new overlay {path} exists already, or two disks would share it.",
        "Choose another path with --overlay TARGET=PATH.",
        target,
    )
