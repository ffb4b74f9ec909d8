"""prepare: the plan is made under the lock and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import Refused
from ..journal.model import Plan
from .context import SETTLING, Context, Move, Stuck
from .frozen_images import settle
from .start_paused import end_helper
from .tell_owner import ask_owner


async def prepare(ctx: Context) -> Move:
    """Plan, try out the fences, store the plan, mark the snapshot.

    Keeps invariant 3: the row that stores the plan is the transition itself. A kill
    before it leaves at most a probe file, which the next attempt removes. The frozen
    images are synced first, so that the stamps in the plan survive a power cut.
    """
    await end_helper(ctx)
    await ctx.disconnect()
    try:
        plan = await _plan(ctx)
    except Refused as error:
        if not ctx.row.passes:
            raise
        return Move("finish", {"because": str(error)})
    if ctx.row.passes and not (plan.folds or plan.retired):
        return Move("finish", {"because": "nothing is left to fold"})
    if ctx.row.plan is not None:
        plan = remember(plan, ctx.row.plan)
    fenced = [fold for fold in plan.folds if fold.is_active]
    committed = [fold for fold in plan.folds if not fold.is_stream]

    async def probe() -> None:
        for fold in fenced:
            await ctx.images.probe_fence(fold.top.path, ctx.id)

    if fenced:
        await ctx.effects.perform("probe_fence", probe)
    await ask_owner(ctx, plan)
    # Once more in the vote, just before there is no way back.
    ctx.owner.asked = None

    async def sync() -> None:
        await ctx.sync([path for fold in committed for path in fold.base.paths])
        await settle(ctx, committed)

    if committed:
        await ctx.effects.perform(
            "sync_frozen",
            sync,
            told=lambda _: {"images": [fold.base.path for fold in committed]},
        )

    def store(db: Database) -> None:
        runs.update_deletion(db, ctx.key, plan=plan.to_json())
        runs.put_folds(db, ctx.key, [fold.target for fold in plan.folds], "planned")
        for snapshot in plan.snapshots:
            catalog.mark_snapshot(db, plan.domain, snapshot, "deleting")

    ctx.new_plan = plan
    return Move("proceed", _summary(plan), store)


def _summary(plan: Plan) -> Mapping[str, Any]:
    """What the plan is, for the history: a later plan of the run takes its place."""
    return {
        "power": plan.power,
        "place": plan.place,
        "snapshots": list(plan.snapshots),
        "disks": {
            fold.target: {
                "strategy": fold.strategy,
                "bytes": fold.copy_bytes,
                "top": fold.top.path,
                "base": fold.base.path,
                "switches": plan.switches(fold),
            }
            for fold in plan.folds
        },
    }


async def _plan(ctx: Context) -> Plan:
    """Plan; again for a while when a QEMU that has gone still seems to hold images.

    A killed QEMU does not answer any more before it has let go of its files. A run
    that has begun is not given up because room is short now: it is left open.
    """
    end = ctx.clock.monotonic() + SETTLING
    while True:
        try:
            return await ctx.planner.plan(
                ctx.id,
                ctx.row.domain,
                ctx.row.snapshot,
                ctx.options,
                sum(len(each["disks"]) for each in ctx.row.passes)
                if ctx.row.passes
                else None,
            )
        except Refused as error:
            codes = {reason.code for reason in error.reasons}
            if ctx.row.plan is not None and codes == {"no_space"}:
                raise Stuck(
                    str(error),
                    "Nothing is lost: the domain has its overlays, as before.",
                    f"{error.remedy} Then run `backfold recover {ctx.id}`.",
                ) from error
            settled = ctx.row.plan is None or codes != {"image_in_use"}
            if settled or ctx.clock.monotonic() > end:
                raise
        await ctx.clock.sleep(0.2)


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
