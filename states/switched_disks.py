"""Which image each disk of a deletion is on, for whoever has to boot it."""

from __future__ import annotations

from collections.abc import Collection

from ..journal.model import Disk, FoldPlan, Plan


def switched_disks(plan: Plan, kept: Collection[FoldPlan] = ()) -> dict[str, Disk]:
    """The disks whose active image a decided plan changes, by target.

    Each is on its base, or on its overlay when somebody has ``kept`` it there.
    """
    found = {}
    for fold in plan.folds:
        if plan.switches(fold):
            image = fold.top if fold in kept else fold.base
            found[fold.target] = Disk(fold.target, image.path, image.format)
    return found
