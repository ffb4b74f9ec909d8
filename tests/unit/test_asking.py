"""What a Ctrl-C is met with, by what is known of the run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backfold.engine.cli import asking
from backfold.engine.cli.asking import Asking, all_or_none
from backfold.engine.cli.invocation import Invocation
from backfold.engine.cli.progress import Listener
from backfold.engine.events import StateEvent
from backfold.states.creation import CREATION
from backfold.states.deletion import DELETION

RUN = "f825c66ac1f0"
UNDECIDED = ("validate", "prepare", "start_paused", "commit_per_disk", "vote")


class Said(Listener):
    """Keeps what would be said."""

    def __init__(self) -> None:
        super().__init__(Invocation().output)
        self.said: list[str] = []
        self.asks = False

    def note(self, text: str) -> None:
        self.said.append(text)

    def ask(self, question: object) -> None:
        self.asks = True

    def unask(self) -> None:
        self.asks = False


class Desk:
    """Somebody at a terminal, whose keys are pressed by calls."""

    def __init__(self) -> None:
        self.invocation = Invocation()
        self.listener = Said()
        self.invocation.voice = self.listener.note
        self.asking = Asking(self.invocation, self.listener)
        self.listener.entered = self.asking.entered
        self.press: Callable[[str], None] | None = None

    @contextmanager
    def keys(self, pressed: Callable[[str], None]) -> Iterator[None]:
        self.press = pressed
        yield
        self.press = None

    def enter(self, state: str, machine: str = "deletion") -> None:
        self.listener(StateEvent(RUN, "web", "s1", state, {}, machine))


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    made = Desk()
    monkeypatch.setattr(asking, "keys", made.keys)
    monkeypatch.setattr(asking, "_somebody_there", lambda: True)
    return made


@pytest.mark.parametrize("state", UNDECIDED)
def test_it_asks_before_the_decision(desk: Desk, state: str) -> None:
    desk.enter(state)

    assert desk.asking.interrupted()
    assert desk.listener.asks
    assert not desk.invocation.stopping


@pytest.mark.parametrize(
    "state", [s.name for s in DELETION.states if s.name not in UNDECIDED]
)
def test_it_tells_once_after_the_decision(desk: Desk, state: str) -> None:
    """And then leaves it: the second Ctrl-C is met as any other signal."""
    desk.enter(state)

    assert desk.asking.interrupted()
    assert len(desk.listener.said) == 1
    assert not desk.listener.asks
    assert not desk.asking.interrupted()


@pytest.mark.parametrize("state", [state.name for state in CREATION.states])
def test_it_does_not_ask_about_what_is_over_in_a_moment(desk: Desk, state: str) -> None:
    desk.enter(state, "creation")

    assert desk.asking.interrupted()
    assert "all disks or none" in desk.listener.said[0]
    assert not desk.asking.interrupted()


@pytest.mark.parametrize(
    ("keys", "stops", "gives_up"),
    [
        *[("r", True, True), ("R", True, True), ("l", True, False), ("L", True, False)],
        *[("\n", False, False), ("\r", False, False), ("\x1b", False, False)],
        *[("xyl", True, False), ("lr", True, False), ("rl", True, True)],
        ("\nr", False, False),
    ],
)
def test_keys(desk: Desk, keys: str, stops: bool, gives_up: bool) -> None:
    desk.enter("commit_per_disk")
    assert desk.asking.interrupted()
    assert desk.press is not None
    press = desk.press
    for key in keys:
        press(key)

    assert not desk.listener.asks
    assert desk.press is None
    assert desk.invocation.stopping is stops
    assert (desk.asking.given_up == RUN) is gives_up
    assert len(desk.listener.said) == stops


def test_no_answer_is_an_answer(desk: Desk) -> None:
    """A question that has lost its sense goes away, and its keys with it."""
    desk.enter("vote")
    assert desk.asking.interrupted()
    desk.enter("commit_per_disk")  # It has backed off.
    assert desk.listener.asks
    desk.enter("vote")
    desk.enter("pivot")

    assert not desk.listener.asks
    assert desk.press is None
    assert "decided now" in desk.listener.said[0]
    assert not desk.invocation.stopping


@pytest.mark.parametrize("state", ["roll_back", "refused"])
def test_a_question_ends_with_the_run(desk: Desk, state: str) -> None:
    desk.enter("prepare")
    assert desk.asking.interrupted()
    desk.enter(state)

    assert desk.press is None
    assert not any("no way back" in line for line in desk.listener.said)


def test_a_second_ctrl_c_leaves_it(desk: Desk) -> None:
    desk.enter("commit_per_disk")

    assert desk.asking.interrupted()
    assert not desk.asking.interrupted()
    assert not desk.listener.asks
    assert desk.press is None
    assert desk.asking.given_up is None


def test_before_there_is_a_run_nothing_is_asked(desk: Desk) -> None:
    assert not desk.asking.interrupted()


def test_nobody_there_is_nobody_to_ask(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_somebody_there", lambda: False)
    desk.enter("commit_per_disk")

    assert not desk.asking.interrupted()


def test_snapshots_are_waited_for_once(capsys: pytest.CaptureFixture[str]) -> None:
    invocation = Invocation()
    with all_or_none(invocation) as heard:
        assert invocation.on_interrupt is not None
        assert not invocation.on_interrupt()
        heard.append(StateEvent(RUN, "web", "s1", "planned", {}, "creation"))
        assert invocation.on_interrupt()
        assert "all disks or none" in capsys.readouterr().err
        assert not invocation.on_interrupt()
    assert invocation.on_interrupt is None


def test_a_question_that_ends_in_the_background_stops_nothing() -> None:
    """A stopped engine could leave a guest standing."""
    terminal, below = os.openpty()
    job = Path(__file__).with_name("job_that_asks.py")
    try:
        subprocess.run(
            [sys.executable, job],
            stdin=below,
            start_new_session=True,
            check=True,
            timeout=60,
        )
    finally:
        os.close(below)
        os.close(terminal)
