"""Listeners of runs: JSON lines, calm lines, or bars on a terminal.

Events come on the event loop while a guest may stand still, and a terminal may not
take a line for minutes (Ctrl-S, a broken connection, a pipe that nobody reads). So
a thread says everything; the loop only puts it into a queue.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from .. import records
from .invocation import Invocation
from .output import Output
from .pace import Pace
from .text import duration, instant, size

if TYPE_CHECKING:
    from ..events import AlarmEvent, DowntimeEvent, Event, ProgressEvent, StateEvent
    from ..results import Deletion

#: How soon a line tells of a disk's progress where nothing can be redrawn, seconds;
#: each takes twice as long as the one before, but none longer than the second.
CALM: Final = (5.0, 600.0)
#: How much may wait for a slow reader before progress is left out.
BACKLOG: Final = 1000

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


class Listener:
    """Hears the events of runs; knows the last one's id, even when nothing else does.

    It is called on the event loop and returns at once. The ``on_`` methods are called
    by a thread of its own, in the same order, from `open` to `close`.
    """

    def __init__(self, output: Output) -> None:
        """Say everything to ``output``."""
        self.output = output
        #: Whether the runs are those of other processes.
        self.others = False
        self.run: str | None = None
        #: The machine and the state of that run, when they were heard.
        self.machine: str | None = None
        self.state: str | None = None
        #: Told on the event loop whenever a state was heard.
        self.entered: Callable[[], None] | None = None
        self._seen: dict[tuple[str, str], tuple[int, int]] = {}
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._say_all, daemon=True)

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        from ..events import AlarmEvent, DowntimeEvent, StateEvent

        self.run = event.run
        if isinstance(event, StateEvent):
            self.machine, self.state = event.machine, event.state
            self.later(lambda: self.on_state(event))
            if self.entered is not None:
                self.entered()
        elif isinstance(event, DowntimeEvent):
            self.later(lambda: self.on_downtime(event))
        elif isinstance(event, AlarmEvent):
            self.later(lambda: self.on_alarm(event))
        elif self._waiting.qsize() < BACKLOG and self._is_news(event):
            self.later(lambda: self.on_progress(event))

    def attach(self, run: Deletion) -> None:
        """Know of a run that is under way what the journal has of it."""
        self.run, self.machine, self.state = run.id, "deletion", run.state
        self.later(lambda: self.on_attach(run))

    def later(self, say: Callable[[], None]) -> None:
        """Let the thread say something when all before it has been said."""
        self._waiting.put(say)

    def note(self, text: str) -> None:
        """A line beside the result, after everything before it."""
        self.later(lambda: self.output.note(text))

    def ask(self, question: Sequence[str]) -> None:
        """Show a question; somebody else reads the answer."""
        for line in question:
            self.note(line)

    def unask(self) -> None:
        """The question needs no answer any more."""

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Nothing more will come. Returns when everything was said."""
        self._waiting.put(None)
        self._thread.join()

    def on_attach(self, run: Deletion) -> None:
        """A run is gone on with."""

    def on_state(self, event: StateEvent) -> None:
        """A run has entered a state."""

    def on_progress(self, event: ProgressEvent) -> None:
        """A disk has moved."""

    def on_downtime(self, event: DowntimeEvent) -> None:
        """A guest was let go on."""

    def on_alarm(self, event: AlarmEvent) -> None:
        """Something unexpected has happened."""

    def _is_news(self, event: ProgressEvent) -> bool:
        """Whether it says another thing than the last one of this disk."""
        disk, now = (event.run, event.disk), (event.done, event.total)
        before = self._seen.get(disk)
        self._seen[disk] = now
        return before != now

    def _say_all(self) -> None:
        while (say := self._waiting.get()) is not None:
            try:
                say()
            except Exception:
                import structlog

                structlog.get_logger("backfold").exception("listener_failed")


class JsonLines(Listener):
    """A JSON object for each event."""

    def on_event(self, event: Event) -> None:
        """A line, as `backfold.as_json` gives it."""
        self.output.json(records.event(event))

    on_state = on_progress = on_downtime = on_alarm = on_event


class CalmLines(Listener):
    """A line per state, and now and then one per disk."""

    def __init__(self, output: Output) -> None:
        """Say everything to ``output``."""
        super().__init__(output)
        self._paces: dict[tuple[str, str], Pace] = {}
        #: Of each disk that copies: when a line is due, and how long after the last.
        self._due: dict[tuple[str, str], tuple[float, float]] = {}

    def on_state(self, event: StateEvent) -> None:
        """A line in words; the end of a run is left to the verdict."""
        if event.state == "prepare":
            # Nothing was copied yet, or the next pass begins.
            self._forget(event.run)
        if event.state in _WORDS:
            self._say(event.run, event.at, words(event))

    def on_progress(self, event: ProgressEvent) -> None:
        """A line, if one of this disk is due or the disk is done for the first time."""
        now, key = time.monotonic(), (event.run, event.disk)
        pace = self._paces.setdefault(key, Pace())
        was_copied = pace.is_copied
        pace.see(now, event.done, event.total)
        due, wait = self._due.setdefault(key, (now + CALM[0], CALM[0]))
        if not event.total or wait == 0:
            return
        if pace.is_copied and not was_copied:
            self._due[key] = (now, 0)
        elif now < due:
            return
        else:
            wait = min(2 * wait, CALM[1])
            self._due[key] = (now + wait, wait)
        self._say(event.run, event.at, f"{event.disk}: {_moved(pace, now)}")

    def on_downtime(self, event: DowntimeEvent) -> None:
        """A line with what the guest has noticed."""
        self._say(event.run, event.at, stood_still(event.downtime_ms))

    def on_alarm(self, event: AlarmEvent) -> None:
        """A line, where no log on standard error has it."""
        if self.others:
            self._say(event.run, event.at, f"alarm: {event.what}")

    def _forget(self, run: str) -> None:
        for key in [key for key in self._paces if key[0] == run]:
            del self._paces[key]
            self._due.pop(key, None)

    def _say(self, run: str, at: str, text: str) -> None:
        self.output.line(f"{instant(at)}  {run}  {text}")


@contextmanager
def listening(invocation: Invocation, *, others: bool = False) -> Iterator[Listener]:
    """A listener that suits whoever reads standard output.

    With ``others``, it is told of runs of other processes.
    """
    output = invocation.output
    listener: Listener
    if invocation.as_json:
        listener = JsonLines(output)
    elif output.is_interactive:
        from .bars import Bars

        listener = Bars(output)
    else:
        listener = CalmLines(output)
    listener.others = others
    listener.open()
    invocation.voice = listener.note
    try:
        yield listener
    finally:
        invocation.voice = None
        listener.close()


def words(event: StateEvent) -> str:
    """A state for people, and why it was entered if that was not planned."""
    why = because(event)
    return _WORDS[event.state] + (f" ({why})" if why else "")


def because(event: StateEvent) -> str | None:
    """Why a state was entered, if that was not planned."""
    found = event.detail.get("because")
    return found if isinstance(found, str) else None


def stood_still(milliseconds: float) -> str:
    """What the guest has noticed so far."""
    return f"the guest stood still for {milliseconds:.0f} ms"


def _moved(pace: Pace, now: float) -> str:
    done = f"{size(pace.done)} of {size(pace.total)} ({pace.share} %)"
    rate, left = pace.rate(now), pace.left(now)
    if pace.is_copied or rate is None:
        return done
    return f"{done}, {size(rate)}/s" + (f", {duration(left)} left" if left else "")
