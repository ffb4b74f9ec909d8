"""`backfold status` and `backfold log`: what is open, and what has happened."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...journal.errors import UsageError
from ...journal.times import seconds_between
from .arguments import RunId
from .invocation import Invocation
from .text import columns, safe

if TYPE_CHECKING:
    from ...journal.rows import Rows
    from ...journal.runs import TransitionRow
    from ...states.outlook import Outlook
    from ..results import Run
    from ..story import Story
    from .standing import Standing


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
    everything: Annotated[
        bool, typer.Option("--all", help="List all deletions, not only recent ones.")
    ] = False,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Follow it, or all open ones, until they end, whoever works on them."
            " The exit status is that of the worst end; Ctrl-C ends only the watching.",
        ),
    ] = False,
) -> int:
    """Show open and recent deletions, or one of them in detail.

    Open ones come first, with what to do about each, and who is working on it.
    """
    invocation: Invocation = ctx.obj
    invocation.streams = watch
    if watch and everything:
        raise UsageError("--all and --watch exclude each other.")
    if watch:
        from .watching import watch as follow

        return invocation.run(lambda engine: follow(engine, invocation, deletion))
    from ...journal.overview import RECENT
    from . import standing

    output = invocation.output
    recent = None if everything else RECENT
    if output.as_json:
        output.json(invocation.ask(lambda rows: _as_json(rows, deletion, recent)))
    elif deletion is not None:
        story, outlook, seen = invocation.ask(lambda rows: _look_at(rows, deletion))
        worker = seen.workers.get(story.run)
        for line, style in standing.details(story, outlook, worker, output.width):
            output.line(line, style)
    else:
        found = invocation.ask(lambda rows: standing.look(rows, recent))
        if not found.runs:
            output.note("No deletion has been asked for yet.")
            return 0
        for line, style in standing.table(found, output.width):
            output.line(line, style)
    return 0


def log(
    ctx: typer.Context,
    deletion: RunId,
    steps: Annotated[
        bool,
        typer.Option("--steps", help="Every row of the journal, as it was written."),
    ] = False,
) -> int:
    """Tell what happened in a run, from the journal.

    Each state with the time that it took, each step with its length and what QEMU
    answered, the decision, who took it over, alarms, and the reason of its end. Also
    for the taking of snapshots and for reverts.
    """
    invocation: Invocation = ctx.obj
    output = invocation.output

    def look(rows: Rows) -> tuple[Story, list[TransitionRow]]:
        from ..history import History

        history = History(rows)
        return history.story(deletion), history.log(deletion)

    story, rows = invocation.ask(look)
    if output.as_json:
        from .. import records

        entries = [records.entry(row, rows[0].at) for row in rows]
        run = {"machine": story.machine, "run": story.run}
        output.json({**run, "log": entries, "story": records.story(story)})
    elif steps:
        output.lines(columns(_rows(rows)))
    else:
        from . import stories

        for line, style in stories.header(story, output.width):
            output.line(line, style)
        for line, style in stories.time_line(story, output.width):
            output.line(line, style)
    return 0


def _look_at(rows: Rows, run: str) -> tuple[Story, Outlook | None, Standing]:
    """One run, of whatever kind. Raises `UsageError`."""
    from ..history import History
    from . import standing

    history = History(rows)
    story = history.story(run)
    line = standing.line_of(story)
    seen = standing.Standing((line,), standing.workers(rows, [line]))
    return story, history.outlook(story.run), seen


def _as_json(rows: Rows, run: str | None, recent: int | None) -> dict[str, Any]:
    """The runs by their kind, whole, and what to do about the open ones."""
    from .. import records
    from ..history import History
    from ..results import Creation, Deletion, Reversion
    from . import standing

    history = History(rows)
    if run is None:
        seen = standing.look(rows, recent)
    else:
        seen = _look_at(rows, run)[2]
    found: list[Run] = [history.find(line.id) for line in seen.runs]
    return {
        "deletions": [
            {**records.deletion(one), "open": one.is_open}
            for one in found
            if isinstance(one, Deletion)
        ],
        "creations": [
            records.creation(one) for one in found if isinstance(one, Creation)
        ],
        "reversions": [
            records.reversion(one) for one in found if isinstance(one, Reversion)
        ],
        "open": [
            standing.as_json(line, seen.workers[line.id]) for line in seen.open_runs
        ],
        "more": seen.more,
    }


def _rows(rows: Sequence[TransitionRow]) -> list[list[str]]:
    lines = [["TIME", "SINCE", "WHAT", "KIND", "WHO", "DETAIL"]]
    for row in rows:
        since = seconds_between(rows[0].at, row.at)
        moved = f" → {row.dest}" if row.dest != row.source else ""
        disk = row.detail.get("disk") if row.machine == "fold" else None
        place = f"{safe(disk)}: {row.source}" if disk else row.source
        what = f"{place}{moved}" if moved else f"{place}/{row.trigger}"
        lines.append(
            [
                safe(row.at[11:23]),
                "-" if since is None else f"+{since:.3f}",
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
