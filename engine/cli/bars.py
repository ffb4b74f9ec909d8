"""Bars on a terminal: for each run a line and a bar per disk, below what is said."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

from .output import Output
from .pace import Pace
from .progress import CalmLines, stood_still
from .text import count, duration, safe, size

if TYPE_CHECKING:
    from ..events import DowntimeEvent, ProgressEvent, StateEvent
    from ..results import Deletion

#: States in which no byte is left to copy, whatever was heard last.
_COPIED: Final = ("pivot", "update_metadata", "stop", "completed")
_ENDS: Final = ("completed", "rolled_back", "refused")
#: What a header says of a state, where its own name would not do.
_NOW: Final = {
    "validate": "looking",
    "prepare": "planning",
    "start_paused": "starting a paused QEMU",
    "commit_per_disk": "copying",
    "vote": "voting",
    "pivot": "decided, switching",
    "update_metadata": "decided, recording",
    "stop": "decided, checking",
    "roll_back": "rolling back",
}
#: Lines of the terminal that are left to what is said above the bars.
_ABOVE: Final = 4


class _Told(ProgressColumn):
    """Something about the pace of a disk, at the right of its column.

    Rich's own columns for bytes, rate and time left begin anew whenever a total
    changes, and it does each time that the guest writes; their units are others, too.
    """

    def __init__(self, what: str) -> None:
        super().__init__(Column(justify="right", no_wrap=True))
        self._tell = {
            "share": lambda pace, _: f"{pace.share} %",
            "done": lambda pace, _: size(pace.done),
            "moved": lambda pace, _: f"{size(pace.done)} of {size(pace.total)}",
            "rate": _rate,
            "left": _left,
        }[what]

    def render(self, task: Task) -> Text:
        return Text(self._tell(task.fields["pace"], time.monotonic()))


def _rate(pace: Pace, now: float) -> str:
    rate = None if pace.is_copied else pace.rate(now)
    return "" if rate is None else f"{size(rate)}/s"


def _left(pace: Pace, now: float) -> str:
    if pace.is_copied:
        return "copied"
    left = pace.left(now)
    if left is None:
        return ""
    return "< 1 s left" if left < 1 else f"{duration(left)} left"


@dataclass
class _Run:
    """What is shown of one run."""

    name: str
    state: str
    began: float
    downtime: float | None = None
    ended: float | None = None
    disks: dict[str, TaskID] = field(default_factory=dict)

    def header(self) -> Text:
        took = (self.ended or time.monotonic()) - self.began
        now = _NOW.get(self.state, self.state.replace("_", " "))
        told = Text.assemble((self.name, "bold"), ": ", (now, "cyan"))
        told.append(f", {duration(took) if took >= 60 else f'{took:.0f} s'}")
        if self.downtime is not None:
            told.append(f"; {stood_still(self.downtime)}")
        return told


class Display(Progress):
    """Rich's progress display, with headers, a question, and no more than fits."""

    def __init__(self, console: Console) -> None:
        """Draw on ``console``; nothing is shown yet."""
        # Rich asks for what is shown before its own parts are there.
        self.runs: dict[str, _Run] = {}
        self.question: Sequence[str] = ()
        self._screen = console
        super().__init__(console=console, refresh_per_second=4)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Headers, bars and the question, for the terminal as wide as it is now."""
        width, height = self._screen.size
        self.columns = _columns(width)
        asked = Text("\n".join(self.question), "bold")
        heads = [run.header() for run in list(self.runs.values())]
        taken = sum(_height(text, width) for text in (*heads, asked))
        room = max(1, (height - _ABOVE - taken) // max(1, len(heads)))
        for run, head in zip(list(self.runs.values()), heads, strict=False):
            yield head
            yield from self._bars(run, room)
        if self.question:
            yield asked

    def _bars(self, run: _Run, room: int) -> Iterator[RenderableType]:
        tasks = {task.id: task for task in self.tasks}
        disks = [tasks[each] for each in list(run.disks.values()) if each in tasks]
        shown = disks
        if len(disks) > room:
            # Those that still copy come first; the sort keeps their order.
            moving = sorted(disks, key=lambda task: task.fields["pace"].is_copied)
            chosen = {task.id for task in moving[: max(0, room - 1)]}
            shown = [task for task in disks if task.id in chosen]
        if shown:
            yield self.make_tasks_table(shown)
        if hidden := [task for task in disks if task not in shown]:
            paces = [task.fields["pace"] for task in hidden]
            done, total = (
                sum(getattr(p, of) for p in paces) for of in ("done", "total")
            )
            share = 100 * done // total if total else 0
            more = count(len(hidden), "more disk" if shown else "disk")
            yield Text(f"{more}: {share} %, {size(done)} of {size(total)}", "dim")


class Bars(CalmLines):
    """A bar per disk and a line per run, below a line per state."""

    def __init__(self, output: Output) -> None:
        """Draw on the terminal of ``output``."""
        super().__init__(output)
        self._display = Display(output.console)

    def open(self) -> None:
        """Begin to draw."""
        self._display.start()
        # Whoever is killed cannot bring a hidden cursor back.
        self.output.console.show_cursor(True)
        super().open()

    def close(self) -> None:
        """Say everything, and leave the bars as they are."""
        super().close()
        self._display.stop()

    def on_attach(self, run: Deletion) -> None:
        """Begin with what the journal has of the run."""
        self._begin(run.id, run.domain, run.snapshot, run.state, run.started)
        self._display.runs[run.id].downtime = run.downtime_ms

    def on_state(self, event: StateEvent) -> None:
        """A line, and the state above the bars."""
        super().on_state(event)
        if event.run not in self._display.runs:
            where = event.domain, event.snapshot
            self._begin(event.run, *where, event.state, event.at)
        run = self._display.runs[event.run]
        run.state = event.state
        if event.state in _ENDS:
            run.ended = time.monotonic()
        if event.state in _COPIED:
            for disk, task in run.disks.items():
                pace = self._paces[event.run, disk]
                pace.see(time.monotonic(), pace.total, pace.total)
                self._display.update(task, completed=pace.total)
        self._display.refresh()

    def on_progress(self, event: ProgressEvent) -> None:
        """Move the disk's bar."""
        run = self._display.runs.get(event.run)
        if run is None:
            return
        pace = self._paces.setdefault((event.run, event.disk), Pace())
        pace.see(time.monotonic(), event.done, event.total)
        if event.disk not in run.disks:
            run.disks[event.disk] = self._display.add_task(
                safe(event.disk), total=None, pace=pace
            )
        self._display.update(
            run.disks[event.disk], completed=event.done, total=event.total or None
        )

    def on_downtime(self, event: DowntimeEvent) -> None:
        """A line, and beside the state."""
        super().on_downtime(event)
        if (run := self._display.runs.get(event.run)) is not None:
            run.downtime = event.downtime_ms

    def ask(self, question: Sequence[str]) -> None:
        """Show a question below the bars."""
        self.later(lambda: self._show(question))

    def unask(self) -> None:
        """Take the question away."""
        self.later(lambda: self._show(()))

    def _begin(
        self, run: str, domain: str, snapshot: str, state: str, since: str
    ) -> None:
        name = safe(f"{snapshot} of {domain}")
        self._display.runs[run] = _Run(name, state, time.monotonic() - _age(since))

    def _show(self, question: Sequence[str]) -> None:
        self._display.question = [safe(line) for line in question]
        self._display.refresh()

    def _forget(self, run: str) -> None:
        super()._forget(run)
        if (shown := self._display.runs.get(run)) is not None:
            for task in shown.disks.values():
                self._display.remove_task(task)
            shown.disks.clear()


def _columns(width: int) -> tuple[str | ProgressColumn, ...]:
    """What fits on a line, the most important first."""
    name = TextColumn("{task.description}", "bold", markup=False)
    name.get_table_column().no_wrap = True
    names: tuple[Any, ...] = (name, BarColumn(bar_width=_bar(width)), _Told("share"))
    if width < 50:
        return (*names, _Told("done"))
    if width < 72:
        return (*names, _Told("done"), _Told("left"))
    return (*names, _Told("moved"), _Told("rate"), _Told("left"))


def _bar(width: int) -> int:
    """How wide a bar may be."""
    return max(4, min(40, width - (66 if width >= 72 else 40 if width >= 50 else 26)))


def _height(text: Text, width: int) -> int:
    """How many lines a text takes."""
    lines = text.plain.split("\n") if text.plain else []
    return sum(max(1, -(-len(line) // max(1, width))) for line in lines)


def _age(since: str) -> float:
    """How long ago that was, seconds."""
    try:
        passed = datetime.now(UTC) - datetime.fromisoformat(since)
    except (ValueError, TypeError):
        return 0.0
    return max(0.0, passed.total_seconds())
