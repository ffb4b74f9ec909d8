"""vote: every disk agrees, or the guest goes on as if nothing had been."""

from __future__ import annotations

from typing import Any

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import OutcomeUnknown
from .ballot import Stamps, TooMuch, flush_copied, take_votes, wait_for_room
from .by_hand import completed_by_hand, with_votes
from .commit_per_disk import have_converged
from .context import Context, Move, Replan, Unit
from .hold import announce_hold, release_votes
from .switched_disks import switched_disks
from .tell_owner import ask_owner


async def vote(ctx: Context) -> Move:
    """Take the votes; the move that decides carries the stamps of every image.

    Keeps invariants 2 and 4: one transaction decides for all disks. Killed before
    it, the hold's row leads to `release_votes`; killed after it, to `pivot`.
    """
    if ctx.row.hold is not None:
        await release_votes(ctx)
        if await ctx.connect() is None:
            raise Replan("QEMU is gone")
        return Move("back_off", {"because": "a hold was left behind"}, diverge(ctx))
    session = await ctx.require_session()
    folds = ctx.plan.folds
    await completed_by_hand(ctx, session)
    if not await have_converged(session, with_votes(ctx, folds)):
        return Move("back_off", {"because": "a job is gone"}, diverge(ctx))
    await ask_owner(ctx, ctx.plan)
    await flush_copied(ctx, session, folds)
    await wait_for_room(ctx, session, folds)
    await announce_hold(ctx, session, folds)
    try:
        stamps = await take_votes(ctx, session, folds)
    except TooMuch as error:
        await release_votes(ctx)
        ctx.back_offs += 1
        await ctx.clock.sleep(min(5.0, 0.1 * 2**ctx.back_offs))
        return Move("back_off", {"because": str(error)}, diverge(ctx))
    except OutcomeUnknown:
        raise
    except BaseException:
        await release_votes(ctx)
        raise
    detail = {"disks": sorted(stamps), **announced_call(ctx)}
    return Move("decide", detail, _decision(ctx, stamps))


def announced_call(ctx: Context) -> dict[str, Any]:
    """What a decision says of the call that is made before the guest goes on."""
    changes = switched_disks(ctx.plan)
    if not changes or not ctx.owner.is_there:
        return {}
    return {"owner": ctx.owner.intent(ctx.owner.switch(changes))}


def _decision(ctx: Context, stamps: Stamps) -> Unit:
    def decide(db: Database) -> None:
        for target, both in stamps.items():
            runs.move_fold(
                db, ctx.key, target, "converged", "vote", "voted", ctx.author, both
            )

    return decide


def annulment(ctx: Context) -> Unit:
    """Take a decision back whose COMMIT may or may not have become durable."""

    def annul(db: Database) -> None:
        for fold in runs.deletion(db, ctx.id).folds:
            if fold.state == "voted":
                runs.move_fold(
                    db, ctx.key, fold.target, "voted", "annul", "converged", ctx.author
                )

    return annul


def diverge(ctx: Context) -> Unit:
    """Every fold has to converge again: its vote was released."""

    def again(db: Database) -> None:
        for fold in ctx.row.folds:
            runs.move_fold(
                db, ctx.key, fold.target, "converged", "diverge", "copying", ctx.author
            )

    return again
