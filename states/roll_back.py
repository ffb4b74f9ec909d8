"""roll_back: the domain as it was before, and a snapshot that tells the truth."""

from __future__ import annotations

from collections.abc import Mapping

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import CommandFailed, OutcomeUnknown
from ..journal.model import FoldPlan
from .by_hand import completed_by_hand
from .carry_bitmaps import has_notes, restore_bitmaps
from .commit_per_disk import forget_jobs
from .context import Context, Move, Position, Stuck, Unit, locate
from .frozen_images import invalid_reason, written_images
from .hold import release_votes
from .ports import Job, LiveChain, Session
from .read_only import restore_read_only
from .start_paused import end_helper
from .told import jobs_by_disk


async def roll_back(ctx: Context) -> Move:
    """Undo the declared steps in reverse; ends with the snapshot's true status.

    Keeps invariant 7. Safe to be killed in: each undo can be repeated, and the old
    chain is whole at every moment because no link was ever changed.
    """
    if ctx.row.plan is None:
        return _given_up(ctx, {})
    await release_votes(ctx)
    session = await ctx.connect()
    if session is not None:
        await _refuse_to_lose(ctx, session)
        await ctx.effects.perform(
            "cancel_jobs",
            lambda: _cancel(ctx, session),
            told=lambda jobs: jobs_by_disk(jobs, ctx.plan.folds),
        )
        await _restore_bitmaps(ctx, session)
        if not session.is_helper:
            await ctx.effects.perform(
                "restore_read_only", lambda: _restore_read_only(ctx, session)
            )
    elif await _may_be_copying(ctx):
        raise OutcomeUnknown(
            f"QEMU has the images of {ctx.plan.domain}, but no monitor of it answers:"
            " a job of this deletion may still run there.",
            remedy="End that process, or make its monitor reachable.",
        )
    await end_helper(ctx)
    written = await written_images(ctx)
    reasons = {
        snapshot: invalid_reason(
            ctx.id,
            ctx.plan.invalid_before.get(snapshot),
            {
                fold.base.path: written[fold.base.path]
                for fold in ctx.plan.folds
                if snapshot in fold.snapshots and fold.base.path in written
            },
        )
        for snapshot in ctx.plan.snapshots
    }

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
        for snapshot, reason in reasons.items():
            status = "valid" if reason is None else "invalid"
            catalog.mark_snapshot(db, ctx.plan.domain, snapshot, status, reason)

    await ctx.refresh()
    return _given_up(ctx, written, undone)


def _given_up(
    ctx: Context, written: Mapping[str, str], undone: Unit | None = None
) -> Move:
    """The end: rolled back, or completed when the snapshots were gone already."""
    detail = {"written": sorted(written)}
    if ctx.row.passes:
        return Move("finish", detail, undone)
    return Move("proceed", detail, undone)


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


async def _may_be_copying(ctx: Context) -> bool:
    """Whether a QEMU that nobody can ask may still write into a frozen image.

    A helper is known by its process, so that one that is gone copies no more.
    """
    if ctx.plan.place == "helper":
        return False
    if not await ctx.read(lambda db: runs.announced(db, ctx.id, "start_job")):
        return False
    users = [await ctx.images.users(fold.survivor.path) for fold in ctx.plan.folds]
    return any(user.holds for found in users for user in found)


async def _cancel(ctx: Context, session: Session) -> Mapping[str, Job]:
    """Cancel the jobs and forget them; returns how they were found."""
    jobs = await session.jobs()
    for fold in ctx.plan.folds:
        if fold.job in jobs and jobs[fold.job].status not in ("concluded", "aborting"):
            await session.cancel(fold.job)
    await forget_jobs(session, ctx.plan.folds)
    return jobs


async def _restore_bitmaps(ctx: Context, session: Session) -> None:
    """What cannot be restored has too much, which is told and does no harm."""
    noted = [
        (fold, chain)
        for fold, chain in await _whole(ctx, session)
        if await has_notes(session, fold, chain)
    ]
    if not noted:
        return

    async def restore() -> None:
        for fold, chain in noted:
            try:
                await restore_bitmaps(session, fold, chain)
            except CommandFailed as error:
                await ctx.effects.alarm(f"bitmaps of {fold.base.path}: {error.what}")

    await ctx.effects.perform("restore_bitmaps", restore)


async def _restore_read_only(ctx: Context, session: Session) -> None:
    whole = [fold for fold, _ in await _whole(ctx, session)]
    await restore_read_only(ctx, session, whole)


async def _whole(ctx: Context, session: Session) -> list[tuple[FoldPlan, LiveChain]]:
    """Folds whose old chain is whole: anything else is somebody's work."""
    chains = await ctx.chains(session)
    found = [(fold, *locate(chains, fold)) for fold in ctx.plan.folds]
    return [
        (fold, chain)
        for fold, chain, position in found
        if chain is not None and position is Position.ON_TOP
    ]
