"""update_metadata: the catalog learns it, then the old images are retired."""

from __future__ import annotations

import os.path

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.model import CatalogChange, DiskChange, FoldPlan
from .context import Context, Move, Stuck, Unit
from .hold import nothing_else


async def update_metadata(ctx: Context) -> Move:
    """Record the new truth in one transaction, then remove what is useless.

    Keeps invariant 5. Safe to be killed in: the change of the catalog and each
    removal can be repeated, and an image is renamed to the fence's name (announced
    with device and inode) before exactly that name is unlinked.
    """
    change = CatalogChange(
        ctx.plan.domain,
        ctx.plan.snapshot,
        tuple(
            DiskChange(
                fold.target,
                fold.top.path,
                fold.base.path,
                fold.base.format,
                fold.is_active,
            )
            for fold in ctx.plan.folds
        ),
    )

    def recorded(_: None) -> Unit:
        return lambda db: ctx.definitions.apply(db, change)

    await ctx.effects.perform("record", nothing_else, noting=recorded)
    for fold in ctx.plan.folds:
        if ctx.fold_state(fold.target) != "retired":
            await _retire(ctx, fold)
    return Move("proceed")


async def _retire(ctx: Context, fold: FoldPlan) -> None:
    """Remove the superseded image of a fold, after a proof that nothing uses it."""
    fence = ctx.fence(fold)
    ours = await ctx.read(lambda db: catalog.is_ours(db, fold.top.path))
    name = next(
        (
            path
            for path in (fence, fold.top.path)
            if ctx.images.identify(path) == fold.top.file
        ),
        None,
    )
    intent = {
        "disk": fold.target,
        "image": fold.top.path,
        "fence": fence,
        "device": fold.top.file.device,
        "inode": fold.top.file.inode,
    }

    def retired(_: None) -> Unit:
        def forget(db: Database) -> None:
            runs.move_fold(
                db,
                ctx.key,
                fold.target,
                "switched",
                "retire",
                "retired",
                ctx.author,
            )
            catalog.forget_image(db, fold.top.path)

        return forget

    # A block device is not ours, and its name is nobody's to change.
    if name is not None and not fold.top.file.is_block_device:
        await _prove_useless(ctx, fold, name)
        if name != fence:
            await ctx.effects.perform(
                "set_aside",
                lambda: ctx.images.rename(fold.top.path, fence, fold.top.file),
                intent=intent,
            )

    async def unlink() -> None:
        if ours:
            await ctx.images.unlink(fence, fold.top.file)

    await ctx.effects.perform("unlink", unlink, intent=intent, noting=retired)
    await ctx.refresh()


async def _prove_useless(ctx: Context, fold: FoldPlan, name: str) -> None:
    users = [user.what for user in await ctx.images.users(name) if user.holds]
    folders = {os.path.dirname(fold.top.path), os.path.dirname(name)}
    below = await ctx.images.dependents(fold.top.file, sorted(folders))
    named = await ctx.read(lambda db: catalog.users_of_image(db, fold.top.path))
    if found := [*users, *below, *named]:
        raise Stuck(
            f"{name} is superseded but still in use: {', '.join(found)}.",
            "It was not removed; the domain no longer needs it.",
            f"Let go of it, then run `backfold recover {ctx.id}`.",
        )
