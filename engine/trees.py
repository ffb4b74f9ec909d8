"""The images of a disk before and after a pass of a deletion, as trees. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..journal.model import FoldPlan, Plan, TreeImage

#: What of the images is gone when the pass is over.
GONE = frozenset({"superseded", "retired"})


def before(plan: Plan, target: str) -> tuple[TreeImage, ...]:
    """The images of a disk as they are now, each after the one that it is based on."""
    return tuple(image for image in plan.images if image.target == target)


def after(plan: Plan, target: str) -> tuple[TreeImage, ...]:
    """The images of a disk when the pass is over, with the snapshots that are left.

    Whatever referred to the top of a commit refers to its base then, and links lead
    to the survivors.
    """
    fold = next((fold for fold in plan.folds if fold.target == target), None)
    gone = frozenset(plan.snapshots)
    images = [
        replace(image, snapshots=tuple(s for s in image.snapshots if s not in gone))
        for image in before(plan, target)
    ]
    if fold is not None:
        images = [_folded(image, fold, images) for image in images]
    return tuple(image for image in images if image.becomes not in GONE)


def _folded(image: TreeImage, fold: FoldPlan, images: Sequence[TreeImage]) -> TreeImage:
    top = next((each for each in images if each.path == fold.top.path), None)
    if top is not None and not fold.is_stream and image.path == fold.base.path:
        return replace(image, snapshots=top.snapshots, is_active=top.is_active)
    relinked, target = fold.relinked, fold.linked_to
    if relinked is not None and image.path == relinked.path:
        return replace(image, below=None if target is None else target.path)
    return image
