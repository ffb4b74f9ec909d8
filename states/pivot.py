"""pivot: the decision is durable; every disk goes to its base, forward only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import CommandFailed
from ..journal.model import FoldPlan
from .ballot import TooMuch, flush_copied, take_votes, wait_for_room
from .carry_bitmaps import forget_notes
from .commit_per_disk import converge, forget_jobs, has_ended
from .context import Abandon, Context, Move, Position, Replan, Stuck, Unit, locate
from .hold import (
    Facts,
    announce_hold,
    end_watch,
    let_guest_go,
    nothing_else,
    release_votes,
    released,
    stood,
    take_fences_back,
)
from .pivot_off import is_folded_again, switch_links_off
from .ports import Job, Session
from .read_only import restore_read_only
from .start_paused import end_helper, helper_session
from .tell_owner import call_hook, tell_owner
from .told import jobs_by_disk
from .vote import announced_call

Folds = tuple[FoldPlan, ...]

#: How often a disk that somebody kept on its overlay is folded again.
ROUNDS: Final = 5


async def pivot(ctx: Context) -> Move:
    """Switch every disk and prove it by graph and headers.

    Keeps invariants 1 and 9. Safe to be killed in: top and base of each disk are
    equal while the guest stands, and the stamps of the decision tell afterwards
    which of them somebody has written into.
    """
    for _ in range(ROUNDS):
        if _voting_again(ctx):
            await release_votes(ctx)
        session = await ctx.connect()
        if session is None:
            kept = await switch_links_off(ctx, ctx.plan.folds)
            if kept:
                session = await helper_session(ctx, kept)
        else:
            kept = await _finalize(ctx, session)
        if session is not None and kept:
            await ctx.checkpoint()
            await _fold_again(ctx, session, kept)
            continue
        await tell_owner(ctx, session)
        await _settle(ctx, session)
        return Move("proceed", _where(ctx, session))
    raise _mixed(ctx, kept)


async def _finalize(ctx: Context, session: Session) -> Folds:
    """Finalize what is PENDING, read the graph back, let the guest go on.

    Whoever owns the definition is called before that, with what was read back.
    Returns the folds that somebody kept on their overlay: a soft cancel ends
    without an error, so that only the graph is a proof. Their fences are taken back
    before the guest goes on: what it writes must be bootable. A fold that copies
    again has not voted again, and what it copied is not flushed: its job may be
    PENDING, but is not finalized before that.
    """
    voted = tuple(fold for fold in ctx.plan.folds if not is_folded_again(ctx, fold))

    async def finalize() -> Mapping[str, Job]:
        jobs = await session.jobs()
        for fold in voted:
            if fold.job in jobs and jobs[fold.job].status == "pending":
                await session.finalize(fold.job)
        waiting = {fold.job for fold in voted}
        while waiting:
            jobs = await session.jobs()
            waiting = {
                name
                for name in waiting
                if name in jobs and jobs[name].status in ("pending", "aborting")
            }
            if waiting:
                await session.wait(0.02)
        return jobs

    await ctx.effects.perform(
        "finalize", finalize, told=lambda jobs: jobs_by_disk(jobs, voted)
    )
    kept, strangers = await _positions(ctx, session)
    if actives := tuple(fold for fold in kept if fold.is_active):
        await ctx.effects.perform(
            "unfence",
            lambda: take_fences_back(ctx, actives),
            told=lambda names: {"names": names},
        )
    if ctx.row.hold is not None:
        await call_hook(ctx, session, kept, strangers)

        async def release() -> Facts:
            guest = await let_guest_go(ctx, session)
            return {**guest, "kept": [fold.target for fold in kept], **stood(ctx)}

        await ctx.effects.perform(
            "release_guest",
            release,
            noting=lambda facts: released(ctx, facts),
            told=lambda facts: facts,
        )
        await end_watch(ctx)
    if strangers:
        kept += await _switch_branches(ctx, strangers)
    return kept


async def _switch_branches(ctx: Context, folds: Folds) -> Folds:
    """Switch branches that the domain does not use, when it was started meanwhile.

    Our helper may still have them open. With its end they are as with QEMU gone: what
    was copied has been flushed before the decision. Returns what was kept.
    """
    domain = await ctx.read(lambda db: catalog.domain(db, ctx.plan.domain))
    sources = {disk.source for disk in domain.disks}
    if used := [fold.target for fold in folds if fold.active_image.path in sources]:
        raise Stuck(
            f"QEMU has {', '.join(used)} on an image that is not known here.",
            "Nothing was removed: overlay and base are both still there.",
            f"`backfold log {ctx.id}` names both; then run recover.",
        )
    await end_helper(ctx)
    return await switch_links_off(ctx, folds)


async def _positions(ctx: Context, session: Session) -> tuple[Folds, Folds]:
    """Folds whose disk is still on its overlay, and those that QEMU does not have.

    In a helper no device shows where an active fold stands, and nobody writes: top
    and base have been equal since the vote, so that a voted fold has switched.
    """
    chains = await ctx.chains(session)
    kept: list[FoldPlan] = []
    strangers: list[FoldPlan] = []
    for fold in ctx.plan.folds:
        if session.is_helper and fold.is_active:
            if is_folded_again(ctx, fold):
                kept.append(fold)
            continue
        _, position = locate(chains, fold)
        if position is Position.ON_TOP:
            kept.append(fold)
        elif position is Position.ELSEWHERE and not session.is_helper:
            strangers.append(fold)
    return tuple(kept), tuple(strangers)


async def _fold_again(ctx: Context, session: Session, folds: Folds) -> None:
    """Converge and vote once more for disks that are still on their overlay.

    All images were equal at the decision and the overlay went on, so the overlay is
    the truth for such a disk. Its fold says so durably before anything is copied
    into its base again, and until its new vote is durable.
    """

    def keep(db: Database) -> None:
        for fold in folds:
            if ctx.fold_state(fold.target) == "voted":
                runs.move_fold(
                    db, ctx.key, fold.target, "voted", "keep", "copying", ctx.author
                )

    await ctx.owner.settle()
    await ctx.effects.perform(
        "keep",
        nothing_else,
        noting=lambda _: keep,
        told=lambda _: {"disks": [fold.target for fold in folds]},
    )
    await ctx.refresh()
    jobs = await session.jobs()
    await forget_jobs(session, tuple(f for f in folds if has_ended(jobs.get(f.job))))
    try:
        await converge(ctx, session, folds)
        await flush_copied(ctx, session, folds)
        await wait_for_room(ctx, session, folds)
        await announce_hold(ctx, session, folds)
        stamps = await take_votes(ctx, session, folds)
    except TooMuch:
        await release_votes(ctx)
        return
    except (Abandon, Replan) as error:
        await release_votes(ctx)
        raise _mixed(ctx, folds) from error

    def again(db: Database) -> None:
        for target, both in stamps.items():
            runs.move_fold(
                db,
                ctx.key,
                target,
                "copying",
                "converge",
                "converged",
                ctx.author,
                told=ctx.copied.get(target),
            )
            runs.move_fold(
                db, ctx.key, target, "converged", "vote", "voted", ctx.author, both
            )

    await ctx.effects.perform(
        "decide_again",
        nothing_else,
        intent=announced_call(ctx),
        noting=lambda _: again,
        told=lambda _: {"disks": sorted(stamps)},
    )
    await ctx.refresh()


def _voting_again(ctx: Context) -> bool:
    """Whether a hold was left behind by a vote that was not decided again."""
    if ctx.row.hold is None:
        return False
    states = {ctx.fold_state(target) for target in ctx.row.hold["disks"]}
    return not states <= {"voted", "switched"}


async def _settle(ctx: Context, session: Session | None) -> None:
    """Sync and read back changed headers, record `switched`, close the old images."""
    changed = [
        (fold.relinked, fold.linked_to)
        for fold in ctx.plan.folds
        if fold.relinked is not None
    ]

    links: dict[str, str | None] = {}

    async def sync_headers() -> None:
        await ctx.sync([image.path for image, _ in changed])
        for image, target in changed:
            header = await ctx.images.header(image.path, image.format)
            named = header.backing_path and ctx.images.identify(header.backing_path)
            if named != (target and target.file):
                wanted = "nothing" if target is None else target.path
                raise CommandFailed(
                    f"The header of {image.path} names {header.backing}, not {wanted}."
                )
            links[image.path] = header.backing

    def noted(_: None) -> Unit:
        def switched(db: Database) -> None:
            for fold in ctx.row.folds:
                if fold.state == "voted":
                    runs.move_fold(
                        db,
                        ctx.key,
                        fold.target,
                        "voted",
                        "switch",
                        "switched",
                        ctx.author,
                    )

        return switched

    await ctx.effects.perform(
        "sync_headers", sync_headers, noting=noted, told=lambda _: {"links": links}
    )
    if session is not None:
        await ctx.effects.perform("close_images", lambda: _close(ctx, session))


async def _close(ctx: Context, session: Session) -> None:
    """Dismiss the jobs, drop the nodes of superseded images, file nodes too.

    What lies below the active image is read-only afterwards, as it was before.
    """
    await forget_jobs(session, ctx.plan.folds)
    opened = await session.open_images(ctx.aliases())
    old = [image.file for fold in ctx.plan.folds for image in fold.superseded]
    if superseded := [image for file in old for image in opened if image.file == file]:
        await session.drop(superseded)
    await forget_notes(session, ctx.plan.folds, opened)
    if not session.is_helper:
        await restore_read_only(ctx, session, ctx.plan.folds)


def _where(ctx: Context, session: Session | None) -> Facts:
    """Where each disk is now, and who said so: QEMU's graph, or the images."""
    return {
        "disks": {fold.target: fold.survivor.path for fold in ctx.plan.folds},
        "proof": "images" if session is None else "graph",
    }


def _mixed(ctx: Context, kept: Folds) -> Stuck:
    disks = ", ".join(fold.target for fold in kept)
    return Stuck(
        f"Somebody keeps {disks} on the overlay; the other disks are on their bases.",
        "No write is lost: all images are of one instant, and each disk goes on from"
        " the image that QEMU has.",
        f"Leave the jobs of this deletion alone, then `backfold recover {ctx.id}`.",
    )
