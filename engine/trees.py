"""The images of a disk before and after a pass of a deletion, drawn as small trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

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


def drawn(images: Sequence[TreeImage], names: dict[str, str]) -> list[tuple[str, str]]:
    """Lines of a tree: the image, and what it is; ``names`` are by path."""
    return list(_lines(images, None, "", names))


def _folded(image: TreeImage, fold: FoldPlan, images: Sequence[TreeImage]) -> TreeImage:
    top = next(each for each in images if each.path == fold.top.path)
    if not fold.is_stream and image.path == fold.base.path:
        return replace(image, snapshots=top.snapshots, is_active=top.is_active)
    relinked, target = fold.relinked, fold.linked_to
    if relinked is not None and image.path == relinked.path:
        return replace(image, below=None if target is None else target.path)
    return image


def _lines(
    images: Sequence[TreeImage], below: str | None, indent: str, names: dict[str, str]
) -> Iterator[tuple[str, str]]:
    known = {image.path for image in images}
    children = [
        image
        for image in images
        if image.below == below or (below is None and image.below not in known)
    ]
    for number, image in enumerate(children):
        is_last = number == len(children) - 1
        branch = "" if below is None else "└─ " if is_last else "├─ "
        what = [", ".join(image.snapshots)] if image.snapshots else []
        if image.is_active:
            what.append("active")
        yield f"{indent}{branch}{names[image.path]}", " · ".join(what) or "-"
        deeper = "" if below is None else "   " if is_last else "│  "
        yield from _lines(images, image.path, indent + deeper, names)
