"""`backfold recover` and `backfold cancel`: what interrupted runs need."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ...journal.errors import BackfoldError, Interrupted
from . import failures, lookups
from .deletions import after_bug, left_open
from .invocation import Invocation
from .progress import listening
from .text import instant
from .verdicts import Verdict, tell

if TYPE_CHECKING:
    from ..api import Engine
    from ..results import Creation, Deletion

RunId = Annotated[
    str,
    typer.Argument(metavar="DELETION", help="Its id, or the beginning of it."),
]


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
) -> int:
    """Finish what was interrupted. Safe to repeat, and to interrupt again.

    The exit status is that of the worst run.
    """
    invocation: Invocation = ctx.obj
    invocation.streams = True

    async def work(engine: Engine) -> int:
        todo = await _interrupted(engine, deletion)
        if not todo and not invocation.as_json:
            invocation.output.line("Nothing is interrupted.")
        worst = 0
        for run in todo:
            if not invocation.as_json:
                invocation.output.line(_describe(run))
            if invocation.stopping:
                verdict = Verdict.of_error(_not_begun(run), run)
            else:
                verdict = await _recover(invocation, engine, run, roll_back)
            worst = max(worst, tell(verdict, invocation))
        return worst

    try:
        return invocation.run(work)
    except failures.Stopped:
        raise Interrupted(
            None,
            "Interrupted before it was known what is open.",
            data="Nothing was changed.",
            remedy="Run `backfold recover` again.",
        ) from None


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


async def _interrupted(engine: Engine, prefix: str | None) -> list[Deletion | Creation]:
    """The runs to recover: the one that was named, or all that are open."""
    if prefix is None:
        found = await engine.deletions(only_open=True)
        return [*await engine.creations(), *found]
    return [await engine.find(prefix)]


async def _recover(
    invocation: Invocation, engine: Engine, run: Deletion | Creation, roll_back: bool
) -> Verdict:
    """Recover one run that may have been finished by somebody else meanwhile."""
    import asyncio

    if run.finished is not None:
        return Verdict(0, run)
    with listening(invocation) as listener:
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
    if isinstance(outcome, BackfoldError):
        return Verdict.of_error(outcome, await _again(engine, run))
    failed = outcome.state in ("rolled_back", "undone") and not roll_back
    return Verdict(5 if failed else 0, outcome)


async def _again(engine: Engine, run: Deletion | Creation) -> Deletion | Creation:
    """The run as it stands after an error."""
    return await engine.find(run.id)


def _deletion_id(run: Deletion | Creation) -> str | None:
    from ..results import Deletion

    return run.id if isinstance(run, Deletion) else None


def _not_begun(run: Deletion | Creation) -> Interrupted:
    return Interrupted(
        run,
        f"Interrupted; {run.id} is left open.",
        data="Nothing is lost.",
        remedy=f"Run `backfold recover {run.id}`.",
    )


def _describe(run: Deletion | Creation) -> str:
    kind = "creation" if _deletion_id(run) is None else "deletion"
    state = run.state.replace("_", " ")
    begun = f"{kind} {run.id} of snapshot {run.snapshot} of {run.domain}"
    if run.finished is not None:
        return f"Finished already: {begun} ({state} {instant(run.finished)})"
    return f"Open: {begun}, in {state}, begun {instant(run.started)}"
