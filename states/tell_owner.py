"""The owner of the definition is asked, and learns which images the disks are on.

It is not told before the decision is durable and the graph was read back: until then
the overlay is the truth, and a definition that names the base already would be a second
one. The former names are fenced meanwhile, so that a definition that has not learned it
boots nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..journal.model import FoldPlan, Plan
from .context import Abandon, Context, Stuck
from .hold import stands_since
from .owner import OwnerFailed, ask, mend_hook, tell
from .ports import Session
from .switched_disks import switched_disks

#: How long a hook is waited for at least while a guest stands, in seconds.
FLOOR: Final = 0.05


async def ask_owner(ctx: Context, plan: Plan) -> None:
    """Ask before anything is copied into an image, and before anything is held.

    Raises `Abandon`. A disk that is on its base by somebody's hand leads forward,
    whatever the answer.
    """
    changes = switched_disks(plan)
    if not changes or ctx.by_hand:
        return
    try:
        await ask(ctx.owner, changes)
    except OwnerFailed as error:
        raise Abandon(error.because) from error


async def call_hook(
    ctx: Context,
    session: Session,
    kept: Sequence[FoldPlan],
    strangers: Sequence[FoldPlan],
) -> None:
    """Call the owner before the guest can write into the bases; never fails.

    Nothing is written into the journal in a hold: what came of it is noted when the
    guest goes on. What has not succeeded within the downtime goes on, or is done
    again by `tell_owner`, while the guest runs. A disk that nobody can place, and a
    helper, which no guest waits for, are left to that, too.
    """
    changes = switched_disks(ctx.plan, kept)
    unknown = {fold.target for fold in strangers} & set(changes)
    if not changes or unknown or session.is_helper or not ctx.owner.is_there:
        return
    call = ctx.owner.switch(changes)
    now, since = ctx.clock.monotonic(), stands_since(ctx)
    left = (now if since is None else since) + ctx.options.max_downtime_ms / 1000 - now
    await ctx.effects.perform(
        "call_hook",
        lambda: ctx.owner.begin(call, max(FLOOR, left)),
        told=lambda facts: {**ctx.owner.intent(call), **facts},
    )


async def tell_owner(ctx: Context, session: Session | None) -> None:
    """Go on only when the owner knows which images the disks are on.

    Nothing is recorded as switched and nothing is removed before. Raises `Stuck` when
    it cannot be told: the disks are on their bases, and that is the only truth.
    """
    changes = switched_disks(ctx.plan)
    if not changes:
        return
    try:
        await tell(ctx.owner, changes)
    except OwnerFailed as error:
        runs_on = "The guest runs on" if session and not session.is_helper else "Boot"
        images = ", ".join(sorted(disk.source for disk in changes.values()))
        domain = ctx.plan.domain
        raise Stuck(
            f"The owner of the definition of {domain} could not be told that its"
            f" disks have other images now. {error.what}",
            f"{runs_on} {images}: no write is lost. The definition may name a file"
            " that does not exist any more; it boots nothing older.",
            f"{error.remedy or mend_hook(domain)} Then run `backfold recover"
            f" {ctx.id}`.",
        ) from error
