"""`diagram --of RUN`: the machine with the way that a run took."""

from __future__ import annotations

import shutil
import xml.etree.ElementTree as ET

import pytest

from cli.command import Cli
from cli.conftest import Inside
from written import Journal

DONE, OPEN = "c0" * 6, "a0" * 6


@pytest.fixture
def told(cli: Cli, inside: Inside) -> Inside:
    with Journal(cli.journal) as journal:
        journal.completed(DONE)
        journal.interrupted(OPEN)
    return inside


def test_the_machine_is_that_of_the_run(told: Inside) -> None:
    without = told("diagram", "--of", DONE[:3]).out
    named = told("diagram", "deletion", "--of", DONE).out
    plain = told("diagram", "deletion").out
    folds = told("diagram", "fold", "--of", DONE).out

    assert without == named != plain
    assert "decide [every_fold_voted]<br/>6 at +9.1 s" in named
    assert "vdb 7 at +11.6 s" in folds
    assert "still in it" in told("diagram", "--of", OPEN).out


def test_json_says_of_which_run(told: Inside) -> None:
    found = told.json("diagram", "diagram", "fold", "--of", DONE, "--format", "dot")
    plain = told.json("diagram", "diagram", "fold")

    assert (found["machine"], found["run"], found["format"]) == ("fold", DONE, "dot")
    assert found["diagram"].startswith("digraph")
    assert plain["run"] is None


def test_what_makes_no_sense_is_a_usage_error(told: Inside) -> None:
    for said, arguments in {
        "is not the id of any run": ["--of", "ffff"],
        "is not the id of a run": ["--of", "<script>"],
        "is a deletion, not a creation": ["creation", "--of", DONE],
        "Of which machine?": [],
    }.items():
        assert said in told("diagram", *arguments, status=2).err


def test_an_svg_is_drawn_by_dot(told: Inside) -> None:
    assert shutil.which("dot"), "Install Debian's package graphviz."
    svg = told("diagram", "fold", "--of", DONE, "--format", "svg").out
    texts = {text.strip() for text in ET.fromstring(svg).itertext()}

    assert {"retired", "vda after 11.6 s", "switch"} <= texts
    assert 'class="edge decided"' in svg
