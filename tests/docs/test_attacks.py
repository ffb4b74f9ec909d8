"""Every attack that the documentation lists has a test of that name."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "attacks.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows() -> list[str]:
    """The rows of the tables, without their heads."""
    lines = PAGE.read_text().splitlines()
    return [
        line
        for line in lines
        if line.startswith("| ") and not line.startswith("| attack |")
    ]


def names_in(path: Path) -> set[str]:
    """The names of a file's test functions, also of those in classes."""
    tree = ast.parse(path.read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_attack_names_a_test_that_exists() -> None:
    """A row without one claims what nobody has tried."""
    assert len(rows()) > 25
    for row in rows():
        named = TEST.findall(row)
        assert named, row
        for path, name in named:
            assert name in names_in(ROOT / path), (path, name)


def test_every_test_of_an_attack_is_listed() -> None:
    """The files that hold nothing but attacks are told completely."""
    listed = set(TEST.findall(PAGE.read_text()))
    for path in ("tests/real/test_attacks.py", "tests/crash/test_peer_failures.py"):
        names = {name for name in names_in(ROOT / path) if name.startswith("test_")}
        assert names == {name for file, name in listed if file == path}
