"""Measure how soon `backfold` answers, beside a bare import of what it is made with.

    .venv/bin/python tools/startup.py [RUNS]

The commands take turns, so that a busy moment of the machine meets all of them. Of
each the median is shown, of the time that passed and of the processor's. The journal
that is read is made for this, with fifty finished deletions and an open one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from written import Journal, plan

BARE = "bare"
#: What no command may take more of than the bare import.
BUDGET = 1.5


#: What the script of a shell asks when Tab is pressed; see `Tab` below.
QUESTION = {
    "_BACKFOLD_LINE": "backfold log c",
    "_BACKFOLD_COMMAND": "backfold",
}


def commands(journal: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    backfold = str(Path(sys.executable).with_name("backfold"))
    return {
        BARE: [sys.executable, "-c", "import typer, rich, sqlite3"],
        "--version": [backfold, "--version"],
        "--help": [backfold, "--help"],
        "status": [backfold, "--journal", str(journal), "status"],
        "Tab": [
            "env",
            "_BACKFOLD_COMPLETE=bash",
            f"BACKFOLD_JOURNAL={journal}",
            backfold,
        ],
    }


def make_journal(path: Path) -> None:
    """Fifty deletions that are completed, and one that was interrupted."""
    with Journal(path) as journal:
        for number in range(50):
            journal.completed(f"{number:012x}")
        journal.interrupted("a" * 12, plan())


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds that passed, and seconds of the processor."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(
        command, env=os.environ | QUESTION, stdout=subprocess.DEVNULL, check=True
    )
    passed, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system
    return passed, used - before.children_user - before.children_system


def main(runs: int) -> int:
    """Measure, print, and return 1 when a command is over its budget."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "journal", "journal.db")
        make_journal(journal)
        found: dict[str, list[tuple[float, float]]] = {}
        for turn in range(runs + 1):
            for name, command in commands(journal).items():
                taken = measure(command)
                if turn:  # The first one warms the caches.
                    found.setdefault(name, []).append(taken)
    bare = [median(values) for values in zip(*found[BARE], strict=True)]
    print(f"{'':12} {'passed':>10} {'ratio':>7} {'processor':>11} {'ratio':>7}")
    late = False
    for name, turns in found.items():
        passed, used = (median(values) for values in zip(*turns, strict=True))
        ratio = passed / bare[0]
        late |= ratio > BUDGET
        print(
            f"{name:12} {passed * 1000:7.0f} ms {ratio:7.2f}"
            f" {used * 1000:8.0f} ms {used / bare[1]:7.2f}"
        )
    return int(late)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 30))
