"""What the documents say is tested, is: every test that they name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INTERNALS = ROOT / "docs" / "internals.md"
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: A test in backticks; a file of tests has a suffix.
NAMED = re.compile(r"`(test_\w+)`")


def existing() -> set[str]:
    """The names of all tests."""
    return {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(document: Path) -> None:
    """Also after somebody has renamed one."""
    assert set(NAMED.findall(document.read_text())) <= existing()


def test_every_thing_that_recovery_meets_has_a_test() -> None:
    """Each row of that table names at least one."""
    _, _, text = INTERNALS.read_text().partition("Things that recovery meets")
    table, _, _ = text.partition("\n|")[2].partition("\n\n")
    rows = table.splitlines()[2:]

    assert len(rows) > 20
    assert [row for row in rows if not NAMED.search(row)] == []
