"""`backfold snapshot revert`: what would be lost, the question, and the way back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...journal.errors import Interrupted, Refused, RolledBack
from .. import records
from . import failures, values, verdicts
from .asking import all_or_none
from .invocation import Invocation
from .plans import DomainName, IgnoreLibvirt, Secret
from .selecting import ImageDir

if TYPE_CHECKING:
    from ...journal.model import ReversionPlan
    from ..api import Engine
    from ..results import Reversion


def revert(
    ctx: typer.Context,
    domain: DomainName,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The snapshot.")],
    overlay: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET=PATH",
            help="Where a disk's new overlay goes; may be repeated. Otherwise beside"
            " the frozen image, with the snapshot's name as extension, and a number if"
            " that is taken.",
        ),
    ] = None,
    discard: Annotated[
        bool,
        typer.Option(
            "--discard", help="Discard what was written since the last snapshot."
        ),
    ] = False,
    ignore_libvirt: IgnoreLibvirt = False,
    image_dir: ImageDir = None,
    secret: Secret = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Go back to a snapshot, while the domain is off.

    Each disk gets a new overlay on the snapshot's image. What was written since the
    last snapshot is named first; only --discard gives it up.
    """
    invocation: Invocation = ctx.obj
    options: dict[str, Any] = {
        "overlays": values.paths(overlay or (), "--overlay"),
        "ignore_libvirt": ignore_libvirt,
        "image_folders": tuple(image_dir or ()),
        "secrets": values.secrets(secret),
    }
    if not yes:
        invocation.require_terminal()

        async def look(engine: Engine) -> ReversionPlan:
            return await engine.plan_revert(domain, name, **options)

        plan = invocation.run(look)
        invocation.show(describe(plan))
        refuse_discard(plan, discard)
        if not invocation.confirm(f"Revert {domain} to snapshot {name}?"):
            raise failures.Stopped("Not reverted.", data="Nothing was changed.")

    async def work(engine: Engine) -> int:
        import asyncio

        with all_or_none(invocation) as heard:
            try:
                done = await engine.revert(
                    domain, name, discard=discard, on_event=heard.append, **options
                )
            except asyncio.CancelledError:
                done = await _after_signal(engine, [event.run for event in heard])
        if invocation.as_json:
            invocation.output.json(records.reversion(done))
        else:
            invocation.output.lines(verdicts.of_reversion(done))
        return 0

    return invocation.run(work)


def describe(plan: ReversionPlan) -> Iterator[str]:
    """What a revert would do, for people."""
    yield f"Revert {plan.domain} to snapshot {plan.snapshot}"
    for disk in plan.disks:
        fate = "removed" if disk.stays is None else f"stays, {disk.stays}"
        yield f"{disk.target}"
        yield f"  boots from  {disk.overlay.overlay} (new, empty)"
        yield f"  based on    {disk.overlay.frozen.path}"
        yield f"  instead of  {disk.former.path} ({fate})"
        yield f"  discards    {verdicts.written(disk)}"
    yield from (f"{target}: {verdicts.LEFT_OUT}" for target in plan.untouched)
    yield from (f"{target}: {verdicts.NO_DISK}" for target in plan.missing)


def refuse_discard(plan: ReversionPlan, discard: bool) -> None:
    """Raise `Refused` before anybody is asked, when --discard is missing."""
    from ..reversion_plan import discard_reasons

    if not discard and (reasons := list(discard_reasons(plan))):
        raise Refused(reasons)


async def _after_signal(engine: Engine, seen: list[str]) -> Reversion:
    """The revert, if it ended before the signal took effect."""
    from ..results import Reversion

    run = await engine.find(seen[-1]) if seen else None
    if not isinstance(run, Reversion):
        raise failures.Stopped("Interrupted before anything was begun.")
    if run.finished is None:
        raise Interrupted(
            run,
            f"Interrupted; the reversion {run.id} is left open.",
            data="`backfold domain show` names the images to boot from, as ever.",
            remedy=f"Run `backfold recover {run.id}`.",
        )
    if run.state != "reverted":
        raise RolledBack(
            run,
            f"{run.domain} was not reverted to {run.snapshot}: {run.reason}.",
            data="The disks are as before; the new overlays were removed.",
            remedy="Revert again.",
        )
    return run
