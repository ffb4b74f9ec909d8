"""`backfold snapshot adopt`: a chain that nobody recorded becomes snapshots."""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import records
from . import failures
from .invocation import Invocation
from .plans import IgnoreLibvirt
from .selecting import ImageDir
from .text import count, instant, safe

if TYPE_CHECKING:
    from ...journal.adoptions import Adoption
    from ...journal.model import Snapshot

DomainName = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain.")]


def adopt(
    ctx: typer.Context,
    domain: DomainName,
    ignore_libvirt: IgnoreLibvirt = False,
    image_dir: ImageDir = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be recorded, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Make snapshots of a chain that nobody recorded, running or off.

    Each image below the active one becomes the frozen image of a snapshot, which is
    named after the overlay above it. No image is touched; from then on these overlays
    count as made by a snapshot, so that a deletion may remove them.
    """
    invocation: Invocation = ctx.obj
    output = invocation.output
    options: dict[str, Any] = {
        "ignore_libvirt": ignore_libvirt,
        "image_folders": image_dir or (),
    }
    if not (yes or dry_run):
        invocation.require_terminal()
    if not yes or dry_run:
        planned = invocation.run(lambda engine: engine.plan_adoption(domain, **options))
        if dry_run or not planned.snapshots:
            return _tell(invocation, planned, recorded=False)
        output.lines(describe(planned))
        output.line()
        number = count(len(planned.snapshots), "snapshot")
        if not invocation.confirm(f"Record {number} of {domain}?"):
            raise failures.Stopped("Not adopted.", data="Nothing was changed.")
    done = invocation.run(lambda engine: engine.adopt(domain, **options))
    return _tell(invocation, done, recorded=bool(done.snapshots))


def as_json(found: Adoption, recorded: bool) -> dict[str, Any]:
    """What was recorded, or would be."""
    return {
        "domain": found.domain.name,
        "power": found.power,
        "recorded": recorded,
        "current": found.current,
        "snapshots": [records.snapshot(snapshot) for snapshot in found.snapshots],
        "parents": [{"name": name, "parent": new} for name, new in found.parents],
        "images": [
            {"path": image.path, "ours": image.ours, "others": list(image.others)}
            for image in found.images
        ],
    }


def describe(found: Adoption) -> Iterator[str]:
    """What an adoption records, for people."""
    yield f"Adopt the chains of {found.domain.name} (the domain is {found.power})"
    for snapshot in found.snapshots:
        yield ""
        yield from _describe_snapshot(snapshot)
    for name, parent in found.parents:
        yield ""
        yield f"snapshot  {name} gets the parent {parent}"
    yield ""
    yield "From now on a deletion may remove:"
    ours = [image.path for image in found.images if image.ours]
    yield from (f"  {safe(path)}" for path in ours or ["nothing"])
    yield "Never removed, because no snapshot made it:"
    for image in found.images:
        if not image.ours:
            names = ", ".join(os.path.basename(path) for path in image.others)
            yield f"  {image.path}" + (f" (also the base of {names})" if names else "")


def _describe_snapshot(snapshot: Snapshot) -> Iterator[str]:
    current = " (current)" if snapshot.current else ""
    yield f"snapshot  {snapshot.name}{current}"
    yield f"created   {instant(snapshot.created)} (its images were written last then)"
    yield f"parent    {snapshot.parent or '-'}"
    width = max(8, *(len(disk.target) for disk in snapshot.disks))
    for disk in snapshot.disks:
        yield f"{disk.target:{width}}  {disk.frozen} ({disk.format})"


def _tell(invocation: Invocation, found: Adoption, *, recorded: bool) -> int:
    output = invocation.output
    if invocation.as_json:
        output.json(as_json(found, recorded))
    elif not found.snapshots:
        output.line(f"Every image of {found.domain.name} is recorded already.")
    else:
        output.lines(describe(found))
        output.line()
        number = count(len(found.snapshots), "snapshot")
        told = f"Recorded {number}." if recorded else "Nothing was recorded."
        output.line(told)
    return 0
