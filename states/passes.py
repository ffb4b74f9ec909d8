"""A deletion in several passes: what is left of the tree is folded by itself."""

from __future__ import annotations

from sqlite_utils import Database

from ..journal import runs
from .context import Context, Move


def onward(ctx: Context) -> Move:
    """The move after a pass: to the end, or to the next pass.

    What the pass did is kept in the deletion's row by the transition itself, since
    the next plan takes the place of this one.
    """
    if not ctx.plan.has_more:
        return Move("proceed")

    def begin_again(db: Database) -> None:
        runs.end_pass(db, ctx.key)

    return Move(
        "again", {"done": [fold.target for fold in ctx.plan.folds]}, begin_again
    )
