"""A report in a real browser: offline, on phones and screens, whatever is in it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfold import Engine
from browser.chromium import Browser, chromium
from written import HOSTILE, Journal, plan

RUNS = ("c0" * 6, "b0" * 6, "f0" * 6, "a0" * 6, "d0" * 6)
COMPLETED, HURT = RUNS[0], RUNS[4]

#: What sticks out to the right, of what does not scroll by itself.
STICKS_OUT = """
return [...document.body.querySelectorAll('*')]
  .filter(each => !each.closest('.wide') && each.getClientRects().length)
  .filter(each => each.getBoundingClientRect().right > innerWidth + 0.5)
  .map(each => each.outerHTML.slice(0, 200));
"""
#: Texts and how strongly they stand out from what is behind them (WCAG).
CONTRASTS = """
const parts = text => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
  .map(c => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = each => {
  for (; each; each = each.parentElement) {
    const color = parts(getComputedStyle(each).backgroundColor);
    if (color.length === 3 || color[3] > 0) return color;
  }
  return [255, 255, 255];
};
return [...document.body.querySelectorAll('*')]
  .filter(each => each.getClientRects().length && !each.closest('svg'))
  .filter(each => [...each.childNodes].some(c => c.nodeType === 3 && c.data.trim()))
  .map(each => {
    const [a, b] = [light(parts(getComputedStyle(each).color)), light(behind(each))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), each.outerHTML];
  });
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A report of each kind of run, as files."""
    folder = tmp_path_factory.mktemp("reports")
    path = folder / "journal" / "journal.db"
    with Journal(path) as journal:
        journal.completed(made=plan(risks=["The guest writes fast."]))
        journal.rolled_back()
        journal.refused()
        journal.interrupted()
        journal.hostile()

    async def write() -> dict[str, Path]:
        async with Engine(path) as engine:
            for run in RUNS:
                (folder / f"{run}.html").write_text(await engine.report(run))
        return {run: folder / f"{run}.html" for run in RUNS}

    return asyncio.run(write())


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def test_every_report_opens_quietly_and_fits(
    browser: Browser, pages: dict[str, Path]
) -> None:
    for run, path in pages.items():
        browser.open(path)
        for width in (1280, 360):
            browser.resize(width)
            assert browser.run("return innerWidth") == width
            assert browser.run(STICKS_OUT) == [], (run, width)
            assert browser.run("return document.documentElement.scrollWidth") == width
        assert browser.console() == [], run
        assert browser.requested() == [path.as_uri()]


def test_every_section_is_seen_and_details_open(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages[COMPLETED])
    headings = browser.run(
        "return [...document.querySelectorAll('h1, h2')]"
        ".filter(each => each.checkVisibility() && each.offsetHeight > 10)"
        ".map(each => each.innerText)"
    )
    levels = browser.run(
        "return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    )
    rows = "return document.querySelector('table.rows').checkVisibility()"
    closed = browser.run(rows)
    browser.run("document.querySelectorAll('summary').forEach(each => each.click())")

    assert headings == [
        "Deleted snapshot s1 of web.",
        "Images",
        "Where the time went",
        "Disks",
        "Known before it began",
        "Time line",
        "The way through the machine",
        "The journal",
    ]
    assert all(below - level <= 1 for level, below in itertools.pairwise(levels))
    assert (closed, browser.run(rows)) == (False, True)


def test_the_diagram_has_the_colours_of_the_page(
    browser: Browser, pages: dict[str, Path]
) -> None:
    color = "return getComputedStyle(document.querySelector(arguments[0])).stroke"
    seen = []
    for dark in (False, True):
        browser.open(pages[COMPLETED], dark=dark)
        box = browser.run(
            "const svg = document.querySelector('.machine svg');"
            "return svg.getBoundingClientRect().toJSON()"
        )
        seen += [
            browser.run(color, ".edge.made path"),
            browser.run(color, ".edge.decided path"),
            browser.run(color, ".edge.not path"),
        ]
        assert box["width"] > 600
        assert box["height"] > 600

    assert len(set(seen)) == 6


def test_names_are_text_and_no_script_runs(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages[HURT])
    shown = browser.run("return document.querySelector('h1').innerText")
    made = browser.run("return document.querySelectorAll('script, img, a').length")

    assert '<script>document.title="owned"</script><img src=x' in shown
    assert r"\x1b[31m\u202e</style>" in shown
    assert made == 0
    assert browser.run("return document.title").startswith(
        "The deletion of snapshot s1<"
    )
    assert browser.console() == []
    # Escaped or not, the page's own policy lets nothing run.
    browser.run(
        "const script = document.createElement('script');"
        "script.textContent = 'document.title = \"owned\"';"
        "document.body.append(script)"
    )
    assert browser.run("return document.title") != "owned"


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_stands_out(
    browser: Browser, pages: dict[str, Path], dark: bool
) -> None:
    for run in RUNS:
        browser.open(pages[run], dark=dark)
        found = browser.run(CONTRASTS)

        assert len(found) > 40
        assert [text for ratio, text in found if ratio < 4.5] == []


def test_it_prints_on_paper_of_its_own_colour(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages[COMPLETED], dark=True)
    printed = browser.command("Page.printToPDF", printBackground=True)
    browser.command("Emulation.setEmulatedMedia", media="print")
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.command("Emulation.setEmulatedMedia", media="")

    assert paper == "rgb(255, 255, 255)"
    assert len(printed["data"]) > 10_000


def test_the_hostile_text_would_run_if_it_were_not_escaped(
    browser: Browser, tmp_path: Path
) -> None:
    """The net has no hole: what is looked for above happens on a page without care."""
    path = tmp_path / "careless.html"
    path.write_text(f"<!doctype html><title>x</title><h1>{HOSTILE}</h1>")
    browser.open(path)

    assert browser.run("return document.title") == "owned"
    assert browser.console() != []
    assert len(browser.requested()) > 1
