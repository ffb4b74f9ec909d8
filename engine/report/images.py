"""The images of each disk before and after, and the table of the disks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Final

from ...journal.model import Plan, TreeImage
from .. import trees
from ..results import FoldResult
from ..story import DiskStory
from ..words import brief, size
from .facts import Facts
from .markup import Markup, code, join, tag

#: What becomes of an image, as people say it; and its class.
_FATES: Final = {
    "survivor": ("takes the data", "survivor"),
    "superseded": ("folded away", "gone"),
    "retired": ("not needed any more", "gone"),
    "kept": ("stays without a name", "kept"),
}


def section(facts: Facts) -> Markup | None:
    """The trees; nothing before there is a plan."""
    plan = facts.plan
    if plan is None or not plan.images:
        return None
    targets = list(dict.fromkeys(image.target for image in plan.images))
    disks = []
    for target in targets:
        before = trees.before(plan, target)
        if facts.is_undone:
            views = [_view("Before, and now", before)]
        else:
            is_done = facts.run.state == "completed"
            title = "After" if is_done else "After, when it is finished"
            views = [
                _view("Before", before, shows_fates=True),
                _view(title, trees.after(plan, target)),
            ]
        disks.append(
            tag(
                "article",
                tag("h3", "Disk ", code(target)),
                tag("div", *views, class_="views"),
            )
        )
    return tag(
        "section",
        tag("h2", "Images"),
        tag("p", _explained(facts), class_="hint"),
        *disks,
    )


def disks(facts: Facts) -> Markup | None:
    """One line for each disk of each pass."""
    told = list(zip(facts.run.disks, facts.story.disks, strict=False))
    if not told:
        return None
    head = tag("tr", *(tag("th", name, scope="col") for name in _COLUMNS))
    table = tag(
        "table",
        tag("caption", "What was done on each disk"),
        tag("thead", head),
        tag("tbody", *(_disk(disk, story, facts.plan) for disk, story in told)),
    )
    role = {"role": "region", "aria_label": "Table of the disks", "tabindex": "0"}
    return tag("section", tag("h2", "Disks"), tag("div", table, class_="wide", **role))


_COLUMNS: Final = ("Disk", "State", "What", "Copied", "Into", "Superseded", "Why so")


def _disk(disk: FoldResult, story: DiskStory, plan: Plan | None) -> Markup:
    """A line of the table."""
    folds = () if plan is None else plan.folds
    because = next(
        (
            fold.because
            for fold in folds
            if (fold.target, fold.top.path) == (disk.target, disk.top)
        ),
        "",
    )
    copied = [f"{size(disk.bytes)} planned"]
    if story.copied_bytes is not None:
        copied = [size(story.copied_bytes)]
    if story.seconds is not None:
        copied.append(f"in {brief(story.seconds)}")
    if story.rate is not None:
        copied.append(f"{size(story.rate)}/s")
    return tag(
        "tr",
        tag("th", code(disk.target), scope="row"),
        tag("td", tag("span", disk.state, class_=f"fold {_kind(disk.state)}")),
        tag("td", _what(disk.strategy, disk.is_active)),
        tag("td", ", ".join(copied)),
        tag("td", _path(disk.top if disk.strategy == "stream" else disk.base)),
        tag("td", *(_path(path) for path in disk.superseded)),
        tag("td", because or "-"),
    )


def _explained(facts: Facts) -> str:
    told = "Each image is based on the one above it. Labels are the snapshots in it."
    if not facts.has_whole_trees:
        told += (
            " This plan is of version 0.1: it knows the chains, but no other branches"
            " and no snapshots but the one that was deleted."
        )
    if len(facts.run.disks) > len(facts.plan.folds if facts.plan else ()):
        told += " It took several passes; this is the last one."
    return told


def _view(
    title: str,
    images: Sequence[TreeImage],
    *,
    shows_fates: bool = False,
) -> Markup:
    known = {image.path: image for image in images}
    above: dict[str | None, list[TreeImage]] = {}
    for image in known.values():
        below = image.below if image.below in known else None
        above.setdefault(below, []).append(image)
    whole = len({os.path.basename(path) for path in known}) < len(known)
    main = _main_line(known)
    for others in above.values():
        others.sort(key=lambda image: image.path in main)
    drawn = [
        _line(root, above, whole, shows_fates) for root in above.get(None, [])
    ] or [tag("p", "No image.", class_="hint")]
    return tag("div", tag("h4", title), *drawn, class_="view")


def _main_line(known: Mapping[str, TreeImage]) -> set[str]:
    """The active image and what it is based on."""
    line = set[str]()
    path = next((image.path for image in known.values() if image.is_active), None)
    while path is not None and path in known and path not in line:
        line.add(path)
        path = known[path].below
    return line


def _line(
    root: TreeImage,
    above: dict[str | None, list[TreeImage]],
    whole: bool,
    shows_fates: bool,
) -> Markup:
    """A line of images, each based on the one before; other branches hang beside.

    A chain of a hundred images is one list, not a hundred in each other.
    """
    items = []
    node: TreeImage | None = root
    while node is not None:
        others = above.get(node.path, [])
        *side, main = others if others else (None,)
        items.append(
            tag(
                "li",
                _image(node, whole, shows_fates),
                *(
                    _line(branch, above, whole, shows_fates)
                    for branch in side
                    if branch is not None
                ),
                class_=_FATES[node.becomes][1]
                if shows_fates and node.becomes in _FATES
                else None,
            )
        )
        node = main
    return tag("ol", *items, class_="line")


def _image(image: TreeImage, whole: bool, shows_fates: bool) -> Markup:
    labels = [tag("span", tag("bdi", name), class_="label") for name in image.snapshots]
    if image.is_active:
        labels.append(tag("span", "active", class_="label active"))
    if shows_fates and image.becomes in _FATES:
        labels.append(tag("span", _FATES[image.becomes][0], class_="fate"))
    name = image.path if whole else os.path.basename(image.path)
    spaced = [child for label in labels for child in (Markup(" "), label)]
    return tag("span", tag("code", tag("bdi", name), title=image.path), *spaced)


def _what(strategy: str, is_active: bool) -> str:
    if strategy != "commit":
        return strategy
    return "active commit" if is_active else "intermediate commit"


def _kind(state: str) -> str:
    if state in ("retired", "switched"):
        return "good"
    return "warn" if state in ("cancelled", "failed") else "going"


def _path(path: str) -> Markup:
    return join(code(path), Markup("<br>"))
