"""`backfold plan`: what a deletion would do, in bytes, images and risks."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import records
from . import pictures, selecting, values
from .invocation import Invocation
from .text import count, size

if TYPE_CHECKING:
    from ...journal.model import FoldPlan, Plan
    from ..api import Engine

#: What becomes of a dirty bitmap.
_FATES = {
    "stays": "stays in the image that survives",
    "carried": "is carried into the image that survives",
    "broken": "is inconsistent already",
    "dropped": "is of before a revert, and is removed",
}

DomainName = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain.")]
SnapshotName = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The snapshot.")]
IgnoreLibvirt = Annotated[
    bool,
    typer.Option(
        "--ignore-libvirt",
        help="Go on although a libvirt definition names the images.",
    ),
]

Secret = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="TARGET=FILE",
        help="The file with the key of a disk's encrypted images; may be repeated."
        " Only its path is kept.",
    ),
]


def plan(
    ctx: typer.Context,
    domain: DomainName,
    snapshot: SnapshotName,
    through: selecting.Through = None,
    children: selecting.Children = False,
    children_only: selecting.ChildrenOnly = False,
    metadata_only: selecting.MetadataOnly = False,
    strategy: selecting.Strategy = "auto",
    image_dir: selecting.ImageDir = None,
    ignore_libvirt: IgnoreLibvirt = False,
    secret: Secret = None,
) -> int:
    """Show what `delete` would do. Takes no lock and writes nothing."""
    invocation: Invocation = ctx.obj
    selection = {
        **selecting.options(
            through, children, children_only, metadata_only, strategy, image_dir
        ),
        "ignore_libvirt": ignore_libvirt,
        "secrets": values.secrets(secret),
    }
    found, removed = make_plan(invocation, domain, snapshot, selection)
    if invocation.as_json:
        invocation.output.json(records.plan(found, removed))
    else:
        output = invocation.output
        output.lines(describe(found, removed, output.width))
    return 0


def make_plan(
    invocation: Invocation, domain: str, snapshot: str, selection: dict[str, Any]
) -> tuple[Plan, list[str]]:
    """A plan, and which files would be removed. Raises `Refused`."""

    async def work(engine: Engine) -> tuple[Plan, list[str]]:
        found = await engine.plan(domain, snapshot, **selection)
        ours = engine.catalog.is_ours
        superseded = [image.path for fold in found.folds for image in fold.superseded]
        retired = [each.image.path for each in found.retired if each.is_ours]
        removed = [path for path in superseded if await ours(path)]
        memories = [each.path for each in found.memories if each.file is not None]
        return found, [*removed, *retired, *memories]

    return invocation.run(work)


def describe(
    found: Plan, removed: Sequence[str], width: int | None = None
) -> Iterator[str]:
    """The plan for people; ``width`` (columns) cuts names of images in its trees."""
    what = (
        f"snapshot {found.snapshots[0]}"
        if len(found.snapshots) == 1
        else f"{count(len(found.snapshots), 'snapshot')} ({', '.join(found.snapshots)})"
    )
    under = f", child of {found.parent}" if found.parent else ""
    yield f"Delete {what} of {found.domain}{under} (the domain is {found.power})"
    folds = {fold.target: fold for fold in found.folds}
    for target in dict.fromkeys(image.target for image in found.images):
        yield ""
        if target in folds:
            yield from _describe_fold(folds[target], found)
        else:
            yield f"{target}: nothing is copied"
        for line in pictures.images_before_and_after(found, target, width):
            yield f"  {line}"
    yield from _describe_removed(found, removed)
    if len(found.folds) > 1:
        copied = sum(fold.copy_bytes for fold in found.folds)
        needed = sum(fold.space_bytes for fold in found.folds)
        yield ""
        yield f"All disks: {size(copied)} to copy, {size(needed)} of space needed"
    if found.has_more:
        yield ""
        yield "More images become useless by this; they are folded right afterwards."
    if found.risks:
        yield ""
        yield "Know before you go on:"
        yield from (f"  - {risk}" for risk in found.risks)


def _describe_fold(fold: FoldPlan, plan: Plan) -> Iterator[str]:
    kind = "stream" if fold.is_stream else "commit"
    if not fold.is_stream:
        kind = f"{'active' if plan.switches(fold) else 'intermediate'} commit"
    layers = count(len(fold.layers), "image")
    yield f"{fold.target}: {kind} of {layers}: {fold.because}"
    room = ""
    if fold.space_bytes:
        room = (
            f"; at most {size(fold.space_bytes)} of space, {size(fold.free_bytes)} free"
        )
    yield f"  copy     {size(fold.copy_bytes)} into {fold.survivor.path}{room}"
    if fold.relinked is not None:
        to = "nothing" if fold.linked_to is None else str(fold.link)
        yield f"  link     {fold.relinked.path} will be based on {to}"
    yield f"  undo     {records.undo(fold)}"
    yield f"  guest    {records.guest(fold, plan)}"
    for bitmap in fold.bitmaps:
        yield f"  bitmap   {bitmap.name} {_FATES[bitmap.fate]}"


def _describe_removed(found: Plan, removed: Sequence[str]) -> Iterator[str]:
    if removed:
        yield ""
        yield "Removed afterwards:"
        yield from (f"  {path}" for path in removed)
        searched = count(len(found.searched), "folder")
        yield "  No snapshot, disk or process needs them" + (
            f", and no image in {searched} is based on them" if found.searched else ""
        )
        yield from (f"    {folder}" for folder in found.searched)
    left = [
        image.path
        for fold in found.folds
        for image in fold.superseded
        if image.path not in removed
    ]
    left += [each.image.path for each in found.retired if not each.is_ours]
    if left or found.kept:
        yield ""
        yield "Left in place:"
    for path in left:
        yield f"  {path} (no snapshot made it)"
    for kept in found.kept:
        users = " and ".join(os.path.basename(path) for path in kept.dependents)
        verb = "is" if len(kept.dependents) < 2 else "are"
        yield f"  {kept.path} (unnamed: {users or 'nothing'} {verb} based on it)"
