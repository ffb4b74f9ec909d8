"""update_metadata: the catalog learns it, then the old images are retired."""

from __future__ import annotations

from sqlite_utils import Database

from ..journal import runs
from ..journal.model import CatalogChange, DiskChange, FoldPlan
from .context import Context, Move
from .hold import nothing_else
from .passes import onward
from .retire import retire
from .retire_memory import retire_memory


async def update_metadata(ctx: Context) -> Move:
    """Record the new truth in one transaction, then remove what is useless.

    Keeps invariant 5. Safe to be killed in: the change of the catalog and each
    removal can be repeated.
    """
    change = CatalogChange(
        ctx.plan.domain,
        ctx.plan.snapshots,
        tuple(
            DiskChange(
                fold.target,
                fold.top.path,
                fold.base.path,
                fold.base.format,
                fold.is_named,
            )
            for fold in ctx.plan.folds
            if not fold.is_stream
        ),
        tuple((kept.target, kept.path) for kept in ctx.plan.kept),
    )
    await ctx.effects.perform(
        "record",
        nothing_else,
        noting=lambda _: lambda db: ctx.definitions.apply(db, change),
        told=lambda _: {
            "snapshots": list(change.snapshots),
            "disks": {
                fold.target: fold.base.path
                for fold in ctx.plan.folds
                if ctx.plan.switches(fold)
            },
        },
    )
    for fold in ctx.plan.folds:
        if ctx.fold_state(fold.target) != "retired":
            await _retire_layers(ctx, fold)
    for retired in ctx.plan.retired:
        await retire(ctx, retired.target, retired.image, lambda db: None)
    for memory in ctx.plan.memories:
        await retire_memory(ctx, memory)
    return Move("proceed") if ctx.row.helper is not None else onward(ctx)


async def _retire_layers(ctx: Context, fold: FoldPlan) -> None:
    """Remove the superseded layers of a fold, the highest first.

    An image is removed before the one that it is based on, so that whatever is left
    after a kill can still be opened.
    """

    def nothing(db: Database) -> None:
        """The fold is retired with its last layer."""

    def retired(db: Database) -> None:
        runs.move_fold(
            db, ctx.key, fold.target, "switched", "retire", "retired", ctx.author
        )

    last = fold.superseded[-1]
    for image in fold.superseded:
        await retire(ctx, fold.target, image, retired if image == last else nothing)
