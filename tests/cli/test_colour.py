"""Colours are an addition: without them every word is still there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from backfold.journal import runs
from backfold.journal.runs import Author
from cli.command import COMMAND, Cli, Terminal
from cli.conftest import Inside
from written import Journal, plan

STYLE = re.compile(r"\x1b\[([0-9;]*)m")
ESCAPE = "\x1b"
LATER = "2026-01-31T04:00:00.000000+00:00"
DONE, BACK, OPEN = "c0" * 6, "b0" * 6, "a0" * 6


@pytest.fixture
def told(cli: Cli) -> Cli:
    with Journal(cli.journal) as journal:
        journal.completed(DONE)
        journal.rolled_back(BACK)
        left = journal.interrupted(OPEN, plan())
        runs.claim(left.db, "deletion", OPEN, Author("bob@host:2", LATER))
    return cli


def shown(cli: Cli, *arguments: str, term: str = "xterm", **variables: str) -> str:
    """Everything that a command sends to a terminal."""
    named = [f"{name}={value}" for name, value in variables.items()]
    terminal = Terminal(cli, *arguments, term=term, program=["env", *named, *COMMAND])
    assert terminal.finish() == 0
    return terminal.seen


def colours(text: str) -> list[str]:
    """Every order for a colour; bold and dim are none."""
    return [
        number
        for order in STYLE.findall(text)
        for number in order.split(";")
        if number and (30 <= int(number) <= 49 or 90 <= int(number) <= 107)
    ]


def test_no_color_takes_only_colours_away(told: Cli) -> None:
    usual = shown(told, "log", OPEN)
    plain = shown(told, "log", OPEN, NO_COLOR="1", FORCE_COLOR="1")
    dumb = shown(told, "log", OPEN, term="dumb")

    assert colours(usual)
    assert colours(plain) == []
    assert ESCAPE not in dumb
    assert STYLE.sub("", usual) == STYLE.sub("", plain) == dumb


def test_force_color_styles_what_a_pipe_gets(
    told: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    usual = inside("log", OPEN)
    monkeypatch.setenv("FORCE_COLOR", "1")
    forced, answer = inside("log", OPEN), inside("--json", "status").out
    monkeypatch.setenv("NO_COLOR", "1")
    neither = inside("log", OPEN)
    monkeypatch.setenv("FORCE_COLOR", "")
    monkeypatch.setenv("NO_COLOR", "")
    empty = inside("log", OPEN)

    assert ESCAPE not in usual.out + usual.err + answer
    assert colours(forced.out)
    assert STYLE.sub("", forced.out) == usual.out
    assert neither == empty == usual


def test_what_is_coloured_has_a_mark_of_its_own() -> None:
    from backfold.engine.cli import stories

    marks = stories._MARKS
    assert {mark for mark, style in marks.values() if "red" in style} == {"!"}
    assert all(mark.strip() for mark, _ in marks.values())


def test_colours_are_asked_for_in_few_places() -> None:
    """Whoever adds one says here how the same is told without it."""
    folder = Path(__file__).parents[2] / "engine" / "cli"
    names = re.compile(r'"[a-z ]*\b(red|green|yellow|blue|magenta|cyan)\b')
    found = {
        path.name
        for path in folder.glob("*.py")
        if names.search(path.read_text(encoding="utf-8"))
    }

    # The state beside a disk's name is a word, and a story has marks.
    assert found <= {"bars.py", "stories.py"}
