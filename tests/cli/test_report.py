"""`report`: one page of a deletion, whatever became of it, and whatever is in it."""

from __future__ import annotations

import os
import shutil
import stat
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from backfold.engine.cli.text import safe
from cli.command import Cli
from cli.conftest import Inside
from cli.test_old_journal import RUN, bring_back
from written import HOSTILE, Journal, plan, spoil

COMPLETED, ROLLED_BACK, REFUSED = "c0" * 6, "b0" * 6, "f0" * 6
OPEN, HURT = "a0" * 6, "d0" * 6
VOID = {"meta", "br"}
#: All that a page is made of, besides what `dot` draws.
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "footer"),
    *("section", "article", "h1", "h2", "h3", "h4", "p", "span", "strong", "code"),
    *("bdi", "br", "dl", "div", "dt", "dd", "ol", "ul", "li", "table", "caption"),
    *("thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary"),
}
DRAWN = {"svg", "g", "title", "path", "polygon", "ellipse", "text"}
ATTRIBUTES = {
    *("lang", "charset", "name", "content", "http-equiv", "class", "title", "style"),
    *("scope", "tabindex", "role", "aria-label", "aria-hidden"),
}
OF_DRAWINGS = {
    *("viewbox", "xmlns", "xmlns:xlink", "width", "height", "id", "transform", "fill"),
    *("stroke", "stroke-width", "d", "points", "cx", "cy", "rx", "ry", "x", "y"),
    *("text-anchor", "font-family", "font-size"),
}


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with a run of each kind."""
    path = tmp_path_factory.mktemp("written") / "journal.db"
    with Journal(path) as journal:
        risk = "The guest writes faster than the storage copies."
        journal.completed(COMPLETED, plan(risks=[risk]))
        journal.rolled_back(ROLLED_BACK)
        journal.refused(REFUSED)
        journal.interrupted(OPEN)
        journal.hostile(HURT)
    return path


@pytest.fixture
def told(cli: Cli, inside: Inside, written: Path) -> Inside:
    cli.journal.parent.mkdir(mode=0o700)
    shutil.copy(written, cli.journal)
    return inside


@pytest.fixture
def no_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def page(inside: Inside, run: str) -> Page:
    found = Page(inside("report", run, "--html", "-").out)

    assert found.open == []
    return found


def test_a_completed_deletion_has_every_part(told: Inside) -> None:
    found = page(told, COMPLETED[:3])

    assert found.headings == [
        "Deleted snapshot s1 of web.",
        "Images",
        "Where the time went",
        "Disks",
        "Known before it began",
        "Time line",
        "The way through the machine",
        "The journal",
    ]
    for words in (
        *("12.1 s", "42 ms", "16.0 MiB", "2026-01-31 03:00:12Z", "takes the data"),
        *("The guest writes faster", "2 times, 1.5 s", "/srv/web/vdb.qcow2"),
        *("vote → pivot", "6 at +9.1 s", "vdb 7 at +11.6 s"),
    ):
        assert words in found.text
    assert found.tags["svg"] == 2
    assert len(found.ids) == len(set(found.ids))
    assert found.text.count("decide") >= 2


def test_what_was_not_done_is_not_told_as_done(told: Inside) -> None:
    rolled_back, refused = page(told, ROLLED_BACK), page(told, REFUSED)
    open_one = page(told, OPEN)

    assert (
        rolled_back.headings[0] == "The deletion of snapshot s1 of web was rolled back."
    )
    assert "No space left." in rolled_back.text
    assert "Before, and now" in rolled_back.text
    assert "takes the data" not in rolled_back.text
    assert refused.headings[0] == "The deletion of snapshot s1 of web was refused."
    assert "It does not fit." in refused.text
    assert "Images" not in refused.headings
    assert open_one.headings[0] == "The deletion of snapshot s1 of web is open."
    assert f"backfold recover {OPEN}" in open_one.text
    assert "before its decision" in open_one.text
    assert "After, when it is finished" in open_one.text
    assert "still in it" in open_one.text


def test_a_last_pass_that_was_undone_left_the_images_alone(
    cli: Cli, inside: Inside
) -> None:
    with Journal(cli.journal) as journal:
        written = journal.deletion(OPEN).go("accept").planned(plan())
        written.each_fold("start").each_fold("fail", after=2.0)
        written.go("abandon", "finish")
    found = page(inside, OPEN)

    assert found.headings[0] == "Deleted snapshot s1 of web."
    assert "Before, and now" in found.text


def test_whatever_is_in_the_journal_is_text(told: Inside) -> None:
    raw = told("report", HURT, "--html", "-").out
    found = Page(raw)

    assert set(found.tags) <= TAGS | DRAWN
    assert found.attributes <= ATTRIBUTES | OF_DRAWINGS
    assert found.tags["style"] == found.tags["h1"] == found.tags["html"] == 1
    assert found.headings[0].count(safe(HOSTILE)) == 2
    # Domain, snapshot, reason, risk, images, disks, row after row, and the pictures.
    assert found.text.count("owned") > 30
    assert not set(raw) & {"\x1b", "\u202e"}
    assert "<!--" not in raw


def test_nothing_is_fetched_and_nothing_may_run(told: Inside) -> None:
    raw = told("report", COMPLETED, "--html", "-").out
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"

    assert f'http-equiv="Content-Security-Policy" content="{policy}"' in raw
    assert "url(" not in raw
    assert "@import" not in raw
    assert " href=" not in raw
    assert " src=" not in raw


@pytest.mark.usefixtures("no_dot")
def test_without_dot_only_the_pictures_are_missing(told: Inside) -> None:
    found = page(told, COMPLETED)

    assert found.tags["svg"] == 0
    assert "`dot` cannot be run" in found.text
    assert "2 times, 1.5 s" in found.text
    assert "The way through the machine" in found.headings


def test_a_journal_of_0_1_is_told_as_far_as_it_knows(cli: Cli, inside: Inside) -> None:
    bring_back(cli)
    found = page(inside, RUN)

    assert found.headings[0] == "The deletion of snapshot s1 of web is open."
    assert found.headings[1] == "Images"
    assert "This plan is of version 0.1" in found.text
    assert "vda.qcow2" in found.text
    assert "takes the data" in found.text


def test_a_damaged_time_costs_that_time_only(told: Inside, cli: Cli) -> None:
    for at in ("soon", "2026-01-31 03:00:09"):
        order = "update transitions set at = ? where run = ? and trigger = 'decide'"
        spoil(cli.journal, order, at, COMPLETED)

        assert at in page(told, COMPLETED).text


def test_a_damaged_end_hides_no_other_run(told: Inside, cli: Cli) -> None:
    spoil(cli.journal, "update deletions set finished = ? where id = ?", "x", COMPLETED)
    spoil(cli.journal, "update transitions set at = ? where run = ?", "y", COMPLETED)

    assert {COMPLETED, ROLLED_BACK, OPEN} <= set(told("status").out.split())
    assert "y" in told("log", COMPLETED, "--steps").out
    assert "Images" in page(told, COMPLETED).headings


def test_a_damaged_row_is_reported(told: Inside, cli: Cli) -> None:
    for detail in ("[1]", "{", '{"a":' * 5000 + "1" + "}" * 5000):
        order = "update transitions set detail = ? where run = ? and trigger = 'hold'"
        spoil(cli.journal, order, detail, OPEN)
        said = told("report", OPEN, "--html", "-", status=1)

        assert "row of deletion" in said.err


# The file


def test_a_file_is_written_whole_and_never_over_another(told: Inside, cli: Cli) -> None:
    path = cli.folder / "report.html"
    made = told.json("report", "report", COMPLETED, "--html", str(path))
    whole = path.read_bytes()
    path.write_text("mine")
    again = told("report", OPEN, "--html", str(path), status=2)
    kept = path.read_text()
    forced = told("report", OPEN, "--html", str(path), "--force")

    assert made["file"] == str(path)
    assert (made["deletion"], made["html"]) == (COMPLETED, None)
    assert made["bytes"] == len(whole) > 20_000
    assert whole.endswith(b"</html>\n")
    assert ("is there already" in again.err, kept) == (True, "mine")
    assert str(path) in forced.out
    assert b"is open." in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    assert {"report.html", "journal"} == set(os.listdir(cli.folder))


def test_what_is_not_a_file_is_left_alone(told: Inside, cli: Cli) -> None:
    fifo, link, target = (cli.folder / name for name in ("fifo", "link", "target"))
    os.mkfifo(fifo)
    target.write_text("mine")
    link.symlink_to(target)
    for path in (fifo, link, cli.folder):
        said = told("report", OPEN, "--html", str(path), "--force", status=2)
        assert "is not a file" in said.err

    assert target.read_text() == "mine"
    assert link.is_symlink()


def test_a_folder_that_is_not_there_is_an_error_that_says_so(
    told: Inside, cli: Cli
) -> None:
    path = cli.folder / "no" / "report.html"
    said = told("report", OPEN, "--html", str(path), status=1)

    assert f"{path} cannot be written: No such file" in said.err
    assert {"journal"} == set(os.listdir(cli.folder))


def test_standard_output_with_json_is_one_object(told: Inside) -> None:
    found = told.json("report", "report", REFUSED, "--html", "-")

    assert found["file"] is None
    assert found["html"].startswith("<!doctype html>")
    assert len(found["html"].encode()) == found["bytes"]


def test_ids_of_nothing_are_usage_errors(told: Inside, cli: Cli) -> None:
    for run in ("ffff", "<b>"):
        told("report", run, "--html", str(cli.folder / "x.html"), status=2)
    told("report", OPEN, status=2)

    assert not (cli.folder / "x.html").exists()


def umask() -> int:
    old = os.umask(0o022)
    os.umask(old)
    return old
