"""The hold of a guest: announced with one row, ended by whoever comes to it.

From the row to the end of the hold nothing else is announced. The row holds what
the next one needs to end it after a death, and when the guest was stopped, so that
the downtime is told whoever ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlite_utils import Database

from ..journal import runs
from ..journal.model import FoldPlan
from .by_hand import with_votes
from .commit_per_disk import forget_jobs
from .context import Context, Unit
from .ports import Session
from .watch import STANDING, HeldDisk, Watch

Folds = tuple[FoldPlan, ...]
#: What is told of a step.
Facts = Mapping[str, Any]


async def nothing_else() -> None:
    """Do nothing: the row of such a step is the step."""


async def announce_hold(ctx: Context, session: Session, folds: Folds) -> None:
    """One durable row for everything up to the decision, and the guard if needed.

    The row says whether we stop the guest, so that whoever comes after us lets it
    go on exactly if it ran: an operator's pause stays. A guest that stands by an
    operator's pause is watched over too, since `cont` in the hold would make it
    wait for disks that are drained.
    """
    await ctx.refuse_failed_flushes(
        [path for fold in folds for path in fold.survivor.paths]
    )
    actives = tuple(fold for fold in with_votes(ctx, folds) if fold.is_active)
    state = await session.run_state()
    has_guest = bool(actives) and not session.is_helper
    stops = has_guest and state == "running"
    if has_guest:
        await ctx.guard.start(_watch(ctx, session, actives, stops))
    intent = {
        "run_state": state,
        "stops_guest": stops,
        "disks": [fold.target for fold in folds],
        "fences": {fold.top.path: ctx.fence(fold.top) for fold in actives},
        "process": session.process,
        "at": ctx.clock.now(),
        "since": ctx.clock.monotonic(),
        "boot_id": ctx.clock.boot_id(),
    }

    def announced(db: Database) -> None:
        runs.update_deletion(db, ctx.key, hold=intent)

    ctx.asked, ctx.voted, ctx.stopped = set(), frozenset(), False
    ctx.held_since = ctx.let_go_at = None
    await ctx.effects.perform("hold", nothing_else, intent=intent, announcing=announced)


async def release_votes(ctx: Context) -> None:
    """Take everything back that was done under the hold's row, in any order of death.

    Needs no prior row: a journal that cannot be written must not freeze a guest.
    Idempotent. The fence goes before the guest does, so that no write reaches an
    image that nothing can boot from.
    """
    if ctx.row.hold is None:
        return
    hold = hold_of(ctx)
    folds = tuple(fold for fold in ctx.plan.folds if fold.target in hold["disks"])
    actives = tuple(fold for fold in folds if fold.is_active)

    async def release() -> Facts:
        session = await ctx.connect()
        cancelled: list[str] = []
        if session is not None:
            cancelled = await _cancel_votes(ctx, session, actives)
        guest: Facts = {}
        try:
            unfenced = await take_fences_back(ctx, actives)
        finally:
            # A name that cannot be changed back, or made durable, must not freeze a
            # guest: the hold's row stays, and recovery takes the fence back.
            if session is not None:
                guest = await let_guest_go(ctx, session)
                ctx.stopped = False
        return {"cancelled": cancelled, "unfenced": unfenced, **guest, **stood(ctx)}

    await ctx.effects.perform(
        "release_votes",
        release,
        noting=lambda facts: released(ctx, facts),
        told=lambda facts: facts,
    )
    await end_watch(ctx)


async def end_watch(ctx: Context) -> None:
    """The hold has ended and the journal says so: nobody need watch any more."""
    await ctx.guard.dismiss()
    ctx.held_since = ctx.let_go_at = None
    await ctx.refresh()


async def take_fences_back(ctx: Context, folds: Folds) -> list[str]:
    """Give fenced overlays their names back, and tell these. Idempotent."""
    names = []
    for fold in folds:
        fence = ctx.fence(fold.top)
        if ctx.images.identify(fence) == fold.top.file:
            await ctx.images.rename(fence, fold.top.path, fold.top.file)
            names.append(fold.top.path)
    return names


async def let_guest_go(ctx: Context, session: Session) -> Facts:
    """`cont`, if we stopped this very guest and it still stands.

    Tells the run state in which it was ``found``, and whether `cont` was ``sent``.

    An engine that takes over cannot know how far the former one came; the hold's row
    says that the guest ran. A QEMU that somebody started since then has another
    process: whether it stands or runs is not ours to change.
    """
    hold = hold_of(ctx)
    if not hold["stops_guest"] or ctx.stopped is False:
        return {}
    if None not in (hold.get("process"), session.process) and (
        hold["process"] != session.process
    ):
        return {"found": "another QEMU"}
    state = await session.run_state()
    if state not in STANDING:
        return {"found": state}
    await session.cont()
    ctx.let_go_at = ctx.clock.monotonic()
    return {"found": state, "sent": "cont"}


def stands_since(ctx: Context) -> float | None:
    """When the guest of the present hold was stopped (monotonic seconds).

    An engine that takes over has that from the hold's row; None when nobody can tell.
    """
    if ctx.held_since is not None:
        return ctx.held_since
    hold = hold_of(ctx)
    if not hold["stops_guest"] or hold.get("boot_id") != ctx.clock.boot_id():
        return None
    since: float | None = hold.get("since")
    return since


def stood(ctx: Context) -> Facts:
    """How long the guest stood still: in this hold, and in all so far, milliseconds.

    A hold of an engine that died began when its row was written, within a few
    milliseconds. One whose guest was found running, or gone, ended nobody knows
    when, and adds nothing.
    """
    began, ended = stands_since(ctx), ctx.let_go_at
    if ctx.held_since is not None:
        ended = ctx.clock.monotonic() if ended is None else ended
    downtime = ctx.row.downtime_ms
    if began is None or ended is None:
        return {"downtime_ms": downtime}
    held = max(0.0, ended - began) * 1000
    return {"held_ms": held, "downtime_ms": (downtime or 0.0) + held}


def released(ctx: Context, told: Facts) -> Unit:
    """The row that ends a hold, with the downtime of all holds so far (`stood`)."""
    downtime = told["downtime_ms"]
    return lambda db: runs.update_deletion(db, ctx.key, hold=None, downtime_ms=downtime)


def hold_of(ctx: Context) -> Mapping[str, Any]:
    """The hold that the journal has; RuntimeError when there is none."""
    if ctx.row.hold is None:
        raise RuntimeError("no hold was announced")
    return ctx.row.hold


def _watch(ctx: Context, session: Session, actives: Folds, stops: bool) -> Watch:
    if ctx.monitor is None:
        raise RuntimeError("a domain without a monitor has no session")
    disks = tuple(
        HeldDisk(
            fold.job, fold.top.path, ctx.fence(fold.top), fold.top.file, fold.base.file
        )
        for fold in actives
    )
    return Watch(ctx.id, ctx.monitor, session.process, stops, disks)


async def _cancel_votes(ctx: Context, session: Session, folds: Folds) -> list[str]:
    """Cancel jobs that were, or may have been, asked to complete; keep the others.

    Tells their disks.
    """
    jobs = await session.jobs()
    voted = tuple(
        fold
        for fold in folds
        if fold.job in jobs and (ctx.asked is None or fold.job in ctx.asked)
    )
    for fold in voted:
        if jobs[fold.job].status not in ("concluded", "aborting"):
            await session.cancel(fold.job)
    await forget_jobs(session, voted)
    return [fold.target for fold in voted]
