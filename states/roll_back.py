"""roll_back: the domain as it was before, and a snapshot that tells the truth."""

from __future__ import annotations

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import CommandFailed
from ..journal.model import FoldPlan
from .by_hand import completed_by_hand
from .commit_per_disk import forget_jobs
from .context import Context, Move, Position, Stuck, locate
from .hold import release_votes
from .ports import LiveImage, Session
from .start_paused import end_helper


async def roll_back(ctx: Context) -> Move:
    """Undo the declared steps in reverse; ends with the snapshot's true status.

    Keeps invariant 7. Safe to be killed in: each undo can be repeated, and the old
    chain is whole at every moment because no link was ever changed.
    """
    if ctx.row.plan is None:
        return Move("proceed", {"written": []})
    await release_votes(ctx)
    session = await ctx.connect()
    if session is not None:
        await _refuse_to_lose(ctx, session)
        await ctx.effects.perform("cancel_jobs", lambda: _cancel(ctx, session))
        if not session.is_helper:
            await ctx.effects.perform(
                "restore_read_only", lambda: _restore_read_only(ctx, session)
            )
    await end_helper(ctx)
    written = [fold.base.path for fold in ctx.plan.folds if _was_written(ctx, fold)]
    reason = ctx.plan.invalid_before
    if written:
        reason = f"deletion {ctx.id} was given up after it wrote into " + ", ".join(
            written
        )

    def undone(db: Database) -> None:
        for fold in ctx.row.folds:
            if fold.state != "failed":
                runs.move_fold(
                    db,
                    ctx.key,
                    fold.target,
                    fold.state,
                    "cancel",
                    "cancelled",
                    ctx.author,
                )
        status = "valid" if reason is None else "invalid"
        catalog.mark_snapshot(db, ctx.plan.domain, ctx.plan.snapshot, status, reason)

    await ctx.refresh()
    return Move("proceed", {"written": written}, undone)


async def _refuse_to_lose(ctx: Context, session: Session) -> None:
    """The last look: a guest that is on its base by somebody's hand stays there."""
    if disks := await completed_by_hand(ctx, session):
        raise Stuck(
            f"Somebody completed the job of {', '.join(sorted(disks))} while the"
            " deletion was given up.",
            "The guest writes to the base image; nothing is lost as long as it is"
            " booted from there.",
            "Leave its QEMU running, and follow the guide's chapter on rescue by hand.",
        )


def _was_written(ctx: Context, fold: FoldPlan) -> bool:
    """Whether a frozen image changed since the first plan of this run."""
    return ctx.images.stamp(fold.base.path) != fold.base_stamp


async def _cancel(ctx: Context, session: Session) -> None:
    jobs = await session.jobs()
    for fold in ctx.plan.folds:
        if fold.job in jobs and jobs[fold.job].status not in ("concluded", "aborting"):
            await session.cancel(fold.job)
    await forget_jobs(session, ctx.plan.folds)


async def _restore_read_only(ctx: Context, session: Session) -> None:
    """A cancelled active commit leaves its base open for writing (measured)."""
    chains = await ctx.chains(session)
    for fold in ctx.plan.folds:
        chain, position = locate(chains, fold)
        if chain is None or position is not Position.ON_TOP:
            continue
        lower: list[LiveImage] = [
            image
            for image in chain.images[1:]
            if not image.read_only
            and image.file
            in {fold.base.file, None if fold.above is None else fold.above.file}
        ]
        for image in lower:
            try:
                await session.set_writable(image, False)
            except CommandFailed as error:
                await ctx.effects.alarm(f"{image.filename} stays writable: {error}")
