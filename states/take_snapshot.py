"""The states of a creation: make overlays, switch to them, record the snapshot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import CommandFailed, OutcomeUnknown
from ..journal.model import CreationPlan
from ..journal.runs import CreationRow, RunKey
from .context import Move, Stuck
from .new_overlays import Taken, remove_unused, stamped, which_went_on
from .overlays_told import ask_owner, overlays_of, told_or_stuck
from .owner import Owner, OwnerFailed, tell
from .ports import Clock, Hypervisor, Images, LiveImage, Session

T = TypeVar("T")


class Effects(Protocol):
    """The one place where effects happen: the runner."""

    async def perform(
        self,
        step: str,
        work: Callable[[], Awaitable[T]],
        *,
        told: Callable[[T], Mapping[str, Any]] | None = None,
    ) -> T:
        """Announce a step, do it, note it."""


@dataclass
class CreationContext:
    """One run of a creation, in one engine; ``resumed`` after a kill or an error."""

    key: RunKey
    row: CreationRow
    monitor: str | None
    hypervisor: Hypervisor
    images: Images
    clock: Clock
    owner: Owner
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


class Disks(Enum):
    """Where a living QEMU has the disks of a creation."""

    OLD = "on their old images"
    NEW = "on their new overlays"
    MIXED = "some on old images, some on new overlays"


async def planned(ctx: CreationContext) -> Move:
    """Make the overlays. After a kill: remove them, the guest has not seen them."""
    if ctx.resumed:
        return await _undo(ctx, "interrupted before the switch")
    if (because := await ask_owner(ctx.owner, ctx.plan.overlays)) is not None:
        return await _undo(ctx, because)

    async def make() -> None:
        for overlay in ctx.plan.overlays:
            await ctx.images.create_overlay(overlay)
            if ctx.plan.power == "off":
                await ctx.images.continue_bitmaps(overlay)

    try:
        await ctx.effects.perform(
            "make_overlays", make, told=lambda _: {"disks": _overlays(ctx)}
        )
    except CommandFailed as error:
        return await _undo(ctx, error.what)
    return Move("made")


async def overlays_made(ctx: CreationContext) -> Move:
    """Switch all disks at one instant, and read the graph back.

    Safe to be killed in: QEMU switches all disks or none, and the overlays are
    durable before. What happened is found by the graph, or with QEMU gone by which
    images went on. A snapshot of the memory alone switches nothing.

    Whoever owns the definition is told before: an empty overlay shows what the image
    below it does, so that both names lead to the same data until QEMU has switched.
    """
    if not ctx.plan.overlays:
        return await _switched(ctx)
    if not ctx.resumed and (because := await _not_told(ctx)) is not None:
        return await _go_back(ctx, because)
    session = await ctx.connect()
    if session is None:
        fresh = ctx.plan.power == "off" and not ctx.resumed
        if fresh and not ctx.owner.is_there:
            return await _switched(ctx)
        went_on = await _went_on(ctx)
        if went_on is Taken.OVERLAYS or (fresh and went_on is Taken.EITHER):
            return await _switched(ctx)
        return await _go_back(ctx, "the disks were not switched")
    active = await _active_images(ctx, session)
    found = _where(active, ctx)
    if found is Disks.OLD:
        if ctx.resumed:
            return await _go_back(ctx, "interrupted before the switch")
        pairs = [(plan, active[plan.target]) for plan in ctx.plan.overlays]
        try:
            await ctx.effects.perform(
                "switch",
                lambda: session.switch_to_overlays(pairs),
                told=lambda _: {"disks": _overlays(ctx)},
            )
        except CommandFailed as error:
            return await _go_back(ctx, error.what)
        found = _where(await _active_images(ctx, session), ctx)
        if found is Disks.OLD:
            raise CommandFailed(
                "QEMU took the snapshot, but its graph does not show it"
            )
    if found is Disks.MIXED:
        raise _mixed(ctx)
    return await _switched(ctx)


async def switched(ctx: CreationContext) -> Move:
    """Record the snapshot and the new disk sources in one transaction.

    Whoever comes after a kill looks again: a domain that was booted from its old
    images meanwhile, as the catalog told, keeps them, since what it has written is
    there.
    """
    if ctx.resumed and ctx.plan.overlays:
        session = await ctx.connect()
        if session is None:
            old = await _went_on(ctx) is Taken.OLD_IMAGES
        else:
            found = _where(await _active_images(ctx, session), ctx)
            if found is Disks.MIXED:
                raise _mixed(ctx)
            old = found is Disks.OLD
            if old and await which_went_on(ctx.plan, ctx.images) in (
                Taken.OVERLAYS,
                Taken.BOTH,
            ):
                raise _both(ctx)
        if old:
            return await _go_back(ctx, "the domain went on in its old images")

    def record(db: Database) -> None:
        catalog.record_snapshot(db, ctx.plan, ctx.key.id, ctx.row.started)

    return Move("recorded", unit=record)


HANDLERS: Final[Mapping[str, Callable[[CreationContext], Awaitable[Move]]]] = {
    "planned": planned,
    "overlays_made": overlays_made,
    "switched": switched,
}


def _overlays(ctx: CreationContext) -> dict[str, str]:
    """The new overlay of each disk."""
    return {overlay.target: overlay.overlay for overlay in ctx.plan.overlays}


async def _not_told(ctx: CreationContext) -> str | None:
    """Why the owner of the definition does not know of the overlays; None if it does.

    It may have changed its definition nonetheless: `_undo` tells it to go back.
    """
    try:
        await tell(ctx.owner, overlays_of(ctx.plan.overlays))
    except OwnerFailed as error:
        return error.because
    return None


async def _switched(ctx: CreationContext) -> Move:
    """The edge to `switched`, with the stamps that the frozen images have now.

    The guest may have come to its overlays by a definition that a dead engine has
    only begun to tell, so that its owner is told again.
    """
    if ctx.plan.overlays:
        await told_or_stuck(
            ctx.owner,
            ctx.plan.overlays,
            "The disks are on their new overlays, which hold every write.",
        )
    frozen = [path for plan in ctx.plan.overlays for path in plan.frozen.paths]
    await ctx.effects.perform(
        "sync_frozen",
        lambda: ctx.images.sync(frozen),
        told=lambda _: {"images": frozen},
    )
    plan = stamped(ctx.plan, ctx.images)
    return Move("switched", unit=lambda db: runs.put_creation_plan(db, ctx.key, plan))


async def _undo(ctx: CreationContext, because: str) -> Move:
    """Remove what was made; the edge says what had to be left, and why."""

    async def remove() -> list[str]:
        await _close_unused(ctx)
        return await remove_unused(ctx.plan.overlays, ctx.images, ctx.key.id)

    if left := await ctx.effects.perform("remove_overlays", remove):
        because += f" ({', '.join(left)} left alone: in use, or not empty)"
    detail = {"because": because, "left": left}
    return Move("undo", detail, lambda db: runs.put_reason(db, ctx.key, because))


async def _go_back(ctx: CreationContext, because: str) -> Move:
    """Undo, after the owner of the definition has gone back to the old images."""
    await _tell_to_go_back(ctx)
    return await _undo(ctx, because)


async def _tell_to_go_back(ctx: CreationContext) -> None:
    """Tell the owner of the old images, if it may have heard of the overlays.

    Whoever booted from an overlay before it heard has data there: then the overlays
    are taken (`CommandFailed`, and the state looks again). They are not removed while
    a definition may name them (`Stuck`).
    """
    if not await ctx.read(lambda db: runs.announced(db, ctx.key.id, "tell_owner")):
        return
    await told_or_stuck(
        ctx.owner,
        (),
        "The snapshot was not taken, and the domain is on its old images. The new"
        " overlays are empty and were left, since the definition may name them.",
    )
    session = await ctx.connect()
    if session is None:
        taken = await _went_on(ctx) is Taken.OVERLAYS
    else:
        taken = _where(await _active_images(ctx, session), ctx) is not Disks.OLD
    if taken:
        raise CommandFailed("The domain was started from its new overlays meanwhile.")


async def _close_unused(ctx: CreationContext) -> None:
    """Close overlays that a living QEMU has open and uses for nothing yet.

    An encrypted overlay is opened before it is put on its image.
    """
    session = await ctx.connect()
    if session is None:
        return
    overlays = {ctx.images.identify(plan.overlay) for plan in ctx.plan.overlays}
    used = {i.file for chain in await session.chains({}) for i in chain.images}
    loose = [
        image
        for image in await session.open_images({})
        if image.file is not None and image.file in overlays - used
    ]
    if loose:
        await session.drop(loose)


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


def _where(active: Mapping[str, LiveImage], ctx: CreationContext) -> Disks:
    on_new = [
        active[plan.target].file == ctx.images.identify(plan.overlay)
        for plan in ctx.plan.overlays
    ]
    if all(on_new):
        return Disks.NEW
    return Disks.MIXED if any(on_new) else Disks.OLD


async def _went_on(ctx: CreationContext) -> Taken:
    """With QEMU gone: which images went on. Raises `Stuck` if nobody can tell.

    A QEMU whose monitor does not answer may yet hold data that no image shows:
    `OutcomeUnknown`, so that it is asked again for a while.
    """
    for plan in ctx.plan.overlays:
        for path in (plan.overlay, plan.frozen.path):
            users = [user for user in await ctx.images.users(path) if user.holds]
            if users:
                raise OutcomeUnknown(
                    f"{path} is in use ({users[0].what}), but no monitor of the"
                    " domain answers.",
                    remedy="End that process, or make its monitor reachable.",
                )
    found = await which_went_on(ctx.plan, ctx.images)
    if found is Taken.BOTH:
        raise _both(ctx)
    return found


def _both(ctx: CreationContext) -> Stuck:
    return Stuck(
        f"The new overlays of {_targets(ctx)} hold data, and the images below them"
        " were changed since.",
        "Backfold cannot tell which one the guest wrote last; nothing was touched.",
        "The guide's chapter on rescue by hand says how to compare them.",
    )


def _mixed(ctx: CreationContext) -> Stuck:
    return Stuck(
        f"QEMU has some of {_targets(ctx)} on old images and some on new overlays.",
        "No snapshot switches only some disks: somebody started QEMU so. Nothing was"
        " touched.",
        "Start the domain from the old images or from the overlays, then run recover.",
    )


def _targets(ctx: CreationContext) -> str:
    return ", ".join(plan.target for plan in ctx.plan.overlays)
