"""A creation, planned and driven: taking a snapshot, all disks or none."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Mapping
from dataclasses import replace

from ..journal import catalog, runs
from ..journal.errors import MonitorBusy, Reason, Refused, UsageError
from ..journal.model import CreationPlan, OverlayPlan
from ..states.creation import CREATION
from ..states.new_overlays import identify_overlays_again
from ..states.ports import LiveChain
from ..states.take_snapshot import HANDLERS, CreationContext
from .memory_files import memory_obstacles
from .names import valid_name
from .overlay_plans import (
    default_overlay,
    plan_overlay,
    refuse_beside_device,
    refuse_unknown_disks,
    shared_paths,
)
from .planned_run import PlannedRun
from .reader import Reader


class CreationRun(PlannedRun[CreationContext]):
    """Drives one creation from the state that it is in."""

    declaration = CREATION
    handlers = HANDLERS
    safe = "The disks are switched together or not at all."

    async def refresh(self) -> None:
        """Read the run again, with the device numbers of this boot."""
        row = await self.store.read(lambda db: runs.creation(db, self.key.id))
        plan = identify_overlays_again(row.plan, self.ctx.images, self.clock.boot_id())
        self.ctx.row = replace(row, plan=plan)

    async def disconnect(self) -> None:
        """Leave the monitor to others; the next state looks anew."""
        session, self.ctx.session = self.ctx.session, None
        if session is not None:
            await session.close()


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
    secrets: Mapping[str, str],
) -> CreationPlan:
    """Check everything and plan a creation; changes nothing.

    ``overlays`` gives paths for some targets; others get the name of the image
    below with the snapshot's name as extension. ``memory`` is the file that holds
    the guest's memory; with it, every disk may be left out. ``secrets`` names the files
    with the keys of encrypted images, by target. Raises `Refused` with all
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
    refuse_unknown_disks(domain, {*overlays, *exclude})
    if len(domain.disks) > len(exclude):
        reasons += reader.hook_reasons(domain)
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
        refuse_beside_device(reader.images, disk, overlays)
        planned = await plan_overlay(
            reader.images,
            disk,
            os.path.abspath(path),
            secrets.get(disk.target),
            reasons,
        )
        if planned is None:
            continue
        plans.append(planned)
        await _check_live(reader, planned, power, chains, reasons)
    reasons += shared_paths(plans)
    if reasons:
        raise Refused(reasons)
    return CreationPlan(
        domain_name, name, power, reader.boot_id(), tuple(plans), memory=memory
    )


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
