"""What Ctrl-C means while a run goes on: at a terminal, it asks once.

The work goes on below the question. No answer is an answer: the run goes on, too.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from .invocation import Invocation
from .progress import Listener

if TYPE_CHECKING:
    from ..events import Event

_QUESTION: Final = (
    "r      roll it back: the domain goes on as before, and what is there stays",
    "l      leave it as it stands, for `backfold recover`",
    "Enter  let it go on",
)


class Asking:
    """Meets Ctrl-C for one run after the other, as long as it is in charge."""

    def __init__(self, invocation: Invocation, listener: Listener) -> None:
        """Ask through ``listener``, and stop the work of ``invocation``."""
        self._invocation = invocation
        self._listener = listener
        #: The run whose roll back was chosen.
        self.given_up: str | None = None
        self._asked = ExitStack()
        self._is_asking = False
        self._has_told = False

    def interrupted(self) -> bool:
        """Meet a Ctrl-C; False leaves it to whoever would meet it otherwise."""
        from ...states.deletion import UNDECIDED

        run, state = self._listener.run, self._listener.state
        if self._is_asking:
            self._end()
            return False
        if self._has_told or run is None or state is None or not _somebody_there():
            return False
        if self._listener.machine != "deletion":
            return self._told("all disks or none: that is finished first.")
        if state == "roll_back":
            return self._told("it is being rolled back; that is finished first.")
        if state not in UNDECIDED:
            return self._told(
                "it is decided, so that there is no way back; the switch is finished"
                " in a moment. Press Ctrl-C again to leave what is then left to"
                f" `backfold recover {run}`."
            )
        self._ask(run)
        return True

    def entered(self) -> None:
        """The run has entered a state: the question may have lost its sense."""
        from ...states.deletion import DELETION, UNDECIDED

        run, state = self._listener.run, self._listener.state
        if not self._is_asking or state in UNDECIDED - {"roll_back"}:
            return
        self._end()
        if state not in (*UNDECIDED, *DELETION.final):
            self._listener.note(
                f"backfold: {run} is decided now; there is no way back."
            )

    def close(self) -> None:
        """Nobody is asked any more; the terminal is as it was."""
        self._end()

    def _told(self, what: str) -> bool:
        self._has_told = True
        self._listener.note(f"backfold: {what}")
        return True

    def _ask(self, run: str) -> None:
        first = f"The deletion {run} goes on while you choose. Nothing is decided yet,"
        self._is_asking = True
        self._asked.enter_context(keys(self._answered))
        self._listener.ask([first, "so that both are safe:", *_QUESTION])

    def _answered(self, key: str) -> None:
        if not self._is_asking or key not in "\r\n\x1brRlL":
            return
        self._end()
        if key in "lL":
            self._invocation.stop("stopping at the next safe point ...")
        elif key in "rR":
            self.given_up = self._listener.run
            self._invocation.stop("rolling back ...")

    def _end(self) -> None:
        if self._is_asking:
            self._is_asking = False
            self._asked.close()
            self._listener.unask()


@contextmanager
def asking(invocation: Invocation, listener: Listener) -> Iterator[Asking]:
    """Meet Ctrl-C with a question, where there is somebody to answer it."""
    asked = Asking(invocation, listener)
    if invocation.as_json:
        yield asked
        return
    invocation.on_interrupt, listener.entered = asked.interrupted, asked.entered
    try:
        with _not_suspended(listener):
            yield asked
    finally:
        invocation.on_interrupt = listener.entered = None
        asked.close()


@contextmanager
def all_or_none(invocation: Invocation) -> Iterator[list[Event]]:
    """Meet the first Ctrl-C with a line, where there is nothing to choose.

    For runs that switch all disks or none, which takes a moment; yields a list for
    their events. Before there is one, Ctrl-C stops everything.
    """
    heard: list[Event] = []
    told = False

    def interrupted() -> bool:
        nonlocal told
        if told or not heard:
            return False
        told = True
        invocation.say("all disks or none: that is finished first.")
        return True

    invocation.on_interrupt = interrupted
    try:
        yield heard
    finally:
        invocation.on_interrupt = None


@contextmanager
def _not_suspended(listener: Listener) -> Iterator[None]:
    """Meet Ctrl-Z with a line: a suspended engine could leave a guest standing."""
    import asyncio

    loop = asyncio.get_running_loop()
    if signal.getsignal(signal.SIGTSTP) != signal.SIG_DFL:
        yield
        return
    told = (
        "backfold: not suspended, since a guest could be left standing still. Ctrl-C"
        " asks what to do."
    )
    loop.add_signal_handler(signal.SIGTSTP, listener.note, told)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTSTP)


@contextmanager
def keys(pressed: Callable[[str], None]) -> Iterator[None]:
    """Hear single keys of the terminal, without an echo; the loop is never blocked."""
    import asyncio
    import termios
    import tty

    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def read() -> None:
        try:
            typed = os.read(terminal, 64)
        except OSError:
            typed = b""
        if not typed:  # Whoever sat there is gone; a hang-up is a signal, too.
            loop.remove_reader(terminal)
        for key in typed.decode(errors="replace"):
            pressed(key)

    before = termios.tcgetattr(terminal)
    # What was typed before the question is no answer to it. Nothing here waits for
    # the output: the terminal may have stopped.
    termios.tcflush(terminal, termios.TCIFLUSH)
    tty.setcbreak(terminal, termios.TCSANOW)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        with suppress(termios.error), _in_the_background():
            termios.tcsetattr(terminal, termios.TCSANOW, before)


@contextmanager
def _in_the_background() -> Iterator[None]:
    """Touch the terminal even if it is another job's by now.

    The kernel would stop the process for that, perhaps while a guest stands still.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _somebody_there() -> bool:
    """Whether a person can see a question and answer it.

    A process in the background would be stopped for touching the terminal.
    """
    if not (sys.stdin.isatty() and os.isatty(2)):
        return False
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except OSError:
        return False
