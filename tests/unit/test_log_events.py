"""The names of log events are those of the list, and the list is in the docs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfold.engine.event_docs import main
from backfold.engine.log_events import OF_RUNS, OTHERS, log_events

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/reference/events.md"
NAME = re.compile(r"[a-z]+(\.[a-z_]+){1,2}")


def said() -> Iterator[tuple[str, str, frozenset[str]]]:
    """Level, name and fields of all that the code says with a literal name."""
    for path in ROOT.joinpath("engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "say"
                and len(node.args) == 2
                and all(isinstance(arg, ast.Constant) for arg in node.args)
            ):
                level, name = (ast.literal_eval(arg) for arg in node.args)
                yield level, name, frozenset(str(word.arg) for word in node.keywords)


def test_names_are_unique_and_of_one_form() -> None:
    names = [event.name for event in log_events()]

    assert len(set(names)) == len(names)
    assert [name for name in names if not NAME.fullmatch(name)] == []


def test_what_the_code_says_is_what_is_listed() -> None:
    """Beside states and steps, whose names come from the declarations."""
    listed = {
        (event.level, event.name, frozenset(event.fields))
        for event in (*OF_RUNS, *OTHERS)
    }

    assert set(said()) == listed


def test_the_page_is_that_of_the_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make diagrams` writes it."""
    assert main([str(PAGE), "--check"]) == 0, capsys.readouterr().err

    other = tmp_path / "reference" / "events.md"
    assert main([str(other), "--check"]) == 1
    assert "Refresh it by: make diagrams" in capsys.readouterr().err
    assert main([str(other)]) == 0
    assert other.read_bytes() == PAGE.read_bytes()
