"""Follows docs/rescue.md: its commands and its tables are read from the page.

Nothing of Backfold is used. A journal is read by the `sqlite3` program, images by
`qemu-img`, and files by `stat`, as somebody does who has nothing else.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.walker import read

PAGE = Path(__file__).parents[2] / "docs" / "rescue.md"
NOBODY = "**nobody can tell**"


@dataclass(frozen=True)
class Told:
    """What the page says of a disk: boot this image, or that nobody can tell."""

    image: Path
    format: str
    in_doubt: bool = False


class Page:
    """The commands and tables of the page."""

    def __init__(self) -> None:
        """Read it."""
        self._commands = [command.text for command in read(PAGE).commands]
        self._text = PAGE.read_text(encoding="utf-8")

    def ask(self, words: str, journal: Path) -> list[dict[str, Any]]:
        """Run the one query that has these words, on this copy of a journal."""
        (query,) = [
            command.partition('"')[2].rpartition('"')[0].replace("\\\n", "")
            for command in self._commands
            if command.startswith("sqlite3 -line") and words in command
        ]
        done = run("sqlite3", "-json", str(journal), query)
        return json.loads(done) if done.strip() else []

    def rule(self, table: str, *found: str) -> str:
        """The last cell of the row of a table whose other cells fit what was found.

        ``table`` is the head of its first columns. A cell is a list of alternatives.
        """
        _, _, rows = self._text.partition(f"\n| {table} |")
        for row in rows.partition("\n\n")[0].splitlines()[2:]:
            *cells, last = (cell.strip() for cell in row.strip("|").split("|"))
            pairs = zip(cells, found, strict=False)
            if all(_fits(cell, word) for cell, word in pairs):
                return last
        raise AssertionError(f"no row of {table} for {found}")


def _fits(cell: str, found: str) -> bool:
    return cell == "any" or found in re.split(r", or |, ", cell)


def run(*command: str) -> str:
    """What a program prints; it must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


def stamp(image: Path) -> str:
    """Size and time of the last change, as the page has them printed."""
    return run("stat", "-L", "-c", "%s %.9Y", str(image)).strip().replace(".", "")


def holds_data(overlay: Path) -> bool:
    """Whether an overlay has data of its own."""
    found = run("qemu-img", "map", "--output=json", "-f", "qcow2", str(overlay))
    return '"depth": 0, "present": true' in found


def rescue(page: Page, journal: Path, domain: str) -> dict[str, Told]:
    """Do what the page says; the example's domain must have this name."""
    assert domain == "web"
    disks = {
        row["target"]: Told(Path(row["source"]), row["format"])
        for row in page.ask("select target, source", journal)
    }
    (kind,) = [row["open"] for row in page.ask("union all", journal)] or ["nothing"]
    if kind == "deletion":
        for row in page.ask("overlay_then", journal):
            disks[row["target"]] = _switching(page, row)
        for row in page.ask("before_format", journal):
            _relink(page, row)
    elif kind == "creation":
        disks |= _creation(page, page.ask("old_then", journal), disks)
    return disks


def _switching(page: Page, row: dict[str, Any]) -> Told:
    """Which image of a fold; gives the overlay its name back."""
    overlay, base = Path(row["overlay"]), Path(row["base"])
    fence = Path(f"{overlay}.backfold-{row['run']}")
    it, then = "gone", row["overlay_then"]
    if overlay.exists():
        it = "no longer fenced"
    elif fence.exists():
        it = "fenced and the same" if stamp(fence) == then else "changed"
    below = "the same"
    if row["fold"] == "voted" and stamp(base) != row["base_then"]:
        below = "changed"
    boot = page.rule("fold | overlay | base | boot", row["fold"], it, below)
    if boot == "overlay":
        if not overlay.exists():
            run("mv", "-n", str(fence), str(overlay))
        return Told(overlay, "qcow2")
    assert boot in ("base", NOBODY)
    return Told(base, "qcow2", in_doubt=boot == NOBODY)


def _relink(page: Page, row: dict[str, Any]) -> None:
    """Put a link where it has to be."""
    command = page.rule("fold | based on | command", row["fold"]).strip("`")
    if "AFTER" in command and not row["after"]:
        command = "qemu-img rebase -u -f qcow2 -b '' IMAGE"
    for word in ("before_format", "before", "after_format", "after", "image"):
        command = re.sub(rf"\b{word.upper()}\b", row[word] or "", command)
    run("sh", "-c", command)


def _creation(
    page: Page, rows: list[dict[str, Any]], disks: dict[str, Told]
) -> dict[str, Told]:
    """Old images, or overlays, of all disks."""
    overlays = [Path(row["overlay"]) for row in rows]
    is_planned = rows[0]["state"] == "planned"
    written = [] if is_planned else [path for path in overlays if holds_data(path)]
    times = [os.stat(path).st_mtime_ns for path in written]

    def has_changed(row: dict[str, Any]) -> bool:
        if row["stamped"] == 1:
            return stamp(Path(row["old"])) != str(row["old_then"])
        return bool(times) and os.stat(row["old"]).st_mtime_ns > max(times)

    boot = page.rule(
        "state | overlays | old images | boot",
        rows[0]["state"],
        "one holds data" if written else "all are empty",
        "one has changed" if any(map(has_changed, rows)) else "the same",
    )
    if boot == "overlay":
        return {row["target"]: Told(Path(row["overlay"]), "qcow2") for row in rows}
    doubt = boot == NOBODY
    return {
        target: Told(disk.image, disk.format, in_doubt=doubt)
        for target, disk in disks.items()
    }


def without_journal(overlay: Path, base: Path) -> Path:
    """Which of the two, for somebody who has lost the journal."""
    is_fenced = any(overlay.parent.glob(f"{overlay.name}.backfold-*"))
    return base if is_fenced and not overlay.exists() else overlay
