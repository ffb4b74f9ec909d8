"""The states of a reversion: new overlays, the catalog, then the former images."""

from __future__ import annotations

import os.path
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import CommandFailed, MonitorBusy
from ..journal.model import DiskReversion, FileStamp, Image, ReversionPlan
from ..journal.runs import ReversionRow, RunKey
from .context import Move, Stuck, Unit
from .identities import image_again
from .new_overlays import remove_unused
from .overlays_told import ask_owner, told_or_stuck
from .owner import Owner
from .ports import Hypervisor, Images
from .retire import name_of, removal
from .stamps import stamp_of
from .told import size_of

T = TypeVar("T")


class Effects(Protocol):
    """The one place where effects happen: the runner."""

    async def perform(
        self,
        step: str,
        work: Callable[[], Awaitable[T]],
        *,
        intent: Mapping[str, Any] | None = None,
        noting: Callable[[T], Unit | None] | None = None,
        told: Callable[[T], Mapping[str, Any]] | None = None,
    ) -> T:
        """Announce a step, do it, note it."""


@dataclass
class ReversionContext:
    """One run of a reversion, in one engine; ``resumed`` after a kill or an error."""

    key: RunKey
    row: ReversionRow
    monitor: str | None
    hypervisor: Hypervisor
    images: Images
    owner: Owner
    effects: Effects
    read: Callable[[Callable[[Database], Any]], Awaitable[Any]]
    resumed: bool

    @property
    def plan(self) -> ReversionPlan:
        """What is to be done."""
        return self.row.plan


async def planned(ctx: ReversionContext) -> Move:
    """Make the overlays. After a kill: remove them, nothing uses them."""
    if ctx.resumed:
        return await _undo(ctx, "interrupted before it was recorded")

    if (because := await ask_owner(ctx.owner, ctx.plan.overlays)) is not None:
        return await _undo(ctx, because)

    async def make() -> None:
        for overlay in ctx.plan.overlays:
            await ctx.images.create_overlay(overlay)

    try:
        await ctx.effects.perform(
            "make_overlays",
            make,
            told=lambda _: {
                "disks": {made.target: made.overlay for made in ctx.plan.overlays}
            },
        )
    except CommandFailed as error:
        return await _undo(ctx, error.what)
    return Move("made")


async def overlays_made(ctx: ReversionContext) -> Move:
    """Change disk sources and current snapshot in one transaction.

    Keeps invariants 1 and 4. Safe to be killed in: until the transaction is durable
    the former images are the disks and nothing of them was touched, so that whoever
    comes after a kill only removes the empty overlays.
    """
    if ctx.resumed:
        return await _undo(ctx, "interrupted before it was recorded")
    images = [disk.overlay.frozen for disk in ctx.plan.disks]
    images += [disk.former for disk in ctx.plan.disks]
    paths = [path for image in images for path in image.paths]
    try:
        await ctx.effects.perform(
            "sync_images",
            lambda: ctx.images.sync(paths),
            told=lambda _: {"images": list(paths)},
        )
        found = await _obstacle(ctx)
    except CommandFailed as error:
        found = error.what
    if found is not None:
        return await _undo(ctx, found)
    plan = ctx.plan

    def record(db: Database) -> None:
        catalog.record_reversion(db, plan, ctx.key.id)

    return Move("recorded", unit=record)


async def recorded(ctx: ReversionContext) -> Move:
    """Remove the former images that nothing needs any more.

    Keeps invariants 2 and 5. Safe to be killed in: each is renamed to the fence's
    name (announced with device and inode) before exactly that name is unlinked, and
    both can be repeated. Between the two the owner of the definition is told, so that
    a definition which has not learned of the overlays boots nothing. When a former
    image cannot be set aside the owner is told all the same, unless somebody has
    written into it: then nobody can tell which one is wanted.
    """
    removed = [disk for disk in ctx.plan.disks if disk.stays is None]
    obstacle: Stuck | None = None
    for disk in removed:
        try:
            await _set_aside(ctx, disk)
        except Stuck as error:
            obstacle = obstacle or error
    if not any(has_changed(disk, ctx.images, ctx.key.id) for disk in removed):
        await told_or_stuck(
            ctx.owner,
            (),
            "The disks are on their new overlays, and nothing was removed. The"
            " definition may name a file that does not exist any more"
            + "".join(
                f", or {disk.former.path}, which stays: do not boot from it"
                for disk in ctx.plan.disks
                if disk.stays is not None
            )
            + ".",
        )
    if obstacle is not None:
        raise obstacle
    for disk in removed:
        await _remove(ctx, disk)
    return Move("retired")


HANDLERS: Final[Mapping[str, Callable[[ReversionContext], Awaitable[Move]]]] = {
    "planned": planned,
    "overlays_made": overlays_made,
    "recorded": recorded,
}


def has_changed(disk: DiskReversion, images: Images, run: str) -> bool:
    """Whether somebody wrote into a former image since the revert was planned."""
    name = name_of(disk.former, images.fence_name(disk.former.path, run), images)
    return name is not None and stamp_of(disk.former, images, name) != disk.former_stamp


def identify_reversion_again(
    plan: ReversionPlan, images: Images, run: str, boot_id: str
) -> ReversionPlan:
    """A plan of an earlier boot, with this boot's device numbers.

    As `identify_again` does for a deletion: a file that was replaced keeps its old
    identity.
    """
    if plan.boot_id == boot_id:
        return plan

    def again(disk: DiskReversion) -> DiskReversion:
        frozen = image_again(disk.overlay.frozen, images)
        fence = images.fence_name(disk.former.path, run)
        former = image_again(disk.former, images, fence)
        return replace(
            disk, overlay=replace(disk.overlay, frozen=frozen), former=former
        )

    disks = tuple(again(disk) for disk in plan.disks)
    return replace(plan, boot_id=boot_id, disks=disks)


async def _undo(ctx: ReversionContext, because: str) -> Move:
    """Remove what was made; the edge says what had to be left, and why."""

    async def remove() -> list[str]:
        return await remove_unused(ctx.plan.overlays, ctx.images, ctx.key.id)

    if left := await ctx.effects.perform("remove_overlays", remove):
        because += f" ({', '.join(left)} left alone: in use, or not empty)"
    detail = {"because": because, "left": left}
    return Move("undo", detail, lambda db: runs.put_reason(db, ctx.key, because))


async def _obstacle(ctx: ReversionContext) -> str | None:
    """Why the catalog must not be changed: somebody uses the domain. Only reads."""
    try:
        session = ctx.monitor and await ctx.hypervisor.attach(ctx.monitor)
    except MonitorBusy:
        return "the domain's monitor answers: it was started meanwhile"
    if session:
        await session.close()
        return "the domain was started meanwhile"
    for disk in ctx.plan.disks:
        for image, stamp in (
            (disk.former, disk.former_stamp),
            (disk.overlay.frozen, disk.overlay.frozen_stamp),
        ):
            if (found := await _touched(ctx, image, stamp)) is not None:
                return found
    return None


async def _touched(ctx: ReversionContext, image: Image, stamp: FileStamp) -> str | None:
    users = [user.what for user in await ctx.images.users(image.path)]
    if users:
        return f"{image.path} is in use: {', '.join(users)}"
    if stamp_of(image, ctx.images) != stamp:
        return f"{image.path} was written into since the revert was planned"
    return None


async def _set_aside(ctx: ReversionContext, disk: DiskReversion) -> None:
    """Fence one former image; one that is gone, or moved away, needs none.

    It is looked at again under the fence's name, under which nobody opens it: who
    opened it before has it open still, or has changed it.
    """
    fence = ctx.images.fence_name(disk.former.path, ctx.key.id)
    name = name_of(disk.former, fence, ctx.images)
    if name is None:
        return
    await _prove_useless(ctx, disk, name)
    if name != fence:
        await ctx.effects.perform(
            "set_aside",
            lambda: ctx.images.rename(name, fence, disk.former.file),
            intent=removal(disk.target, disk.former, fence),
        )
        await _prove_useless(ctx, disk, fence)


async def _remove(ctx: ReversionContext, disk: DiskReversion) -> None:
    """Unlink a former image that was set aside, and forget it."""
    fence = ctx.images.fence_name(disk.former.path, ctx.key.id)
    name = name_of(disk.former, fence, ctx.images)
    file = disk.former.file
    intent = removal(disk.target, disk.former, fence)

    def forgotten(_: object) -> Unit:
        return lambda db: catalog.forget_image(db, disk.former.path)

    if name not in (None, fence):
        raise CommandFailed(f"{disk.former.path} has its name back.")
    if name is None and not await ctx.read(
        lambda db: catalog.is_ours(db, disk.former.path)
    ):
        return  # Removed and forgotten by this run before it was killed.

    async def unlink() -> Mapping[str, Any]:
        size = size_of(ctx.images, fence)
        await ctx.images.unlink(fence, file)
        return size

    await ctx.effects.perform(
        "unlink",
        unlink,
        intent=intent,
        noting=forgotten,
        told=lambda freed: freed,
    )


async def _prove_useless(ctx: ReversionContext, disk: DiskReversion, name: str) -> None:
    """Raise `Stuck` unless nothing uses a former image and nobody wrote into it."""
    path, again = disk.former.path, f"run `backfold recover {ctx.key.id}`"
    users = [user.what for user in await ctx.images.users(name)]
    folders = {os.path.dirname(each) for each in (path, name)}
    folders |= {*ctx.plan.image_folders, *await ctx.read(catalog.image_folders)}
    dependents = await ctx.images.dependents(sorted(folders))
    below = dependents.get(disk.former.file, ())
    named = await ctx.read(lambda db: catalog.users_of_image(db, path))
    kept = "It was not removed; the domain boots from its new overlay."
    if found := [*users, *below, *named]:
        raise Stuck(
            f"{name} is no longer a disk of {ctx.plan.domain}, but still in use:"
            f" {', '.join(found)}.",
            kept,
            f"Let go of it, then {again}.",
        )
    if stamp_of(disk.former, ctx.images, name) != disk.former_stamp:
        raise Stuck(
            f"{name} was written into since the revert was planned: somebody booted"
            " from it.",
            kept + " What was written meanwhile is in it alone.",
            f"To keep that, move it to another folder (`mv`); then {again}. Give the"
            " domain that image by hand if it is to go on there.",
        )
