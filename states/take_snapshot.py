"""The states of a creation: make overlays, switch to them, record the snapshot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from sqlite_utils import Database

from ..journal import catalog
from ..journal.errors import CommandFailed
from ..journal.model import CreationPlan, FileId, OverlayPlan
from ..journal.runs import CreationRow, RunKey
from .context import Move, Stuck
from .ports import Clock, Hypervisor, Images, LiveImage, Session

T = TypeVar("T")


class Effects(Protocol):
    """The one place where effects happen: the runner."""

    async def perform(self, step: str, work: Callable[[], Awaitable[T]]) -> T:
        """Announce a step, do it, note it."""


@dataclass
class CreationContext:
    """One run of a creation, in one engine; ``resumed`` after a kill."""

    key: RunKey
    row: CreationRow
    monitor: str | None
    hypervisor: Hypervisor
    images: Images
    clock: Clock
    effects: Effects
    read: Callable[[Callable[[Database], Any]], Awaitable[Any]]
    resumed: bool
    session: Session | None = None

    @property
    def plan(self) -> CreationPlan:
        """What is to be done."""
        return self.row.plan

    async def connect(self) -> Session | None:
        """The domain's living QEMU, or None."""
        if self.session is None and self.monitor is not None:
            self.session = await self.hypervisor.attach(self.monitor)
        return self.session


async def planned(ctx: CreationContext) -> Move:
    """Make the overlays. After a kill: remove them, the guest has not seen them."""
    if ctx.resumed:
        await ctx.effects.perform("remove_overlays", lambda: _remove(ctx))
        return Move("undo", {"because": "interrupted before the switch"})

    async def make() -> None:
        for overlay in ctx.plan.overlays:
            await ctx.images.create_overlay(overlay)

    try:
        await ctx.effects.perform("make_overlays", make)
    except CommandFailed as error:
        await ctx.effects.perform("remove_overlays", lambda: _remove(ctx))
        return Move("undo", {"because": error.what})
    return Move("made")


async def overlays_made(ctx: CreationContext) -> Move:
    """Switch all disks at one instant, and read the graph back.

    Safe to be killed in: QEMU switches all disks or none, and the overlays are
    durable before. What happened is found by the graph, or with QEMU gone by which
    images hold data.
    """
    session = await ctx.connect()
    if session is None:
        if ctx.plan.power == "off" or not await _overlays_hold_data(ctx):
            if ctx.plan.power == "off" and not ctx.resumed:
                return Move("switched")
            await ctx.effects.perform("remove_overlays", lambda: _remove(ctx))
            return Move("undo", {"because": "the disks were not switched"})
        return Move("switched")
    active = await _active_images(ctx, session)
    if not _all_on(active, ctx.plan.overlays, ctx.images):
        if ctx.resumed:
            await ctx.effects.perform("remove_overlays", lambda: _remove(ctx))
            return Move("undo", {"because": "interrupted before the switch"})
        pairs = [(plan, active[plan.target]) for plan in ctx.plan.overlays]
        try:
            await ctx.effects.perform(
                "switch", lambda: session.switch_to_overlays(pairs)
            )
        except CommandFailed as error:
            await ctx.effects.perform("remove_overlays", lambda: _remove(ctx))
            return Move("undo", {"because": error.what})
        active = await _active_images(ctx, session)
        if not _all_on(active, ctx.plan.overlays, ctx.images):
            raise CommandFailed(
                "QEMU took the snapshot, but its graph does not show it"
            )
    return Move("switched")


async def switched(ctx: CreationContext) -> Move:
    """Record the snapshot and the new disk sources in one transaction."""

    def record(db: Database) -> None:
        catalog.record_snapshot(db, ctx.plan, ctx.key.id, ctx.row.started)

    return Move("recorded", unit=record)


HANDLERS: Final[Mapping[str, Callable[[CreationContext], Awaitable[Move]]]] = {
    "planned": planned,
    "overlays_made": overlays_made,
    "switched": switched,
}


async def _active_images(
    ctx: CreationContext, session: Session
) -> dict[str, LiveImage]:
    """The active image of each disk, found by the frozen image or the overlay."""
    found: dict[str, LiveImage] = {}
    chains = await session.chains({})
    for plan in ctx.plan.overlays:
        wanted = {plan.frozen.file, ctx.images.identify(plan.overlay)}
        for chain in chains:
            if chain.images and chain.images[0].file in wanted:
                found[plan.target] = chain.images[0]
    missing = [p.target for p in ctx.plan.overlays if p.target not in found]
    if missing:
        raise CommandFailed(
            f"QEMU has neither the old nor the new image of {', '.join(missing)}."
        )
    return found


def _all_on(
    active: Mapping[str, LiveImage], overlays: tuple[OverlayPlan, ...], images: Images
) -> bool:
    return all(
        active[plan.target].file == images.identify(plan.overlay) for plan in overlays
    )


async def _overlays_hold_data(ctx: CreationContext) -> bool:
    """With QEMU gone: whether the switch was taken. Raises `Stuck` if nobody can tell.

    A guest that was switched writes into overlays only, one that was not into the
    old images only.
    """
    taken = [
        not await ctx.images.is_empty(plan.overlay, "qcow2")
        for plan in ctx.plan.overlays
        if ctx.images.identify(plan.overlay) is not None
    ]
    changed = [
        plan.frozen.path
        for plan in ctx.plan.overlays
        if ctx.images.stamp(plan.frozen.path) != plan.frozen_stamp
    ]
    if any(taken) and changed and ctx.plan.power == "paused":
        raise Stuck(
            f"The new overlays hold data, and {', '.join(changed)} changed too.",
            "Backfold cannot tell which one the guest wrote last; nothing was touched.",
            "The guide's chapter on rescue by hand says how to compare them.",
        )
    return any(taken)


async def _remove(ctx: CreationContext) -> None:
    """Remove the overlays of this creation, by way of the fence's name.

    Only while they are empty: an overlay with data is never removed.
    """
    for plan in ctx.plan.overlays:
        fence = ctx.images.fence_name(plan.overlay, ctx.key.id)
        for path in (plan.overlay, fence):
            file: FileId | None = ctx.images.identify(path)
            if file is None or not await _is_ours_and_empty(ctx, plan, path):
                continue
            if path != fence:
                await ctx.images.rename(path, fence, file)
            await ctx.images.unlink(fence, file)
            break


async def _is_ours_and_empty(
    ctx: CreationContext, plan: OverlayPlan, path: str
) -> bool:
    try:
        header = await ctx.images.header(path, "qcow2")
        return header.backing == plan.link and await ctx.images.is_empty(path, "qcow2")
    except CommandFailed:
        return False
