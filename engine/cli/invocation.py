"""One run of the program: its global options, its engine, its signals."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ...journal.errors import UsageError
from ...journal.location import default_journal, is_missing
from . import failures
from .output import Output

if TYPE_CHECKING:
    from asyncio import Task

    from ...journal.rows import Rows
    from ..api import Engine

T = TypeVar("T")

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Invocation:
    """What the global options said, and what every command needs."""

    as_json: bool = False
    verbose: bool = False
    journal: Path | None = None
    #: Whether the command answers with a line per event (`delete`, `recover`).
    streams: bool = False
    #: Whether a signal asked to stop.
    stopping: bool = False
    #: Whether the work is over and only the journal is left to close.
    done: bool = False
    #: Meets a Ctrl-C while a run goes on; False when it wants nothing to do with it.
    on_interrupt: Callable[[], bool] | None = None
    #: Says a line while a run goes on, without making the event loop wait.
    voice: Callable[[str], None] | None = None
    output: Output = field(init=False)
    _task: Task[Any] | None = None

    def __post_init__(self) -> None:
        """Make the output."""
        self.use(as_json=self.as_json)

    def use(self, *, as_json: bool) -> None:
        """Decide what standard output carries."""
        self.as_json = as_json
        self.output = Output(as_json)

    def run(
        self,
        work: Callable[[Engine], Coroutine[Any, Any, T]],
        *,
        creates_journal: bool = False,
        copies_journal: bool = False,
    ) -> T:
        """Open the engine, do the work, close it.

        The first SIGINT, SIGTERM or SIGHUP cancels the work, which then ends at a
        safe point (a SIGINT only if `on_interrupt` does not meet it); work that does
        not say itself what that means ends in `Stopped`.
        Only a command that ``creates_journal`` makes a missing one. One that
        ``copies_journal`` works on a private copy: the journal is not written, not
        even to bring it to this version.
        """
        import asyncio

        from .logs import configured

        async def whole() -> T:
            self._listen_to_signals()
            async with self._engine(creates_journal, copies_journal) as engine:
                result = await work(engine)
                # From here on a signal must not turn success into failure.
                self.done = True
                return result

        before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.done = False
        try:
            with configured(verbose=self.verbose, as_json=self.as_json):
                return asyncio.run(whole())
        except asyncio.CancelledError:
            raise failures.stopped() from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask(self, question: Callable[[Rows], T]) -> T:
        """What the journal says, at once and without an engine.

        It is only read, in one transaction; a missing one stays missing, and nothing
        has happened in it.
        """
        from ...journal.look import look, look_at_nothing

        path = self.existing_journal()
        if path is not None:
            return look(path, question)
        self._say_missing()
        return look_at_nothing(question)

    def existing_journal(self) -> Path | None:
        """The journal's path, if there is something at it."""
        path = self._path()
        return None if is_missing(path) else path

    def stop(self, what: str = "stopping at the next safe point ...") -> None:
        """Cancel the work, once; after that only say what is going on."""
        if self.stopping:
            self.say(
                "still on the way to a safe point. Nothing is lost if you"
                f" `kill -9 {os.getpid()}`; `backfold recover` goes on from there."
            )
            return
        self.stopping = True
        self.say(what)
        if self._task is not None:
            self._task.cancel()

    def confirm(self, question: str) -> bool:
        """Ask on the terminal. Anything but yes means no."""
        self.output.errors.write(f"{question} [y/N] ")
        try:
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            answer = ""
        if not answer.endswith("\n"):
            self.output.note("")
        return answer.strip().lower() in ("y", "yes")

    def show(self, lines: Iterable[str]) -> None:
        """Show what a question is about, wherever standard output goes."""
        is_seen = self.output.stdout.isatty()
        for line in (*lines, ""):
            (self.output.line if is_seen else self.output.note)(line)

    def require_terminal(self) -> None:
        """Raise `UsageError` when there is nobody to ask."""
        if not (sys.stdin.isatty() and self.output.errors.isatty()):
            raise UsageError(
                "There is no terminal to ask on whether you are sure.",
                remedy="Add --yes if you are.",
            )

    def trace(self, error: BaseException) -> None:
        """With -v, show where an unexpected exception came from."""
        if self.verbose:
            import traceback

            for line in "".join(traceback.format_exception(error)).splitlines():
                self.output.note(line)

    def _listen_to_signals(self) -> None:
        import asyncio

        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            # Under nohup a hang-up is of no concern, nor Ctrl-C to a background job.
            if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._signalled, number)

    def _path(self) -> Path:
        return self.journal or default_journal()

    def _say_missing(self) -> None:
        self.say(f"there is no journal {self._path()} yet.")

    def _signalled(self, number: signal.Signals) -> None:
        if self.done:
            return
        if number == signal.SIGINT and not self.stopping:
            if self.on_interrupt is not None and self.on_interrupt():
                return
        self.stop()

    def say(self, text: str) -> None:
        """Say what is going on, to people."""
        if not self.as_json:
            (self.voice or self.output.note)(f"backfold: {text}")

    @asynccontextmanager
    async def _engine(
        self, creates_journal: bool, copies_journal: bool
    ) -> AsyncIterator[Engine]:
        """An open engine; a missing journal stays missing unless it is to be made.

        An empty journal in a temporary directory stands in for it: a mistyped
        --journal must not leave files behind.
        """
        from ..api import Engine

        path = self._path()
        if copies_journal and path.is_file() and not path.is_symlink():
            from ...journal.audit import private_copy

            with private_copy(path) as copy:
                async with Engine(copy) as engine:
                    yield engine
            return
        if creates_journal or not is_missing(path):
            async with Engine(path) as engine:
                yield engine
            return
        import tempfile

        self._say_missing()
        with tempfile.TemporaryDirectory(prefix="backfold-") as folder:
            async with Engine(Path(folder, "journal.db")) as engine:
                yield engine
