"""`backfold plan`: what a deletion would do, in bytes, images and risks."""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import records, selecting
from .invocation import Invocation
from .text import size

if TYPE_CHECKING:
    from ...journal.model import FoldPlan, Plan
    from ..api import Engine

DomainName = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain.")]
SnapshotName = Annotated[str, typer.Argument(metavar="SNAPSHOT", help="The snapshot.")]
IgnoreLibvirt = Annotated[
    bool,
    typer.Option(
        "--ignore-libvirt",
        help="Go on although a libvirt definition names the images.",
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
) -> int:
    """Show what `delete` would do. Takes no lock and writes nothing."""
    invocation: Invocation = ctx.obj
    selection = {
        **selecting.options(
            through, children, children_only, metadata_only, strategy, image_dir
        ),
        "ignore_libvirt": ignore_libvirt,
    }
    found, removed = make_plan(invocation, domain, snapshot, selection)
    if invocation.as_json:
        invocation.output.json(records.plan(found, removed))
    else:
        invocation.output.lines(describe(found, removed))
    return 0


def make_plan(
    invocation: Invocation, domain: str, snapshot: str, selection: dict[str, Any]
) -> tuple[Plan, list[str]]:
    """A plan, and which images would be removed. Raises `Refused`."""

    async def work(engine: Engine) -> tuple[Plan, list[str]]:
        found = await engine.plan(domain, snapshot, **selection)
        superseded = [path for fold in found.folds for path in _superseded(fold)]
        ours = engine.catalog.is_ours
        return found, [path for path in superseded if await ours(path)]

    return invocation.run(work)


def describe(found: Plan, removed: Sequence[str]) -> Iterator[str]:
    """The plan for people."""
    under = f", child of {found.parent}" if found.parent else ""
    yield (
        f"Delete snapshot {found.snapshot} of {found.domain}{under}"
        f" (the domain is {found.power})"
    )
    for fold in found.folds:
        yield ""
        yield from _describe_fold(fold, removed)
    if len(found.folds) > 1:
        copied = sum(fold.copy_bytes for fold in found.folds)
        needed = sum(fold.space_bytes for fold in found.folds)
        yield ""
        yield f"All disks: {size(copied)} to copy, {size(needed)} of space needed"
    if found.risks:
        yield ""
        yield "Know before you go on:"
        yield from (f"  - {risk}" for risk in found.risks)


def _describe_fold(fold: FoldPlan, removed: Sequence[str]) -> Iterator[str]:
    before = [image.path for image in fold.chain]
    kind = "active" if fold.is_active else "intermediate"
    if fold.strategy == "commit":
        kind = f"{kind} commit"
    else:
        kind = fold.strategy
    at_most = f", at most {size(fold.space_bytes)} of space" if fold.space_bytes else ""
    yield f"{fold.target}: {kind}, {size(fold.copy_bytes)} to copy{at_most}"
    yield f"  top      {fold.top.path} ({fold.top.format})"
    yield f"  base     {fold.base.path} ({fold.base.format})"
    if fold.above is not None:
        yield f"  above    {fold.above.path} (its link changes to {fold.link})"
    yield f"  before   {_chain(before)}"
    yield f"  after    {_chain(records.after(fold))}"
    for path in _superseded(fold):
        if path in removed:
            yield f"  removed  {path}"
        else:
            yield f"  kept     {path} (renamed; Backfold did not make it)"


def _chain(paths: Sequence[str]) -> str:
    """Images from the active one down, by their file names where these suffice."""
    names = [os.path.basename(path) for path in paths]
    if len(set(names)) < len(names):
        names = list(paths)
    return " → ".join(names)


def _superseded(fold: FoldPlan) -> list[str]:
    left = set(records.after(fold))
    return [image.path for image in fold.chain if image.path not in left]
