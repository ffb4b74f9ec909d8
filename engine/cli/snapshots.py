"""`backfold snapshot`: take snapshots, and see how they depend on each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from ...journal.errors import Interrupted
from .. import records
from . import adoption, failures, pictures, reverts, values
from .asking import all_or_none
from .commands import group
from .invocation import Invocation
from .plans import Secret
from .text import instant, safe

if TYPE_CHECKING:
    from ...journal.model import Snapshot
    from ..api import Engine

app = group("snapshot", "Take snapshots, and see which there are.")

DomainName = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain.")]
SnapshotName = Annotated[str, typer.Argument(metavar="NAME", help="The snapshot.")]


@app.command()
def create(
    ctx: typer.Context,
    domain: DomainName,
    name: SnapshotName,
    overlay: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET=PATH",
            help="Where a disk's new overlay goes; may be repeated. Otherwise beside"
            " the image below, with the snapshot's name as extension.",
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="Leave a disk out; may be repeated."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A file that holds the guest's memory at this instant. Backfold does"
            " not save memory itself: the file must be there. It is removed when the"
            " snapshot is deleted. With it, all disks may be left out.",
        ),
    ] = None,
    secret: Secret = None,
) -> int:
    """Take a snapshot: all disks at one instant, or none."""
    invocation: Invocation = ctx.obj
    overlays = values.paths(overlay or (), "--overlay")
    file = values.file(memory, "--memory")
    secrets = values.secrets(secret)

    async def work(engine: Engine) -> int:
        import asyncio

        with all_or_none(invocation) as heard:
            try:
                taken = await engine.create_snapshot(
                    domain,
                    name,
                    overlays=overlays,
                    exclude=exclude or (),
                    memory=file,
                    secrets=secrets,
                    on_event=heard.append,
                )
            except asyncio.CancelledError:
                taken = await _after_signal(engine, domain, name)
        _show(invocation, taken, [])
        if not invocation.as_json:
            for disk in await engine.disks(domain):
                if taken.disk(disk.target) is not None:
                    invocation.output.line(
                        f"{disk.target} boots from {disk.source} now."
                    )
        return 0

    return invocation.run(work)


@app.command("list")
def list_snapshots(ctx: typer.Context, domain: DomainName) -> int:
    """Show a domain's snapshots as a tree, with their images and what these take.

    Where the domain is now is the last branch. SIZE is what a file takes of its file
    system.
    """
    invocation: Invocation = ctx.obj

    async def work(engine: Engine) -> int:
        found = await engine.catalog.snapshots(domain)
        output = invocation.output
        if invocation.as_json:
            listed = [records.snapshot(snapshot) for snapshot in found]
            output.json({"domain": domain, "snapshots": listed})
        elif not found:
            output.note(f"The domain {safe(domain)} has no snapshots.")
        else:
            output.lines(pictures.snapshots(found, output.width))
        return 0

    return invocation.run(work)


@app.command()
def show(ctx: typer.Context, domain: DomainName, name: SnapshotName) -> int:
    """Show one snapshot with its frozen images."""
    invocation: Invocation = ctx.obj

    async def work(engine: Engine) -> int:
        found = await engine.catalog.snapshot(domain, name)
        every = await engine.catalog.snapshots(domain)
        children = [other.name for other in every if other.parent == name]
        _show(invocation, found, children)
        return 0

    return invocation.run(work)


app.command()(adoption.adopt)
app.command()(reverts.revert)


def _show(invocation: Invocation, found: Snapshot, children: Sequence[str]) -> None:
    output = invocation.output
    if invocation.as_json:
        output.json({**records.snapshot(found), "children": list(children)})
        return
    state = f"{found.status}, current" if found.current else found.status
    output.line(f"snapshot  {found.name} of {found.domain} ({state})")
    if found.reason:
        output.line(f"reason    {found.reason}")
    output.line(f"created   {instant(found.created)}")
    output.line(f"parent    {found.parent or '-'}")
    output.line(f"children  {' '.join(children) or '-'}")
    width = max([8, *(len(disk.target) for disk in found.disks)])
    for disk in found.disks:
        output.line(f"{disk.target:{width}}  {disk.frozen} ({disk.format})")
    if found.memory is not None:
        output.line(f"{'memory':{width}}  {found.memory}")


async def _after_signal(engine: Engine, domain: str, name: str) -> Snapshot:
    """The snapshot, if it was taken before the signal took effect."""
    for run in await engine.creations():
        if (run.domain, run.snapshot) == (domain, name):
            raise Interrupted(
                run,
                f"Interrupted; the creation {run.id} is left open.",
                data="The disks are switched together or not at all.",
                remedy=f"Run `backfold recover {run.id}`.",
            )
    for snapshot in await engine.catalog.snapshots(domain):
        if snapshot.name == name:
            return snapshot
    raise failures.Stopped(
        f"Interrupted; the snapshot {name} was not taken.",
        data="The domain is as before.",
    )
