"""`backfold delete`: the plan, the question, the run, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...journal.errors import AlreadyDecided, BackfoldError, Interrupted
from . import failures, selecting, values
from .asking import asking
from .invocation import Invocation
from .lookups import open_deletion
from .plans import DomainName, IgnoreLibvirt, Secret, SnapshotName, describe, make_plan
from .progress import Listener, listening
from .verdicts import Verdict, tell

if TYPE_CHECKING:
    from ..api import Engine
    from ..results import Deletion


def delete(
    ctx: typer.Context,
    domain: DomainName,
    snapshot: SnapshotName,
    through: selecting.Through = None,
    children: selecting.Children = False,
    children_only: selecting.ChildrenOnly = False,
    metadata_only: selecting.MetadataOnly = False,
    strategy: selecting.Strategy = "auto",
    image_dir: selecting.ImageDir = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            metavar="RATE", help="Copy at most this per second and disk, as in 50M."
        ),
    ] = None,
    max_downtime: Annotated[
        int,
        typer.Option(
            metavar="MS", help="How long the guest may stand still for the pivot."
        ),
    ] = 500,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", help="Roll back if it is not decided after this time."
        ),
    ] = None,
    ignore_libvirt: IgnoreLibvirt = False,
    secret: Secret = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Delete a snapshot, a range, or a subtree, while the domain runs or is off.

    Images that are needed no more are folded into their neighbours, or removed.
    """
    invocation: Invocation = ctx.obj
    invocation.streams = True
    options: dict[str, Any] = {
        "bandwidth": values.rate(bandwidth),
        "max_downtime_ms": values.downtime(max_downtime),
        "timeout": values.timeout(timeout),
    }
    selection = {
        **selecting.options(
            through, children, children_only, metadata_only, strategy, image_dir
        ),
        "ignore_libvirt": ignore_libvirt,
        "secrets": values.secrets(secret),
    }
    if not yes:
        invocation.require_terminal()
        plan, removed = make_plan(invocation, domain, snapshot, selection)
        invocation.show(describe(plan, removed, invocation.output.width))
        names = ", ".join(plan.snapshots)
        which = "snapshot" if len(plan.snapshots) == 1 else "snapshots"
        if not invocation.confirm(f"Delete {which} {names} of {domain}?"):
            raise failures.Stopped("Not deleted.", data="Nothing was changed.")

    async def work(engine: Engine) -> Verdict:
        import asyncio

        with listening(invocation) as listener, asking(invocation, listener) as asked:
            try:
                done = await engine.delete(
                    domain, snapshot, on_event=listener, **options, **selection
                )
                return Verdict(0, done)
            except BackfoldError as error:
                if asked.given_up is not None and isinstance(error, Interrupted):
                    return await given_up(engine, asked.given_up, listener)
                refused = getattr(error, "deletion", None)
                run = refused if isinstance(refused, str) else listener.run
                row = None if run is None else await engine.deletion(run)
                return Verdict.of_error(error, row, domain, snapshot)
            except asyncio.CancelledError:
                return await _after_signal(engine, domain, snapshot, listener.run)
            except Exception as error:
                return await after_bug(invocation, engine, error, listener.run)

    return tell(invocation.run(work), invocation)


async def given_up(engine: Engine, run: str, listener: Listener) -> Verdict:
    """Roll an open deletion back, because somebody chose that at the terminal.

    If it was decided in the meantime there is only forward.
    """
    try:
        return Verdict(0, await engine.roll_back(run, on_event=listener))
    except AlreadyDecided:
        listener.note("backfold: it was decided before that; it is finished instead.")
    except BackfoldError as error:
        return Verdict.of_error(error, await engine.deletion(run))
    try:
        return Verdict(0, await engine.resume(run, on_event=listener))
    except BackfoldError as error:
        return Verdict.of_error(error, await engine.deletion(run))


async def _after_signal(
    engine: Engine, domain: str, snapshot: str, run: str | None
) -> Verdict:
    """What a signal left behind that came before the run could answer to it."""
    run = run or await open_deletion(engine, domain)
    if run is None:
        error = failures.Stopped("Interrupted before anything was begun.")
        return Verdict(error.exit_status, None, error, domain, snapshot)
    found = await engine.deletion(run)
    if found.state == "completed":
        return Verdict(0, found)
    return Verdict.of_error(left_open(found))


def left_open(run: Deletion) -> Interrupted:
    """The error of a run that nobody works on any more."""
    return Interrupted(
        run,
        f"Interrupted; the deletion {run.id} is left open.",
        data="The guest runs as before; nothing is lost.",
        remedy=f"Run `backfold recover {run.id}`.",
    )


async def after_bug(
    invocation: Invocation, engine: Engine, error: Exception, run: str | None
) -> Verdict:
    """An exception that nobody expected: say so, and whether a run is open now."""
    invocation.trace(error)
    told = failures.bug(error)
    row = None if run is None else await engine.deletion(run)
    if row is not None and row.is_open:
        told.exit_status = Interrupted.exit_status
        told.remedy = f"Run `backfold recover {row.id}`. {told.remedy}"
    return Verdict(told.exit_status, row, told)
