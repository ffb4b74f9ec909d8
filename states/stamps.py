"""Which of two images went on since the decision, told by size and mtime."""

from __future__ import annotations

from enum import Enum

from ..journal.model import FoldPlan
from ..journal.runs import FoldRow
from .ports import Images


class WentOn(Enum):
    """What happened to overlay and base of a fold since its decision."""

    NOTHING = "nothing"
    BASE = "the base went on, as it should"
    OVERLAY = "the overlay went on: somebody cancelled"
    BOTH = "both changed: nobody can tell"
    BASE_MISSING = "the base is missing"


def went_on(fold: FoldPlan, row: FoldRow, images: Images, run: str) -> WentOn:
    """Compare the images of an active fold with the stamps of its decision.

    The overlay is looked for under the fence's name and its own. Only reads.
    """
    fence = images.fence_name(fold.top.path, run)
    top = images.stamp(fence) or images.stamp(fold.top.path)
    base = images.stamp(fold.base.path)
    if base is None:
        return WentOn.BASE_MISSING
    overlay_changed = top is not None and top != row.top_stamp
    if base == row.base_stamp:
        return WentOn.OVERLAY if overlay_changed else WentOn.NOTHING
    return WentOn.BOTH if overlay_changed else WentOn.BASE
