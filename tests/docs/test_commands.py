"""Every command of the documents is run, and prints what the documents say."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.scenes import ROOT, SCENES, scene
from docs.walker import QUICK, Mismatch, Page, Walk, environment, read

PATHS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path: Path) -> str:
    """A page's name, below the root."""
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a `backfold` that starts at once."""
    folder = tmp_path_factory.mktemp("quick")
    server = subprocess.Popen(
        [sys.executable, QUICK, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield folder
        server.communicate()


def walk(page: Page, folder: Path, programs: Path) -> None:
    """Run a page's commands in its scene."""
    with scene(page.scene, folder) as stage:
        shell = Walk(
            stage.home, environment(stage, programs), stage.places, stage.last_run
        )
        try:
            shell.follow(page)
        finally:
            shell.close()


@pytest.mark.parametrize("path", PATHS, ids=name_of)
def test_commands_print_what_the_page_says(
    path: Path, tmp_path: Path, quick: Path
) -> None:
    """All of them, in their order, in one folder."""
    page = read(path)
    assert page.scene in SCENES
    if page.commands:
        walk(page, tmp_path, quick)


def said(folder: Path, text: str) -> Page:
    """A page of this text."""
    path = folder / "page.md"
    path.write_text(text)
    return read(path)


def block(*lines: str) -> str:
    """A block of commands."""
    return "\n".join(["```console", *lines, "```", ""])


def test_commands_share_a_shell(tmp_path: Path, quick: Path) -> None:
    page = said(
        tmp_path,
        block("$ cd /srv && mkdir a", "$ cd a; pwd", "/srv/a", "$ false")
        + "text\n"
        + block("$ echo $? \\", "> more", "1 more", "$ seq 9", "1", "...", "9"),
    )

    walk(page, tmp_path, quick)

    assert [command.line for command in page.commands] == [2, 3, 5, 9, 12]


@pytest.mark.parametrize(
    "lines",
    [
        ("$ echo one", "two"),
        ("$ echo one",),
        ("$ seq 3", "1", "3"),
        ("$ seq 3", "1", "..."),
        ("$ true", "more"),
        ("$ seq 3", "...", "2"),
        ("$ false", "..."),
    ],
)
def test_what_is_not_printed_is_found(
    tmp_path: Path, quick: Path, lines: tuple[str, ...]
) -> None:
    page = said(tmp_path, block(*lines))

    if lines == ("$ seq 3", "1", "..."):
        walk(page, tmp_path, quick)
    else:
        with pytest.raises(Mismatch, match=r"page\.md:2"):
            walk(page, tmp_path, quick)


def test_what_differs_from_run_to_run_is_not_compared(
    tmp_path: Path, quick: Path
) -> None:
    page = said(
        tmp_path,
        block(
            "$ echo 2026-11-27 15:40:39Z  0123456789ab  12.0 MiB in 3.4 s, 17 %, pid 7",
            "2025-01-02 01:02:03Z ba9876543210 1 B in 7 min 01 s, 100 %, pid 123",
            """$ echo '{"schema": 1, "seconds": 1.5, "at": "2026-11-27T15:40:39Z"}'""",
            """{"schema": 1, "seconds": 2, "at": "2025-11-27T15:40:39.1234+00:00"}""",
        ),
    )

    walk(page, tmp_path, quick)


def test_ids_of_the_page_stand_for_the_real_ones(tmp_path: Path, quick: Path) -> None:
    page = said(
        tmp_path,
        block("$ echo 00aa11bb22cc | tr ab de", "012345678901")
        + block("$ test 012345678901 = 00dd11ee22cc && echo same", "same")
        + block("$ test 0123 = 00dd && echo same", "same"),
    )

    walk(page, tmp_path, quick)


@pytest.mark.parametrize(
    "text",
    [
        "    $ echo indented\n",
        "```sh\n$ echo other\n```\n",
        "<!-- scene:web-off -->\n",
        "<!-- not run -->\n",
        "<!-- scene: empty -->\n<!-- scene: web-off -->\n",
    ],
)
def test_what_would_not_be_run_is_found(tmp_path: Path, text: str) -> None:
    with pytest.raises(Mismatch):
        said(tmp_path, text)


def test_a_block_that_is_not_run_says_why(tmp_path: Path) -> None:
    page = said(
        tmp_path,
        "<!-- not run: it is of another machine -->\n"
        + block("$ false", "")
        + block("$ true"),
    )

    assert [command.text for command in page.commands] == ["true"]
