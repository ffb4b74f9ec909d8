"""How disks vote: flush, complete, carry bitmaps, sync, fence, look again.

Both holds are needed. `stop` alone loses writes when somebody else sends `cont`;
PENDING alone can dead-lock QEMU on a device with synchronous I/O. While the guest
stands still only two things are made durable: the fence's directory and the
decision; everything is announced by one row before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from ..journal.errors import CommandFailed, FlushFailed
from ..journal.model import FileStamp, FoldPlan
from .by_hand import with_votes
from .carry_bitmaps import bitmaps_to_carry
from .commit_per_disk import Waits, refuse_stuck
from .context import Abandon, Context, locate
from .hold import hold_of
from .ports import Job, Session
from .stamps import stamp_of
from .told import jobs_by_disk
from .watch import STANDING

Folds = tuple[FoldPlan, ...]
#: A fold's top and base as they were when it voted.
Stamps = dict[str, tuple[FileStamp, FileStamp]]

#: A rate that any storage copies at (bytes per second), until one is measured.
RATE_FLOOR: Final = 32 << 20


class TooMuch(Exception):
    """What is left to copy does not fit the downtime: let the guest go on."""


async def flush_copied(ctx: Context, session: Session, folds: Folds) -> None:
    """Make durable what intermediate folds and streams copied, before any link changes.

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
            depth = None if chain is None else chain.index(fold.survivor.file)
            if chain is None or depth is None:
                raise CommandFailed(
                    f"{fold.survivor.path} of {fold.target} is not in the graph."
                )
            try:
                await session.flush(chain.images[depth])
            except FlushFailed as error:
                # By the name that the plan has for it, not by QEMU's.
                raise FlushFailed(fold.survivor.path, error.why) from error
        await ctx.sync([path for fold in waiting for path in fold.survivor.paths])

    await ctx.effects.perform(
        "flush_copied",
        flush,
        told=lambda _: {"images": [fold.survivor.path for fold in waiting]},
    )


async def wait_for_room(ctx: Context, session: Session, folds: Folds) -> None:
    """Return when what is left on all active disks fits half the downtime.

    Raises `Stuck` when a job has stopped: it would be waited for for ever.
    """
    names = [fold.job for fold in folds if fold.is_active]
    before: Mapping[str, Job] = {}
    waits = Waits(ctx)
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
        for fold in folds:
            if fold.job in jobs:
                waits.look(fold, jobs[fold.job])
        left = sum(jobs[name].remaining for name in names if name in jobs)
        if left / rate * 1000 <= ctx.options.max_downtime_ms / 2:
            return
        for fold in folds:
            if fold.job in jobs:
                ctx.effects.progress(fold, jobs[fold.job])
        await ctx.checkpoint()
        before, began = jobs, ctx.clock.monotonic()
        await ctx.clock.sleep(0.1)


async def take_votes(ctx: Context, session: Session, folds: Folds) -> Stamps:
    """Hold the guest and make top and base of every disk equal, durable and fenced.

    Returns the stamps that go into the decision. They are taken before the last look,
    so that nothing can have been written between that look and them. Raises
    `TooMuch` (also when the storage is too slow for the downtime), `Abandon` or
    `Stuck`; the caller releases then. Safe to be killed in: nothing is decided, the
    overlay is the truth, and `release_votes` finds everything from the hold's row.
    """
    voting = with_votes(ctx, folds)
    actives = tuple(fold for fold in voting if fold.is_active)
    deadline: float | None = None
    chains = await ctx.chains(session)
    if hold_of(ctx)["stops_guest"]:
        if await session.run_state() != "running":
            raise TooMuch("somebody paused the guest just now")
        ctx.stopped = True
        ctx.held_since = ctx.clock.monotonic()
        deadline = ctx.held_since + ctx.options.max_downtime_ms / 1000
        await ctx.effects.perform(
            "stop_guest", session.stop, told=lambda _: {"found": "running"}
        )
    if actives:
        await ctx.effects.perform(
            "complete_jobs",
            lambda: _complete(ctx, session, actives, deadline),
            told=lambda jobs: jobs_by_disk(jobs, actives),
        )
    if bitmaps := await bitmaps_to_carry(session, voting, chains):
        await ctx.effects.perform(
            "carry_bitmaps",
            lambda: session.merge_bitmaps(bitmaps),
            told=lambda _: {"bitmaps": sorted({one.name for one in bitmaps})},
        )
    # QEMU flushes with fdatasync, which leaves mtimes behind: an overlay that was not
    # fsynced too would look after a power cut as if it had gone on (see `stamps`).
    written = [path for fold in folds for path in fold.survivor.paths]
    written += [path for fold in actives for path in fold.top.paths]
    await ctx.effects.perform(
        "sync_written",
        lambda: _sync(ctx, written, deadline),
        told=lambda _: {"images": written},
    )
    superseded = tuple(fold for fold in folds if fold.is_active)
    if superseded:
        await ctx.effects.perform(
            "fence",
            lambda: _fence(ctx, superseded),
            told=lambda names: {"names": names},
        )
    stamps = {fold.target: _stamps(ctx, fold) for fold in folds}
    await ctx.effects.perform(
        "look_again",
        lambda: _look_again(ctx, session, voting),
        told=lambda seen: {**jobs_by_disk(seen[0], voting), "run_state": seen[1]},
    )
    _in_time(ctx, deadline, "the fence and the last look")
    ctx.voted = frozenset(stamps)
    return stamps


def _in_time(ctx: Context, deadline: float | None, what: str) -> None:
    if deadline is not None and ctx.clock.monotonic() > deadline:
        raise TooMuch(f"{what} took longer than the downtime")


async def _sync(ctx: Context, paths: Sequence[str], deadline: float | None) -> None:
    """Fsync these files, for no longer than the guest may stand still.

    A sync that is given up may still end, later and without harm.
    """
    left = None if deadline is None else max(0.0, deadline - ctx.clock.monotonic())
    try:
        async with asyncio.timeout(left):
            await ctx.images.sync(paths)
    except TimeoutError:
        raise TooMuch("syncing the images took longer than the downtime") from None
    _in_time(ctx, deadline, "syncing the images")


async def _complete(
    ctx: Context, session: Session, folds: Folds, deadline: float | None
) -> Mapping[str, Job]:
    jobs = await session.jobs()
    for fold in folds:
        if fold.job in jobs:
            # Not asked to complete, it is not cancelled either: it can go on.
            refuse_stuck(ctx, fold, jobs[fold.job])
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
        if all(_is_pending(ctx, fold, jobs.get(fold.job)) for fold in folds):
            return jobs
        if deadline is not None and ctx.clock.monotonic() > deadline:
            raise TooMuch("the jobs did not drain within the downtime")
        await session.wait(0.02)


def _is_pending(ctx: Context, fold: FoldPlan, job: Job | None) -> bool:
    if job is None or job.status in ("concluded", "aborting"):
        why = (job.error if job else None) or "somebody cancelled it"
        what = f"the job of {fold.target} ended before its vote: {why}"
        raise Abandon(what, failed=fold.target)
    refuse_stuck(ctx, fold, job)
    return job.status == "pending"


async def _fence(ctx: Context, folds: Folds) -> Mapping[str, str]:
    names = {}
    for fold in folds:
        if fold.target in ctx.by_hand and ctx.images.identify(fold.top.path) is None:
            continue  # Who completed its job has put its overlay away, too.
        await ctx.images.rename(fold.top.path, ctx.fence(fold.top), fold.top.file)
        names[fold.top.path] = ctx.fence(fold.top)
    return names


async def _look_again(
    ctx: Context, session: Session, folds: Folds
) -> tuple[Mapping[str, Job], str]:
    """Prove that this very QEMU still holds every vote; returns what it has.

    A fence that was set after QEMU died and was restarted from the overlay would
    rename the file under the new QEMU (measured: 1954 of 1955 writes lost).
    """
    jobs = await session.jobs()
    for fold in folds:
        if not _is_pending(ctx, fold, jobs.get(fold.job)):
            raise Abandon(f"the vote of {fold.target} was taken back by somebody")
    state = await session.run_state()
    hold = hold_of(ctx)
    expected = STANDING if hold["stops_guest"] else {hold["run_state"]}
    voted = any(fold.is_active for fold in folds)
    if voted and not session.is_helper and state not in expected:
        raise TooMuch(f"somebody changed the run state to {state} during the hold")
    return jobs, state


def _stamps(ctx: Context, fold: FoldPlan) -> tuple[FileStamp, FileStamp]:
    path = ctx.fence(fold.top) if fold.is_active else fold.top.path
    top, base = stamp_of(fold.top, ctx.images, path), stamp_of(fold.base, ctx.images)
    if fold.target in ctx.by_hand:
        top = top or base
    if top is None or base is None:
        raise Abandon(f"an image of {fold.target} has vanished")
    return top, base
