"""validate: every reason to refuse, found at once, before anything is touched."""

from __future__ import annotations

from .context import Context, Move


async def validate(ctx: Context) -> Move:
    """Plan once without a lock on the world; raises `Refused` with all reasons.

    Reads only, so a kill in it leaves nothing. The plan is made again, and stored,
    in `prepare`: what was true here may have changed by then.
    """
    plan = await ctx.planner.plan(ctx.id, ctx.row.domain, ctx.row.snapshot, ctx.options)
    return Move(
        "accept",
        {
            "power": plan.power,
            "bytes": {fold.target: fold.copy_bytes for fold in plan.folds},
        },
    )
