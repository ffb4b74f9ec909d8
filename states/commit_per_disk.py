"""commit_per_disk: one block job per disk, all at once, until all have converged."""

from __future__ import annotations

from typing import Final

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import CommandFailed
from ..journal.model import FoldPlan
from .by_hand import completed_by_hand, with_votes
from .carry_bitmaps import note_bitmaps
from .context import Abandon, Context, Move, Position, Replan, Stuck, Unit, locate
from .ports import Job, LiveChain, Session
from .told import Copying

#: The edges that lead a fold to `converged`; a job that was found running may not
#: have been noted as started.
_CONVERGE = ("copying", "converge", "converged")
_WAY = {
    "planned": (("planned", "start", "copying"), _CONVERGE),
    "copying": (_CONVERGE,),
    "converged": (),
}

#: Jobs whose copy is complete, by whether the fold is active.
CONVERGED = {True: "ready", False: "pending"}


#: How long a job may be paused without an error before it counts as stopped, seconds.
PAUSE_PATIENCE: Final = 5.0
#: Why a job waits, by what QEMU says of it.
_STUCK: Final = {
    "nospace": "no space is left",
    "failed": "an I/O error",
    "paused": "somebody paused it, or the guest was continued after an I/O error",
}


async def commit_per_disk(ctx: Context) -> Move:
    """Start what does not run yet, attach to what runs, wait for all.

    Keeps invariant 1: until the decision the old chain is whole, whatever the jobs
    have copied. Safe to be killed in: jobs are known by their ids, go on by
    themselves, and wait when they have converged.
    """
    session = await ctx.require_session()
    if await completed_by_hand(ctx, session):
        disks = ", ".join(sorted(ctx.by_hand))
        await ctx.effects.alarm(f"somebody completed the job of {disks} by hand")
    await converge(ctx, session, with_votes(ctx, ctx.plan.folds))
    await ctx.refresh()

    def converged(db: Database) -> None:
        for fold in ctx.row.folds:
            for source, trigger, dest in _WAY[fold.state]:
                runs.move_fold(
                    db,
                    ctx.key,
                    fold.target,
                    source,
                    trigger,
                    dest,
                    ctx.author,
                    told=ctx.copied.get(fold.target) if dest == "converged" else None,
                )

    return Move("proceed", unit=converged)


async def converge(ctx: Context, session: Session, folds: tuple[FoldPlan, ...]) -> None:
    """Bring these folds to READY or PENDING.

    Raises `Replan` when a chain is not what the plan says, `Abandon` when a job
    failed or somebody cancelled it, `Stuck` when one waits after an I/O error.
    """
    chains = await ctx.chains(session)
    jobs = await session.jobs()
    copying = Copying(ctx.clock)
    for fold in folds:
        chain, position = locate(chains, fold)
        if chain is None or position is not Position.ON_TOP:
            raise Replan(f"the chain of {fold.target} is not what was planned")
        job = jobs.get(fold.job)
        await _ensure_job(ctx, session, fold, chain, job)
        copying.begin(fold, None if has_ended(job) else job)
    waits = Waits(ctx)
    while True:
        jobs = await session.jobs()
        looked = [
            _has_converged(ctx, fold, jobs.get(fold.job), waits) for fold in folds
        ]
        for fold, is_done in zip(folds, looked, strict=True):
            if is_done:
                copying.converged(fold, jobs[fold.job])
        if all(looked):
            ctx.copied.update(copying.told)
            return
        await ctx.checkpoint()
        await session.wait(0.5)


def has_ended(job: Job | None) -> bool:
    """Whether a job is there and has ended, or is about to."""
    return job is not None and job.status in ("concluded", "aborting")


async def have_converged(session: Session, folds: tuple[FoldPlan, ...]) -> bool:
    """Whether every job is there and READY or PENDING."""
    jobs = await session.jobs()
    return all(
        fold.job in jobs and jobs[fold.job].status == CONVERGED[fold.is_active]
        for fold in folds
    )


async def _ensure_job(
    ctx: Context, session: Session, fold: FoldPlan, chain: LiveChain, job: Job | None
) -> None:
    if has_ended(job):
        await dismiss_ended(ctx, session, (fold,))
        job = None
    if job is not None:
        if job.stuck is not None:
            await ctx.effects.perform(
                "resume_job", lambda: _resume(session, fold.job), intent=_of(fold)
            )
        return
    if fold.relinked is not None:
        relinked = chain.images[chain.index(fold.relinked.file) or 0]
        if relinked.read_only:
            await ctx.effects.perform(
                "reopen_above",
                lambda: session.set_writable(relinked, True),
                intent=_of(fold),
            )

    await note_bitmaps(ctx, session, fold, chain)

    def noted(_: None) -> Unit | None:
        if ctx.fold_state(fold.target) != "planned":
            return None
        return lambda db: runs.move_fold(
            db, ctx.key, fold.target, "planned", "start", "copying", ctx.author
        )

    await ctx.effects.perform(
        "start_job",
        lambda: session.start(fold, chain, ctx.options.bandwidth),
        intent={
            **_of(fold),
            "process": session.process,
            "boot": ctx.clock.boot_id(),
            "command": "block-stream" if fold.is_stream else "block-commit",
            "bytes": fold.copy_bytes,
        },
        noting=noted,
    )


async def _resume(session: Session, job: str) -> None:
    """Let a job go on; one that goes on by itself by now is not an error."""
    try:
        await session.resume(job)
    except CommandFailed:
        found = (await session.jobs()).get(job)
        if found is not None and found.stuck is not None:
            raise


async def dismiss_ended(
    ctx: Context, session: Session, folds: tuple[FoldPlan, ...]
) -> None:
    """Wait for the end of cancelled jobs and forget them."""

    async def dismiss() -> None:
        await forget_jobs(session, folds)

    await ctx.effects.perform("dismiss_jobs", dismiss)


async def forget_jobs(session: Session, folds: tuple[FoldPlan, ...]) -> None:
    """Wait until the jobs of these folds have concluded, and dismiss them."""
    waiting = {fold.job for fold in folds}
    while waiting:
        jobs = await session.jobs()
        for name in sorted(waiting):
            if name not in jobs:
                waiting.discard(name)
            elif jobs[name].status == "concluded":
                await session.dismiss(name)
                waiting.discard(name)
        if waiting:
            await session.wait(0.2)


def _has_converged(ctx: Context, fold: FoldPlan, job: Job | None, waits: Waits) -> bool:
    if job is None:
        raise Abandon(f"the job of {fold.target} has vanished: somebody dismissed it")
    ctx.effects.progress(fold, job)
    if job.status in ("concluded", "aborting"):
        why = job.error or "somebody cancelled it"
        raise Abandon(f"the job of {fold.target} ended: {why}", failed=fold.target)
    waits.look(fold, job)
    if fold.is_active and job.status == "pending":
        raise Abandon(f"somebody else completed the job of {fold.target}")
    return job.status == CONVERGED[fold.is_active]


class Waits:
    """Looks at jobs that are waited for, and finds those that do not go on.

    A pause without an error may be a moment's drain inside of QEMU, so that it must
    last before it counts.
    """

    def __init__(self, ctx: Context) -> None:
        """Nothing was seen yet."""
        self._ctx = ctx
        self._since: dict[str, float] = {}

    def look(self, fold: FoldPlan, job: Job) -> None:
        """Raise `Stuck` when this job has stopped."""
        refuse_stuck(self._ctx, fold, job)
        if job.stuck is None:
            self._since.pop(job.id, None)
            return
        now = self._ctx.clock.monotonic()
        if now - self._since.setdefault(job.id, now) > PAUSE_PATIENCE:
            raise _stuck(self._ctx, fold, job)


def refuse_stuck(ctx: Context, fold: FoldPlan, job: Job) -> None:
    """Raise `Stuck` when a job waits after an I/O error; `recover` lets it go on.

    It is not cancelled, so that nothing has to be copied twice.
    """
    if job.stuck not in (None, "paused"):
        raise _stuck(ctx, fold, job)


def _stuck(ctx: Context, fold: FoldPlan, job: Job) -> Stuck:
    why = _STUCK[job.stuck or "paused"]
    return Stuck(
        f"The copy of {fold.target} stopped: {why}.",
        "Nothing is lost: the disk still runs on its overlay, and the job waits where"
        " it stopped.",
        (
            f"Make room on the file system of {fold.base.path}"
            if job.stuck == "nospace"
            else f"Look at the storage of {fold.top.path} and {fold.base.path}"
        )
        + f", then run `backfold recover {ctx.id}`.",
    )


def _of(fold: FoldPlan) -> dict[str, str | None]:
    return {"disk": fold.target, "job": fold.job}
