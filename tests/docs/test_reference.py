"""The pages and the man pages that are made of help texts and schemas."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from backfold.engine import cli_docs, generated_page, json_docs, man_pages
from backfold.engine.cli.commands import COMMANDS
from backfold.engine.command_tree import exit_statuses, whole

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def test_the_committed_pages_are_those_of_the_code() -> None:
    for name, module in (("cli", cli_docs), ("json", json_docs)):
        committed = REFERENCE.joinpath(f"{name}.md").read_text(encoding="utf-8")
        assert committed == module.page(), f"refresh it by {generated_page.REFRESH}"


def test_each_command_and_parameter_is_on_the_page() -> None:
    page = cli_docs.page()
    for command in whole().walk():
        assert f"\n## {command.path}\n" in page
        for each in command.parameters:
            assert each.help
            assert f"`{each.written}`".replace("|", "\\|") in page


def test_every_exit_status_is_told() -> None:
    told = exit_statuses(whole())

    assert [status for status, _ in told] == list("0123456")
    assert told[6][1] == "something is left open, run `backfold recover`"


def test_a_link_leads_to_each_form_and_each_is_there() -> None:
    page = json_docs.page()
    anchors = set(re.findall(r"^##+ ([\w-]+)$", page, re.MULTILINE))

    assert set(re.findall(r"\]\(#([\w-]+)\)", page)) <= anchors


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    assert man_pages.main([str(folder)]) == 0
    return folder


def test_man_pages_are_without_warnings(pages: Path) -> None:
    written = sorted(pages.glob("*.1"))
    command = ["groff", "-man", "-ww", "-Tutf8", "-z", *map(str, written)]
    done = subprocess.run(command, capture_output=True, text=True)

    assert {"backfold.1", "backfold-delete.1", "backfold-domain-add.1"} <= {
        page.name for page in written
    }
    assert len(written) == len(list(whole().walk()))
    assert (done.returncode, done.stderr) == (0, "")


def test_a_man_page_says_what_the_help_says(pages: Path) -> None:
    command = ["groff", "-man", "-Tascii", "-P-cbou", str(pages / "backfold-delete.1")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shown = " ".join(done.stdout.split())

    for words in (
        "backfold delete [OPTIONS] DOMAIN SNAPSHOT",
        "--max-downtime MS How long the guest may stand still for the pivot.",
        "Default: 500.",
        "EXIT STATUS 0 done",
        "BACKFOLD_JOURNAL The journal, unless --journal names another one.",
        "backfold delete web s1 --yes --timeout 600",
    ):
        assert words in shown


def test_a_man_page_is_there_for_each_command_of_the_help(pages: Path) -> None:
    text = (pages / "backfold.1").read_text()
    for name in COMMANDS:
        assert "backfold\\-" + name.replace("-", "\\-") in text


def test_text_cannot_become_a_request() -> None:
    assert man_pages._roff(".so /etc/passwd") == "\\&.so /etc/passwd"
    assert man_pages._roff(r"a\b 'c'") == r"a\eb \(aqc\(aq"
