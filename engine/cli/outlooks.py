"""What `backfold recover` says before and after it works: outlooks and verdicts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ...journal.errors import Interrupted
from . import failures
from .invocation import Invocation
from .text import columns, count, instant, safe
from .verdicts import Verdict, as_json

if TYPE_CHECKING:
    from ...states.outlook import Outlook
    from ..diagnosis import Diagnosis


def tell(found: Sequence[Outlook], invocation: Invocation) -> None:
    """List everything interrupted, before anything is done about it."""
    output = invocation.output
    if invocation.as_json:
        for outlook in found:
            output.json({"event": "outlook", "time": _now(), **_fields(outlook)})
        return
    if not found:
        output.line("Nothing is interrupted.")
        return
    is_one = len(found) == 1
    output.line(f"{count(len(found), 'run')} {'is' if is_one else 'are'} interrupted.")
    for outlook in found:
        output.line()
        output.lines(_lines(outlook))
    output.line()


def tell_verdicts(verdicts: Sequence[Verdict], invocation: Invocation) -> None:
    """A line for each run when there were several, and what is left to do."""
    if invocation.as_json or not verdicts:
        return
    output = invocation.output
    output.line()
    rows = [[v.run.id, _subject(v), _word(v)] for v in verdicts if v.run is not None]
    output.lines("  ".join(["verdict", line]) for line in columns(rows))
    left = [v.run.id for v in verdicts if v.run is not None and not v.run.finished]
    if left:
        output.line(f"{count(len(left), 'run')} left open: {' '.join(left)}")
    else:
        output.line("Nothing is left open.")


def tell_diagnosis(found: Diagnosis, invocation: Invocation) -> int:
    """A journal that must not be used: why, and what is still knowable of it.

    Something may be open, and nobody can tell: that is the exit status.
    """
    output = invocation.output
    verdict = Verdict(Interrupted.exit_status, None, found.problem)
    if invocation.as_json:
        output.json({"event": "diagnosis", "time": _now(), **_diagnosed(found)})
        output.json(as_json(verdict))
        return verdict.status
    for line in failures.explain(found.problem):
        output.note(line)
    output.note("  What can still be read, for rescue by hand:")
    for line in found.lines():
        output.note(f"    {line}")
    return verdict.status


def _lines(outlook: Outlook) -> Iterator[str]:
    yield (
        f"{outlook.machine} {outlook.run} of snapshot {outlook.snapshot}"
        f" of {outlook.domain}"
    )
    by = f" by {outlook.who}" if outlook.who else ""
    last = instant(outlook.last)
    yield f"  since     {instant(outlook.begun)}; last heard of {last}{by}"
    state = outlook.state.replace("_", " ")
    yield f"  state     {state}{', decided' if outlook.decided else ''}"
    yield from (f"  happened  {safe(what)}" for what in outlook.happened)
    yield from (f"  will      {what}" for what in outlook.will)
    yield f"  safe      {outlook.safe}"


def _fields(outlook: Outlook) -> dict[str, Any]:
    return {
        "machine": outlook.machine,
        "run": outlook.run,
        "domain": outlook.domain,
        "snapshot": outlook.snapshot,
        "state": outlook.state,
        "started": outlook.begun,
        "last": outlook.last,
        "who": outlook.who,
        "step": outlook.step,
        "held": outlook.held,
        "decided": outlook.decided,
        "happened": list(outlook.happened),
        "will": list(outlook.will),
        "safe": outlook.safe,
    }


def _diagnosed(found: Diagnosis) -> dict[str, Any]:
    return {
        "journal": str(found.journal.absolute()),
        "code": found.problem.code,
        "found": list(found.audit.complaints),
        "open": [
            {
                "machine": run.machine,
                "run": run.id,
                "domain": run.domain,
                "snapshot": run.snapshot,
                "state": run.state,
                "started": run.started,
                "disks": [
                    {"target": target, "state": state, "top": top, "base": base}
                    for target, state, top, base in run.images
                ],
            }
            for run in found.audit.open_runs
        ],
        "disks": [
            {"domain": domain, "target": target, "source": source}
            for domain, target, source in found.audit.disks
        ],
        "fences": [
            {"path": fence.path, "image": fence.image, "run": fence.run}
            for fence in found.fences
        ],
    }


def _subject(verdict: Verdict) -> str:
    run = verdict.run
    return "" if run is None else safe(f"{run.snapshot} of {run.domain}")


def _word(verdict: Verdict) -> str:
    """How a run ended, or that it is open and what to do next."""
    run = verdict.run
    assert run is not None
    state = run.state.replace("_", " ")
    if run.finished is not None:
        return state + (f": {safe(run.reason)}" if run.reason else "")
    remedy = "" if verdict.error is None else safe(verdict.error.remedy)
    return f"still open in {state}. Next: {remedy or f'backfold recover {run.id}'}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
