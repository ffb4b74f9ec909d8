"""`backfold status` and `backfold log`: what is open, and what has happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import records
from .arguments import RunId
from .invocation import Invocation
from .text import columns, duration, instant, safe, size

if TYPE_CHECKING:
    from ...journal.overview import RunLine
    from ...journal.rows import Rows
    from ...journal.runs import TransitionRow
    from ..results import Creation, Deletion, Reversion, Run

    _Seen = tuple[list[Deletion], list[Creation | Reversion], list[TransitionRow]]


def status(
    ctx: typer.Context,
    deletion: Annotated[
        str | None,
        typer.Argument(
            metavar="DELETION",
            help="Its id, or the beginning of it. Without one, the open and the recent"
            " ones are listed.",
        ),
    ] = None,
) -> int:
    """Show open and recent deletions, or one of them in detail."""
    invocation: Invocation = ctx.obj

    from ...journal.overview import overview

    output = invocation.output
    if deletion is None and not output.as_json:
        listed = invocation.ask(overview)
        if listed:
            output.lines(columns(_table(listed)))
        else:
            output.note("No deletion has been asked for yet.")
        return 0
    found, others, rows = invocation.ask(lambda rows: _look(rows, deletion))
    if output.as_json:
        output.json(_as_json(found, others))
    else:
        output.lines(_details(found[0], rows))
    return 0


def log(ctx: typer.Context, deletion: RunId) -> int:
    """Show the time line of a run from the journal."""
    invocation: Invocation = ctx.obj

    def look(rows: Rows) -> tuple[Run, list[TransitionRow]]:
        from ..history import History

        history = History(rows)
        return history.find(deletion), history.log(deletion)

    found, rows = invocation.ask(look)
    if invocation.as_json:
        machine = type(found).__name__.lower()
        entries = [records.entry(row, rows[0].at) for row in rows]
        invocation.output.json({"machine": machine, "run": found.id, "log": entries})
    else:
        invocation.output.lines(columns(_time_line(rows)))
    return 0


def _look(rows: Rows, deletion: str | None) -> _Seen:
    """One deletion with its log, or all deletions and what else is open."""
    from ..history import History

    history = History(rows)
    if deletion is not None:
        one = history.deletion(deletion)
        return [one], [], history.log(one.id)
    # What somebody has to care for comes first.
    found = sorted(history.deletions(), key=lambda run: not run.is_open)
    return found, [*history.creations(), *history.reversions()], []


def _as_json(
    found: list[Deletion], others: list[Creation | Reversion]
) -> dict[str, Any]:
    from ..results import Creation, Reversion

    return {
        "deletions": [{**records.deletion(run), "open": run.is_open} for run in found],
        "creations": [
            records.creation(run) for run in others if isinstance(run, Creation)
        ],
        "reversions": [
            records.reversion(run) for run in others if isinstance(run, Reversion)
        ],
    }


def _table(listed: Sequence[RunLine]) -> list[list[str]]:
    rows = [["RUN", "DOMAIN", "SNAPSHOT", "STATE", "STARTED", "TOOK", "REASON"]]
    for run in listed:
        rows.append(
            [
                run.id,
                run.domain,
                run.snapshot,
                run.state if run.finished else f"{run.state} (open)",
                instant(run.started),
                _took(run.started, run.finished),
                safe(run.reason or "-"),
            ]
        )
    return rows


def _took(started: str, finished: str | None) -> str:
    if finished is None:
        return "-"
    length = datetime.fromisoformat(finished) - datetime.fromisoformat(started)
    return duration(length.total_seconds())


def _details(run: Deletion, rows: Sequence[TransitionRow]) -> list[str]:
    state = f"{run.state} (open)" if run.is_open else run.state
    lines = [
        f"deletion  {run.id} of snapshot {run.snapshot} of {run.domain}",
        f"state     {state}",
    ]
    if run.reason:
        lines.append(f"reason    {run.reason}")
    lines.append(f"started   {instant(run.started)}")
    if run.finished is not None and run.seconds is not None:
        took = duration(run.seconds)
        lines.append(f"finished  {instant(run.finished)}, after {took}")
    elif rows:
        last = rows[-1]
        lines.append(f"last row  {last.trigger} by {last.who}, {instant(last.at)}")
        lines.append(f"next      `backfold recover {run.id}`, unless somebody is at it")
    if run.downtime_ms is not None:
        lines.append(f"downtime  {run.downtime_ms:.0f} ms")
    for disk in run.disks:
        what = f"{disk.strategy}, {disk.state}, {size(disk.bytes)} planned"
        lines += [
            f"{disk.target}: {what}",
            f"  top   {disk.top}",
            f"  base  {disk.base}",
        ]
    return lines


def _time_line(rows: Sequence[TransitionRow]) -> list[list[str]]:
    lines = [["TIME", "SINCE", "WHAT", "KIND", "WHO", "DETAIL"]]
    began = datetime.fromisoformat(rows[0].at)
    for row in rows:
        at = datetime.fromisoformat(row.at)
        moved = f" → {row.dest}" if row.dest != row.source else ""
        disk = row.detail.get("disk") if row.machine == "fold" else None
        place = f"{safe(disk)}: {row.source}" if disk else row.source
        what = f"{place}{moved}" if moved else f"{place}/{row.trigger}"
        lines.append(
            [
                at.strftime("%H:%M:%S.%f")[:-3],
                f"+{(at - began).total_seconds():.3f}",
                what,
                row.kind if not moved else row.trigger,
                safe(row.who),
                safe(_told(row)),
            ]
        )
    return lines


def _told(row: TransitionRow) -> str:
    """The detail of a row in one short line; `--json` has it whole."""
    parts = []
    for key, value in row.detail.items():
        if row.machine == "fold" and key == "disk":
            continue
        text = value if isinstance(value, str) else _compact(value)
        parts.append(text if key in ("because", "what") else f"{key}={text}")
    return " ".join(parts)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
