"""Jobs that somebody else completed before the decision: there is only forward.

An operator may send `job-complete` and `job-finalize` himself. The guest is on the
base then, with no decision in the journal, and writes there. To go back would make
the overlay the truth again and lose those writes, so that the deletion goes on: such
a disk needs no vote, and the others follow.
"""

from __future__ import annotations

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import WorldError
from ..journal.model import FoldPlan
from .context import Context, Position, locate
from .ports import Session

#: The states in which a job may run and nothing is decided.
STATES = frozenset({"commit_per_disk", "vote"})


async def completed_by_hand(ctx: Context, session: Session) -> frozenset[str]:
    """The disks that are on their base without a vote of ours; kept in the context.

    The proof is the graph, and that this is the very QEMU in which the job was
    started: one that was booted from the base by hand shows the same graph, and its
    base may be incomplete. A helper has no guest that could have gone on.
    """
    if session.is_helper or session.process is None:
        return frozenset()
    started: dict[str, object] = await ctx.read(lambda db: _processes(db, ctx.id))
    chains = await ctx.chains(session)
    ctx.by_hand = frozenset(
        fold.target
        for fold in ctx.plan.folds
        if started.get(fold.target) == session.process
        and locate(chains, fold)[1] is Position.SWITCHED
    )
    return ctx.by_hand


async def refuses_to_undo(ctx: Context) -> bool:
    """Whether somebody completed a job, so that the run must not be given up.

    Nothing is known, and False, while QEMU cannot be asked.
    """
    if ctx.row.state not in STATES or ctx.row.plan is None:
        return False
    try:
        session = await ctx.connect()
        return session is not None and bool(await completed_by_hand(ctx, session))
    except WorldError:
        return False


def with_votes(ctx: Context, folds: tuple[FoldPlan, ...]) -> tuple[FoldPlan, ...]:
    """The folds whose jobs still have to vote."""
    return tuple(fold for fold in folds if fold.target not in ctx.by_hand)


def _processes(db: Database, run: str) -> dict[str, object]:
    """In which QEMU the last job of each disk was started."""
    return {
        str(row.detail["disk"]): row.detail.get("process")
        for row in runs.history(db, run)
        if row.trigger == "start_job" and row.kind == "announce"
    }
