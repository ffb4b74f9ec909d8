"""commit_per_disk: one block job per disk, all at once, until all have converged."""

from __future__ import annotations

from sqlite_utils import Database

from ..journal import runs
from ..journal.model import FoldPlan
from .by_hand import completed_by_hand, with_votes
from .context import Abandon, Context, Move, Position, Replan, Stuck, Unit, locate
from .ports import Job, LiveChain, Session

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
                    db, ctx.key, fold.target, source, trigger, dest, ctx.author
                )

    return Move("proceed", unit=converged)


async def converge(ctx: Context, session: Session, folds: tuple[FoldPlan, ...]) -> None:
    """Bring these folds to READY or PENDING.

    Raises `Replan` when a chain is not what the plan says, `Abandon` when a job
    failed or somebody cancelled it, `Stuck` when one waits after an I/O error.
    """
    chains = await ctx.chains(session)
    jobs = await session.jobs()
    for fold in folds:
        chain, position = locate(chains, fold)
        if chain is None or position is not Position.ON_TOP:
            raise Replan(f"the chain of {fold.target} is not what was planned")
        await _ensure_job(ctx, session, fold, chain, jobs.get(fold.job))
    while True:
        jobs = await session.jobs()
        if all(_has_converged(ctx, fold, jobs.get(fold.job)) for fold in folds):
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
                "resume_job", lambda: session.resume(fold.job), intent=_of(fold)
            )
        return
    if fold.above is not None:
        above = chain.images[chain.index(fold.above.file) or 0]
        if above.read_only:
            await ctx.effects.perform(
                "reopen_above",
                lambda: session.set_writable(above, True),
                intent=_of(fold),
            )

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
        },
        noting=noted,
    )


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


def _has_converged(ctx: Context, fold: FoldPlan, job: Job | None) -> bool:
    if job is None:
        raise Abandon(f"the job of {fold.target} has vanished: somebody dismissed it")
    ctx.effects.progress(fold, job)
    if job.status in ("concluded", "aborting"):
        why = job.error or "somebody cancelled it"
        raise Abandon(f"the job of {fold.target} ended: {why}", failed=fold.target)
    refuse_stuck(ctx, fold, job)
    if fold.is_active and job.status == "pending":
        raise Abandon(f"somebody else completed the job of {fold.target}")
    return job.status == CONVERGED[fold.is_active]


def refuse_stuck(ctx: Context, fold: FoldPlan, job: Job) -> None:
    """Raise `Stuck` when a job waits after an I/O error; `recover` lets it go on.

    It is not cancelled, so that nothing has to be copied twice.
    """
    if job.stuck is not None:
        short = job.stuck == "nospace"
        raise Stuck(
            f"The copy of {fold.target} stopped: "
            + ("no space is left." if short else "an I/O error."),
            "Nothing is lost: the disk still runs on its overlay, and the job waits"
            " where it stopped.",
            (
                f"Make room on the file system of {fold.base.path}"
                if short
                else f"Look at the storage of {fold.top.path} and {fold.base.path}"
            )
            + f", then run `backfold recover {ctx.id}`.",
        )


def _of(fold: FoldPlan) -> dict[str, str | None]:
    return {"disk": fold.target, "job": fold.job}
