"""Takes the pictures of docs/report.md: a real deletion, its report, a real browser.

`python -m browser.screenshot FOLDER` writes report.png and report-dark.png there.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from pathlib import Path

from browser.chromium import Browser, chromium
from docs.scenes import Stage, scene

WIDTH = 1120


def main(folder: Path) -> None:
    """Delete a snapshot of a running guest, and take the pictures."""
    with tempfile.TemporaryDirectory(prefix="backfold-") as name:
        temporary = Path(name)
        (temporary / "stage").mkdir()
        with scene("web-deleted", temporary / "stage") as stage:
            page = temporary / "report.html"
            page.write_text(asyncio.run(report(stage)), encoding="utf-8")
        with chromium(temporary / "profile") as browser:
            browser.open(page, WIDTH)
            take(browser, folder / "report.png", "header", "section:nth-of-type(3)")
            browser.open(page, WIDTH, dark=True)
            take(browser, folder / "report-dark.png", ".chapter", "figure", above=64)


async def report(stage: Stage) -> str:
    """The report of the scene's deletion, with the names that the documents use."""
    assert stage.last_run is not None
    async with stage.engine() as engine:
        page = await engine.report(stage.last_run)
    for name, path in stage.places:
        page = page.replace(str(path), name)
    return re.sub(r"[\w-]+@[\w.-]+:\d+", "operator@host:4711", page)


def take(browser: Browser, path: Path, first: str, last: str, above: int = 32) -> None:
    """The page from the first element that a selector finds to the last one."""
    top, bottom = (
        browser.run(
            "const box = document.querySelector(arguments[0]).getBoundingClientRect();"
            "return [box.top, box.bottom]",
            selector,
        )
        for selector in (first, last)
    )
    start = max(0, int(top[0]) - above)
    browser.picture(path, start, WIDTH, int(bottom[1]) + 14 - start)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
