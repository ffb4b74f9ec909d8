"""How runs stand: the open ones and what to do about them, and recent deletions.

The list must be there at once: it is made of the lines of the journal's overview, and
loads nothing of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from ...journal import holders, overview
from ...journal.holders import Holder
from ...journal.overview import RunLine
from ...journal.times import seconds_between
from .text import columns, duration, instant, safe, wrapped

if TYPE_CHECKING:
    from ...journal.rows import Rows
    from ...states.outlook import Outlook
    from ..story import Story
    from .stories import Line


class Standing(NamedTuple):
    """Runs, the open ones first; and of the open ones who works on them, if anybody.

    ``more`` says that there are older deletions.
    """

    runs: tuple[RunLine, ...]
    workers: dict[str, Holder | None]
    more: bool = False

    @property
    def open_runs(self) -> list[RunLine]:
        """The runs that somebody has to go on with."""
        return [run for run in self.runs if run.finished is None]


def look(rows: Rows, recent: int | None = overview.RECENT) -> Standing:
    """Every open run, and the newest finished deletions: ``recent``, or all (None)."""
    found = overview.overview(rows, None if recent is None else recent + 1)
    finished = sum(run.finished is not None for run in found)
    more = recent is not None and finished > recent
    return Standing(tuple(found[:-1] if more else found), workers(rows, found), more)


def workers(rows: Rows, runs: list[RunLine]) -> dict[str, Holder | None]:
    """Who works on each open run just now, as far as it can be seen."""
    return {
        run.id: holders.worker(overview.images_of(rows, run))
        for run in runs
        if run.finished is None
    }


def table(standing: Standing, width: int | None) -> Iterator[Line]:
    """One line for each run, and for the open ones what to do."""
    rows = [["RUN", "DOMAIN", "SNAPSHOT", "STATE", "STARTED", "TOOK", "REASON"]]
    for run in standing.runs:
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
    for number, line in enumerate(columns(rows)):
        is_open = number > 0 and standing.runs[number - 1].finished is None
        yield _cut(line, width), "bold" if is_open else None
    if standing.more:
        yield "Older ones: `backfold status --all`.", None
    for run in standing.open_runs:
        yield "", None
        for line in wrapped("", todo(run, standing.workers.get(run.id)), width):
            yield line, None


def todo(run: RunLine, worker: Holder | None) -> str:
    """What to do about an open run, or who does it already."""
    what = f"The {run.machine} {run.id} is open."
    if worker is not None:
        return f"{what} Process {worker.pid} works on it: {worker.command}"
    return (
        f"{what} Nobody is seen working on it: `backfold recover {run.id}` finishes it;"
        " with --dry-run it only says how, and why that is safe."
    )


def details(
    story: Story, outlook: Outlook | None, worker: Holder | None, width: int | None
) -> Iterator[Line]:
    """One run in words; of an open one what happened and what recovery will do."""
    from .stories import field, header

    yield from header(story, width)
    if outlook is None:
        yield from field(
            "more", f"`backfold log {story.run}` tells how it went.", width
        )
        return
    last = f"{instant(outlook.last)} by {outlook.who or 'nobody'}"
    yield from field("heard of", last, width)
    for happened in outlook.happened:
        yield from field("happened", happened, width)
    for will in outlook.will:
        yield from field("will", will, width)
    yield from field("safe", outlook.safe, width)
    yield "", None
    for line in wrapped("", todo(line_of(story), worker), width):
        yield line, None


def line_of(story: Story) -> RunLine:
    """A run in the form of the overview."""
    return RunLine(
        story.machine,
        story.run,
        story.domain,
        story.snapshot,
        story.state,
        story.reason,
        story.started,
        story.finished,
        story.downtime_ms,
    )


def as_json(run: RunLine, worker: Holder | None) -> dict[str, Any]:
    """What is to be done about an open run."""
    seen = None if worker is None else {"pid": worker.pid, "command": worker.command}
    return {
        "machine": run.machine,
        "run": run.id,
        "domain": run.domain,
        "snapshot": run.snapshot,
        "state": run.state,
        "worker": seen,
        "next": None if worker is not None else f"backfold recover {run.id}",
    }


def _took(started: str, finished: str | None) -> str:
    took = None if finished is None else seconds_between(started, finished)
    return "-" if took is None else duration(took)


def _cut(line: str, width: int | None) -> str:
    if width is None or len(line) <= width:
        return line
    return line[: max(0, width - 3)] + "..."
