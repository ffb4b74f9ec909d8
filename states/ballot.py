"""How disks vote: flush, hold, complete, sync, fence, look again; or release.

Both holds are needed. `stop` alone loses writes when somebody else sends `cont`;
PENDING alone can dead-lock QEMU on a device with synchronous I/O. While the guest
stands still only two things are made durable: the fence's directory and the
decision; everything is announced by one row before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import CommandFailed
from ..journal.model import FileStamp, FoldPlan
from .commit_per_disk import forget_jobs
from .context import Abandon, Context, Stuck, Unit, locate
from .ports import Job, Session

Folds = tuple[FoldPlan, ...]
#: A fold's top and base as they were when it voted.
Stamps = dict[str, tuple[FileStamp, FileStamp]]

#: A rate that any storage copies at (bytes per second), until one is measured.
RATE_FLOOR: Final = 32 << 20

#: Run states of a guest that was stopped; a reset makes `prelaunch` of `paused`.
STANDING: Final = frozenset({"paused", "prelaunch"})


class TooMuch(Exception):
    """What is left to copy does not fit the downtime: let the guest go on."""


async def nothing_else() -> None:
    """Do nothing: the row of such a step is the step."""


async def flush_copied(ctx: Context, session: Session, folds: Folds) -> None:
    """Make durable what intermediate folds copied, before any link can change.

    QEMU rewrites the link of the image above before it flushes what it copied; a
    kill right after loses data (measured). Idempotent.
    """
    waiting = [fold for fold in folds if not fold.is_active]
    if not waiting:
        return

    async def flush() -> None:
        chains = await ctx.chains(session)
        for fold in waiting:
            chain, _ = locate(chains, fold)
            depth = None if chain is None else chain.index(fold.base.file)
            if chain is None or depth is None:
                raise CommandFailed(f"The base of {fold.target} is not in the graph.")
            await session.flush(chain.images[depth])
        await ctx.images.sync([fold.base.path for fold in waiting])

    await ctx.effects.perform("flush_copied", flush)


async def wait_for_room(ctx: Context, session: Session, folds: Folds) -> None:
    """Return when what is left on all active disks fits half the downtime."""
    names = [fold.job for fold in folds if fold.is_active]
    before: Mapping[str, Job] = {}
    began = ctx.clock.monotonic()
    while True:
        jobs = await session.jobs()
        elapsed = ctx.clock.monotonic() - began
        copied = sum(
            jobs[name].done - before[name].done
            for name in names
            if name in jobs and name in before
        )
        rate = max(RATE_FLOOR, copied / elapsed if before and elapsed > 0 else 0)
        if ctx.options.bandwidth is not None:
            rate = min(rate, ctx.options.bandwidth)
        left = sum(jobs[name].remaining for name in names if name in jobs)
        if left / rate * 1000 <= ctx.options.max_downtime_ms / 2:
            return
        for fold in folds:
            if fold.job in jobs:
                ctx.effects.progress(fold, jobs[fold.job])
        await ctx.checkpoint()
        before, began = jobs, ctx.clock.monotonic()
        await ctx.clock.sleep(0.1)


async def announce_hold(ctx: Context, session: Session, folds: Folds) -> None:
    """One durable row for everything up to the decision, and the guard if needed.

    The row says whether we stop the guest, so that whoever comes after us lets it
    go on exactly if it ran: an operator's pause stays.
    """
    actives = [fold for fold in folds if fold.is_active]
    state = await session.run_state()
    stops = bool(actives) and not session.is_helper and state == "running"
    if stops:
        await ctx.guard.start(ctx.id)
    intent = {
        "run_state": state,
        "stops_guest": stops,
        "disks": [fold.target for fold in folds],
        "fences": {fold.top.path: ctx.fence(fold) for fold in actives},
        "at": ctx.clock.now(),
    }

    def announced(db: Database) -> None:
        runs.update_deletion(db, ctx.key, hold=intent)

    ctx.asked, ctx.voted, ctx.stopped = set(), frozenset(), False
    await ctx.effects.perform("hold", nothing_else, intent=intent, announcing=announced)


async def take_votes(ctx: Context, session: Session, folds: Folds) -> Stamps:
    """Hold the guest and make top and base of every disk equal, durable and fenced.

    Returns the stamps that go into the decision. Raises `TooMuch`, `Abandon` or
    `Stuck`; the caller releases then. Safe to be killed in: nothing is decided, the
    overlay is the truth, and `release_votes` finds everything from the hold's row.
    """
    actives = tuple(fold for fold in folds if fold.is_active)
    stops = bool(_hold(ctx)["stops_guest"])
    deadline: float | None = None
    if stops:
        if await session.run_state() != "running":
            raise TooMuch("somebody paused the guest just now")
        ctx.stopped = True
        ctx.held_since = ctx.clock.monotonic()
        deadline = ctx.held_since + ctx.options.max_downtime_ms / 1000
        await ctx.effects.perform("stop_guest", session.stop)
    if actives:
        await ctx.effects.perform(
            "complete_jobs", lambda: _complete(ctx, session, actives, deadline)
        )
    written = [fold.base.path for fold in folds]
    await ctx.effects.perform("sync_written", lambda: ctx.images.sync(written))
    if actives:
        await ctx.effects.perform("fence", lambda: _fence(ctx, actives))
    await ctx.effects.perform("look_again", lambda: _look_again(ctx, session, folds))
    stamps = {fold.target: _stamps(ctx, fold) for fold in folds}
    ctx.voted = frozenset(stamps)
    return stamps


async def release_votes(ctx: Context) -> None:
    """Take everything back that was done under the hold's row, in any order of death.

    Needs no prior row: a journal that cannot be written must not freeze a guest.
    Idempotent. The fence goes before the guest does, so that no write reaches an
    image that nothing can boot from.
    """
    if ctx.row.hold is None:
        return
    hold = _hold(ctx)
    folds = tuple(fold for fold in ctx.plan.folds if fold.target in hold["disks"])
    actives = tuple(fold for fold in folds if fold.is_active)

    async def release() -> None:
        session = await ctx.connect()
        if session is not None:
            await _cancel_votes(ctx, session, actives)
        await take_fences_back(ctx, actives)
        if session is not None:
            await let_guest_go(ctx, session)

    def noted(_: None) -> Unit:
        return released(ctx)

    await ctx.effects.perform("release_votes", release, noting=noted)
    await ctx.guard.dismiss()
    ctx.held_since = None
    await ctx.refresh()


async def take_fences_back(ctx: Context, folds: Folds) -> None:
    """Give fenced overlays their names back. Idempotent."""
    for fold in folds:
        fence = ctx.fence(fold)
        if ctx.images.identify(fence) == fold.top.file:
            await ctx.images.rename(fence, fold.top.path, fold.top.file)


async def let_guest_go(ctx: Context, session: Session) -> None:
    """`cont`, if we stopped the guest and it still stands.

    An engine that takes over cannot know how far the former one came; the hold's row
    says that the guest ran.
    """
    stopped = _hold(ctx)["stops_guest"] and ctx.stopped is not False
    if stopped and await session.run_state() in STANDING:
        await session.cont()


def released(ctx: Context) -> Unit:
    """The row that ends a hold, with the downtime that the guest saw."""
    downtime = ctx.row.downtime_ms
    if ctx.held_since is not None:
        downtime = (ctx.clock.monotonic() - ctx.held_since) * 1000
    return lambda db: runs.update_deletion(db, ctx.key, hold=None, downtime_ms=downtime)


def _hold(ctx: Context) -> Mapping[str, Any]:
    if ctx.row.hold is None:
        raise RuntimeError("no hold was announced")
    return ctx.row.hold


async def _complete(
    ctx: Context, session: Session, folds: Folds, deadline: float | None
) -> None:
    jobs = await session.jobs()
    left = sum(jobs[fold.job].remaining for fold in folds if fold.job in jobs)
    rate = min(RATE_FLOOR, ctx.options.bandwidth or RATE_FLOOR)
    if deadline is not None and left / rate * 1000 > ctx.options.max_downtime_ms:
        raise TooMuch(f"{left} bytes are left to copy")
    for fold in folds:
        if ctx.asked is not None:
            ctx.asked.add(fold.job)
        await session.complete(fold.job)
    while True:
        jobs = await session.jobs()
        if all(_is_pending(fold, jobs.get(fold.job)) for fold in folds):
            return
        if deadline is not None and ctx.clock.monotonic() > deadline:
            raise TooMuch("the jobs did not drain within the downtime")
        await session.wait(0.02)


def _is_pending(fold: FoldPlan, job: Job | None) -> bool:
    if job is None or job.status in ("concluded", "aborting"):
        why = (job.error if job else None) or "somebody cancelled it"
        what = f"the job of {fold.target} ended before its vote: {why}"
        raise Abandon(what, failed=fold.target)
    if job.stuck is not None:
        raise Stuck(
            f"The last of {fold.target} could not be copied: {job.stuck}.",
            "Nothing is lost: the disk runs on its overlay.",
            f"Make room for {fold.base.path} and look at its storage, then recover.",
        )
    return job.status == "pending"


async def _fence(ctx: Context, folds: Folds) -> None:
    for fold in folds:
        await ctx.images.rename(fold.top.path, ctx.fence(fold), fold.top.file)


async def _look_again(ctx: Context, session: Session, folds: Folds) -> None:
    """Prove that this very QEMU still holds every vote.

    A fence that was set after QEMU died and was restarted from the overlay would
    rename the file under the new QEMU (measured: 1954 of 1955 writes lost).
    """
    jobs = await session.jobs()
    for fold in folds:
        if not _is_pending(fold, jobs.get(fold.job)):
            raise Abandon(f"the vote of {fold.target} was taken back by somebody")
    state = await session.run_state()
    hold = _hold(ctx)
    expected = STANDING if hold["stops_guest"] else {hold["run_state"]}
    voted = any(fold.is_active for fold in folds)
    if voted and not session.is_helper and state not in expected:
        raise TooMuch(f"somebody changed the run state to {state} during the hold")


def _stamps(ctx: Context, fold: FoldPlan) -> tuple[FileStamp, FileStamp]:
    top = ctx.images.stamp(ctx.fence(fold) if fold.is_active else fold.top.path)
    base = ctx.images.stamp(fold.base.path)
    if top is None or base is None:
        raise Abandon(f"an image of {fold.target} has vanished")
    return top, base


async def _cancel_votes(ctx: Context, session: Session, folds: Folds) -> None:
    """Cancel jobs that were, or may have been, asked to complete; keep the others."""
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
