"""prepare: the plan is made under the lock and stored."""

from __future__ import annotations

from dataclasses import replace

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.model import Plan
from .context import Context, Move
from .start_paused import end_helper


async def prepare(ctx: Context) -> Move:
    """Plan, try out the fences, store the plan, mark the snapshot.

    Keeps invariant 3: the row that stores the plan is the transition itself. A kill
    before it leaves at most a probe file, which the next attempt removes.
    """
    await end_helper(ctx)
    await ctx.disconnect()
    plan = await ctx.planner.plan(
        ctx.id, ctx.row.domain, ctx.row.snapshot, ctx.options.insist
    )
    if ctx.row.plan is not None:
        plan = remember(plan, ctx.row.plan)
    fenced = [fold for fold in plan.folds if fold.is_active]

    async def probe() -> None:
        for fold in fenced:
            await ctx.images.probe_fence(fold.top.path, ctx.id)

    if fenced:
        await ctx.effects.perform("probe_fence", probe)

    def store(db: Database) -> None:
        runs.update_deletion(db, ctx.key, plan=plan.to_json())
        runs.put_folds(db, ctx.key, [fold.target for fold in plan.folds], "planned")
        catalog.mark_snapshot(db, plan.domain, plan.snapshot, "deleting")

    ctx.new_plan = plan
    return Move("proceed", {"power": plan.power}, store)


def remember(plan: Plan, former: Plan) -> Plan:
    """A new plan of the same run, with what only the first one could see.

    A base that an earlier attempt has written into must still count as written
    into: the stamps of the first plan stay.
    """
    stamps = {fold.base.path: fold.base_stamp for fold in former.folds}
    folds = tuple(
        replace(fold, base_stamp=stamps.get(fold.base.path, fold.base_stamp))
        for fold in plan.folds
    )
    return replace(plan, folds=folds, invalid_before=former.invalid_before)
