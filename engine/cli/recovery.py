"""`backfold recover` and `backfold cancel`: what interrupted runs need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ...journal.errors import BackfoldError, Interrupted
from . import failures, lookups, outlooks
from .arguments import RunId
from .asking import asking
from .deletions import after_bug, given_up, left_open
from .invocation import Invocation
from .progress import listening
from .verdicts import Verdict, tell

if TYPE_CHECKING:
    from ...states.outlook import Outlook
    from ..api import Engine
    from ..diagnosis import Diagnosis
    from ..results import Run


def recover(
    ctx: typer.Context,
    deletion: Annotated[
        str | None,
        typer.Argument(
            metavar="DELETION",
            help="Its id, or the beginning of it. Without one, everything that was"
            " interrupted is recovered.",
        ),
    ] = None,
    roll_back: Annotated[
        bool,
        typer.Option("--roll-back", help="Give it up, if it is not decided yet."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only list what is interrupted and what would be done about it."
            " Takes no lock and writes nothing.",
        ),
    ] = False,
) -> int:
    """Finish what was interrupted. Safe to repeat, and to interrupt again.

    First it lists what is open, what it will do about it and why that is safe; at the
    end there is a verdict for each. A journal that is damaged, from a newer version or
    older than the disks is not used: what it still tells is shown.

    The exit status is that of the worst run: 0 when nothing is left open.
    """
    invocation: Invocation = ctx.obj
    invocation.streams = True
    journal = invocation.existing_journal()
    if journal is not None and (found := diagnosis(journal)) is not None:
        return outlooks.tell_diagnosis(found, invocation)

    async def work(engine: Engine) -> int:
        found = await engine.outlook(deletion, roll_back=roll_back)
        if deletion is None or found:
            outlooks.tell(found, invocation)
        if dry_run:
            return Interrupted.exit_status if found else 0
        verdicts = []
        for run in await _interrupted(engine, deletion, found):
            if invocation.stopping:
                verdict = Verdict.of_error(_not_begun(run), run)
            else:
                verdict = await _recover(invocation, engine, run, roll_back)
            verdicts.append(verdict)
            tell(verdict, invocation)
        if found:
            outlooks.tell_verdicts(verdicts, invocation)
        return max((verdict.status for verdict in verdicts), default=0)

    try:
        return invocation.run(work, copies_journal=dry_run)
    except failures.Stopped:
        raise failures.NotLooked(
            "Interrupted before it was known what is open.",
            data="Nothing was changed.",
            remedy="Run `backfold recover` again.",
        ) from None


def diagnosis(journal: Path) -> Diagnosis | None:
    """Whether a journal must not be used, looked at before anything opens it."""
    from ..diagnosis import diagnose

    return diagnose(journal)


def cancel(ctx: typer.Context, deletion: RunId) -> int:
    """Give an open deletion up and roll it back.

    That is possible before its decision. Whoever works on it is asked to;
    without anybody it is rolled back here.
    """
    invocation: Invocation = ctx.obj
    invocation.streams = True

    async def work(engine: Engine) -> Verdict:
        import asyncio

        try:
            run = await engine.cancel(deletion)
        except BackfoldError as error:
            machine, found = await lookups.find(engine, deletion)
            row = await engine.deletion(found) if machine == "deletion" else None
            return Verdict.of_error(error, row)
        except asyncio.CancelledError:
            return Verdict.of_error(left_open(await engine.deletion(deletion)))
        if run.state == "completed":
            late = failures.TooLate(
                f"The deletion {run.id} was completed before it could be cancelled.",
                data=f"The snapshot {run.snapshot} is gone; no write is lost.",
            )
            return Verdict.of_error(late, run)
        return Verdict(0, run)

    return tell(invocation.run(work), invocation)


async def _interrupted(
    engine: Engine, prefix: str | None, found: Sequence[Outlook]
) -> list[Run]:
    """The runs that were listed; one that was named may be finished already."""
    if prefix is not None:
        return [await engine.find(prefix)]
    return [await engine.find(outlook.run) for outlook in found]


async def _recover(
    invocation: Invocation, engine: Engine, run: Run, roll_back: bool
) -> Verdict:
    """Recover one run that may have been finished by somebody else meanwhile."""
    import asyncio

    if run.finished is not None:
        return Verdict(0, run)
    with listening(invocation) as listener, asking(invocation, listener) as asked:
        if _deletion_id(run) is not None:
            listener.attach(await engine.deletion(run.id))
        try:
            (outcome,) = await engine.recover(
                run.id, roll_back=roll_back, on_event=listener
            )
        except BackfoldError as error:
            outcome = error
        except asyncio.CancelledError:
            outcome = await _again(engine, run)
            if outcome.finished is None:
                outcome = _not_begun(outcome)
        except Exception as error:
            return await after_bug(invocation, engine, error, _deletion_id(run))
        if asked.given_up is not None and isinstance(outcome, Interrupted):
            return await given_up(engine, asked.given_up, listener)
    if isinstance(outcome, BackfoldError):
        return Verdict.of_error(outcome, await _again(engine, run))
    failed = outcome.state in ("rolled_back", "undone") and not roll_back
    return Verdict(5 if failed else 0, outcome)


async def _again(engine: Engine, run: Run) -> Run:
    """The run as it stands after an error."""
    return await engine.find(run.id)


def _deletion_id(run: Run) -> str | None:
    from ..results import Deletion

    return run.id if isinstance(run, Deletion) else None


def _not_begun(run: Run) -> Interrupted:
    return Interrupted(
        run,
        f"Interrupted; {run.id} is left open.",
        data="Nothing is lost.",
        remedy=f"Run `backfold recover {run.id}`.",
    )
