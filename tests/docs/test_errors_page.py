"""docs/reference/errors.md has every code of the source, as the source has it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from backfold.journal import errors

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "errors.md"
TOOL = ROOT / "tools" / "errors_page.py"
CODE = re.compile(r"[a-z]+(_[a-z]+)+")
#: In these, names of states, steps, metrics and log events stand before texts.
OTHER_NAMES = {
    "creation.py",
    "deletion.py",
    "fold.py",
    "log_events.py",
    "metric_families.py",
    "owner_steps.py",
    "questions.py",
    "reversion.py",
}


def said() -> Iterator[tuple[str, str]]:
    """Codes with their places: a name of several words, and a sentence after it."""
    for folder in ("engine", "states", "journal"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name in OTHER_NAMES:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                match node:
                    case ast.Call(args=[ast.Constant(value=str(code)), *more]):
                        pass
                    case ast.Tuple(elts=[ast.Constant(value=str(code)), *more]):
                        pass
                    case _:
                        continue
                has_text = any(
                    isinstance(part, ast.JoinedStr | ast.Constant)
                    and " " in ast.unparse(part).strip("f'\"")
                    for part in more
                )
                if has_text and CODE.fullmatch(code):
                    yield code, f"{path.name}:{node.lineno}"


def test_every_code_of_the_source_is_on_the_page() -> None:
    page = PAGE.read_text()
    codes = {*re.findall(r"^### (\w+)$", page, re.M), *re.findall(r"`(\w+)`", page)}

    missing = {(code, where) for code, where in said() if code not in codes}

    assert missing == set()
    assert len(list(said())) > 50
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.BackfoldError):
            assert f"`{kind.__name__}` | `{kind.code}` |" in page


def test_the_page_is_that_of_the_source() -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "--check"], capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (0, "")
