"""`backfold status` and `backfold log`: what is open, and what has happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import records
from . import lookups
from .invocation import Invocation
from .recovery import RunId
from .text import columns, duration, instant, safe, size

if TYPE_CHECKING:
    from ...journal.runs import TransitionRow
    from ..api import Engine
    from ..results import Deletion, Run


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

    async def work(engine: Engine) -> int:
        if deletion is None:
            found = await engine.deletions()
            creations = await engine.creations()
            reversions = await engine.reversions()
        else:
            found = [await engine.deletion(deletion)]
            creations, reversions = [], []
        # What somebody has to care for comes first.
        found.sort(key=lambda run: not run.is_open)
        output = invocation.output
        if invocation.as_json:
            deletions = [
                {**records.deletion(run), "open": run.is_open} for run in found
            ]
            interrupted = [records.creation(run) for run in creations]
            reverts = [records.reversion(run) for run in reversions]
            output.json(
                {
                    "deletions": deletions,
                    "creations": interrupted,
                    "reversions": reverts,
                }
            )
        elif deletion is not None:
            output.lines(_details(found[0], await engine.log(found[0].id)))
        elif found or creations or reversions:
            output.lines(columns(_table([*creations, *reversions], found)))
        else:
            output.note("No deletion has been asked for yet.")
        return 0

    return invocation.run(work)


def log(ctx: typer.Context, deletion: RunId) -> int:
    """Show the time line of a run from the journal."""
    invocation: Invocation = ctx.obj

    async def work(engine: Engine) -> int:
        machine, run = await lookups.find(engine, deletion)
        rows = await engine.log(run)
        if invocation.as_json:
            entries = [records.entry(row, rows[0].at) for row in rows]
            invocation.output.json({"machine": machine, "run": run, "log": entries})
        else:
            invocation.output.lines(columns(_time_line(rows)))
        return 0

    return invocation.run(work)


def _table(others: Sequence[Run], deletions: Sequence[Deletion]) -> list[list[str]]:
    rows = [["RUN", "DOMAIN", "SNAPSHOT", "STATE", "STARTED", "TOOK", "REASON"]]
    listed: list[tuple[Run, float | None]] = [
        *((run, None) for run in others),
        *((run, run.seconds) for run in deletions),
    ]
    for run, seconds in listed:
        rows.append(
            [
                run.id,
                run.domain,
                run.snapshot,
                run.state if run.finished else f"{run.state} (open)",
                instant(run.started),
                "-" if seconds is None else duration(seconds),
                safe(run.reason or "-"),
            ]
        )
    return rows


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
