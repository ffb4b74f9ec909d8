"""Listeners of a run: JSON lines, calm lines, or bars on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from .. import records
from .invocation import Invocation
from .output import Output
from .text import duration, instant, size

if TYPE_CHECKING:
    from ..events import AlarmEvent, DowntimeEvent, Event, ProgressEvent, StateEvent

#: How often a line tells of a disk's progress where nothing can be redrawn, seconds.
CALM: Final = 5.0

_WORDS: Final = {
    "validate": "looking at the images",
    "prepare": "planning under the lock",
    "start_paused": "starting a paused QEMU, since the domain is off",
    "commit_per_disk": "copying",
    "vote": "every disk votes",
    "pivot": "decided; switching to the base images",
    "update_metadata": "recording it and removing superseded images",
    "stop": "ending the paused QEMU, checking the bases",
    "roll_back": "rolling back",
    "planned": "making overlays",
    "overlays_made": "switching to the overlays",
    "switched": "recording the snapshot",
}


#: States in which no byte is left to copy, whatever was heard last.
_COPIED: Final = ("pivot", "update_metadata", "stop", "completed")


class Listener:
    """Hears the events of one run; knows its id, even when nothing else does."""

    def __init__(self, output: Output) -> None:
        """Say everything to ``output``."""
        self.output = output
        self.run: str | None = None
        self._seen: dict[str, tuple[int, int]] = {}

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        from ..events import AlarmEvent, DowntimeEvent, StateEvent

        self.run = event.run
        if isinstance(event, StateEvent):
            self.on_state(event)
        elif isinstance(event, DowntimeEvent):
            self.on_downtime(event)
        elif isinstance(event, AlarmEvent):
            self.on_alarm(event)
        elif self._seen.get(event.disk) != (event.done, event.total):
            self._seen[event.disk] = (event.done, event.total)
            self.on_progress(event)

    def on_state(self, event: StateEvent) -> None:
        """The run has entered a state."""

    def on_progress(self, event: ProgressEvent) -> None:
        """A disk has moved."""

    def on_downtime(self, event: DowntimeEvent) -> None:
        """The guest was let go on."""

    def on_alarm(self, event: AlarmEvent) -> None:
        """Something is not as it should be; for people, the log says so."""

    def close(self) -> None:
        """Nothing more will come."""


class JsonLines(Listener):
    """A JSON object for each event."""

    def on_event(self, event: Event) -> None:
        """A line, as `backfold.as_json` gives it."""
        self.output.json(records.event(event))

    on_state = on_progress = on_downtime = on_alarm = on_event


class CalmLines(Listener):
    """A line per state, and one per disk every few seconds."""

    def __init__(self, output: Output) -> None:
        """Say everything to ``output``."""
        super().__init__(output)
        self._said: dict[str, float] = {}

    def on_state(self, event: StateEvent) -> None:
        """A line in words; the end of a run is left to the verdict."""
        if event.state in _WORDS:
            self.output.line(f"{_now()}  {event.run}  {_words(event)}")

    def on_progress(self, event: ProgressEvent) -> None:
        """A line, if the last one of this disk is old or the disk is done."""
        now = time.monotonic()
        last = self._said.setdefault(event.disk, now)
        if event.total and (now - last >= CALM or event.done >= event.total):
            self._said[event.disk] = now
            share = 100 * event.done // event.total
            self.output.line(
                f"{_now()}  {event.run}  {event.disk}: {size(event.done)}"
                f" of {size(event.total)} ({share} %)"
            )


class Bars(CalmLines):
    """A bar per disk, below a line per state."""

    def __init__(self, output: Output) -> None:
        """Draw on the terminal of ``output``."""
        from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
        from rich.text import Text

        class Moved(ProgressColumn):
            """Bytes, rate and time left, in the units of all other output."""

            def render(self, task: Task) -> Text:
                rate = f"{size(task.speed)}/s" if task.speed else "-"
                left = task.time_remaining
                return Text(
                    f"{size(task.completed)} of {size(task.total or 0)}  {rate}"
                    + (f"  {duration(left)} left" if left else "")
                )

        super().__init__(output)
        self._tasks: dict[str, Any] = {}
        self._state = ""
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %"),
            Moved(),
            TextColumn("{task.fields[state]}", style="cyan", markup=False),
            console=output.console,
        )
        self._progress.start()

    def on_state(self, event: StateEvent) -> None:
        """A line, and the state beside each bar."""
        super().on_state(event)
        self._state = event.state.replace("_", " ")
        for disk, task in self._tasks.items():
            self._progress.update(task, state=self._state)
            if event.state in _COPIED:
                self._progress.update(task, completed=self._seen[disk][1])

    def on_progress(self, event: ProgressEvent) -> None:
        """Move the disk's bar."""
        task = self._tasks.get(event.disk)
        if task is None:
            task = self._progress.add_task(event.disk, state=self._state)
            self._tasks[event.disk] = task
        self._progress.update(task, completed=event.done, total=event.total)

    def close(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()


@contextmanager
def listening(invocation: Invocation) -> Iterator[Listener]:
    """A listener that suits whoever reads standard output."""
    output = invocation.output
    listener: Listener
    if invocation.as_json:
        listener = JsonLines(output)
    elif output.is_interactive:
        listener = Bars(output)
    else:
        listener = CalmLines(output)
    try:
        yield listener
    finally:
        listener.close()


def _words(event: StateEvent) -> str:
    because = _because(event)
    return _WORDS[event.state] + (f" ({because})" if because else "")


def _because(event: StateEvent) -> str | None:
    because = event.detail.get("because")
    return because if isinstance(because, str) else None


def _now() -> str:
    return instant(datetime.now(UTC).isoformat())
