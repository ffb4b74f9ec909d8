"""Every scenario of the peer that the documentation lists names a test that exists."""

from __future__ import annotations

import pytest

from docs.test_attacks import ROOT, TEST, names_in

PAGE = ROOT / "docs" / "scenarios.md"
#: The rows that must be there: its acceptance tests, and its reasons to refuse.
ROWS = [f"A{n}" for n in range(1, 16)] + [f"V{n}" for n in range(1, 11)]
FILES = [
    "tests/real/test_peer_scenarios.py",
    "tests/real/test_peer_scenarios_memory.py",
    "tests/real/test_peer_branches.py",
    "tests/cli/test_peer_scenarios.py",
]


def named(row: str) -> list[tuple[str, str]]:
    """The tests that the row of a scenario names."""
    lines = PAGE.read_text().splitlines()
    (found,) = [line for line in lines if line.startswith(f"| {row} |")]
    return TEST.findall(found)


@pytest.mark.parametrize("row", ROWS)
def test_every_scenario_names_a_test_that_exists(row: str) -> None:
    """A row without one claims what nobody has tried."""
    assert named(row)
    for path, name in named(row):
        assert name in names_in(ROOT / path), (path, name)


@pytest.mark.parametrize("path", FILES)
def test_every_test_of_a_scenario_is_listed(path: str) -> None:
    """The files that hold nothing but scenarios are told completely."""
    listed = {name for row in ROWS for file, name in named(row) if file == path}
    names = {name for name in names_in(ROOT / path) if name.startswith("test_")}
    assert names == listed
