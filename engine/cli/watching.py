"""`backfold status --watch`: follow deletions, whoever works on them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ...journal.errors import Interrupted
from . import failures
from .invocation import Invocation
from .progress import listening
from .verdicts import Verdict, tell

if TYPE_CHECKING:
    from ..api import Engine
    from ..results import Deletion

#: What the end of a run means for whoever waited for it.
_STATUS: Final = {"completed": 0, "rolled_back": 5, "refused": 3}


async def watch(engine: Engine, invocation: Invocation, deletion: str | None) -> int:
    """Follow one deletion, or all open ones, to the end; returns the exit status.

    Ctrl-C ends this and nothing else.
    """
    task = asyncio.current_task()
    assert task is not None
    # No word of safe points: nobody here works on anything.
    invocation.on_interrupt = task.cancel
    run = None if deletion is None else (await engine.deletion(deletion)).id
    followed: dict[str, None] = {} if run is None else {run: None}
    try:
        with listening(invocation, others=True) as listener:
            async for event in engine.follow(run):
                if event.run not in followed or listener.run is None:
                    followed[event.run] = None
                    listener.attach(await engine.deletion(event.run))
                listener(event)
    except asyncio.CancelledError:
        raise failures.Stopped(
            "Not watched any longer.",
            data="Whoever works on a deletion goes on with it.",
        ) from None
    if not followed and not invocation.as_json:
        invocation.output.note("No deletion is open.")
    verdicts = [_verdict(await engine.deletion(each)) for each in followed]
    return max((tell(verdict, invocation) for verdict in verdicts), default=0)


def _verdict(run: Deletion) -> Verdict:
    if not run.is_open:
        return Verdict(_STATUS[run.state], run)
    error = Interrupted(
        run,
        f"Nobody works on the deletion {run.id} any more; it is left open.",
        data="Nothing is lost.",
        remedy=f"Run `backfold recover {run.id}`.",
    )
    return Verdict.of_error(error, run)
