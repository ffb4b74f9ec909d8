"""Record runs, cut their power everywhere, and print what was found.

    python -m power.powercut [--document] [NUMBER]...

NUMBER picks runs of the table (from 1); the others keep their lines in the document.
With WITHOUT in the environment (names out of `mutations`, or ``all``) the recorded
engine lacks a flush, and its losses must be found: the exit status is 1 when one
stays unseen. Without it, it is 1 when anything was lost.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from . import rebuild
from .cuts import Cut, State
from .mutations import MUTATIONS
from .recording import TESTS, Recording, Run, Table
from .replay import Stop

RUNS: Final = (
    Run("delete", "running", "s3"),
    Run("delete", "running", "s2"),
    Run("delete", "running", "s3", 2),
    Run("delete", "running", "s2", 2),
    Run("delete", "paused", "s3"),
    Run("delete", "paused", "s2", 2),
    Run("delete", "off", "s3", 2),
    Run("delete", "off", "s2"),
    Run("create", "running", "s4", 2),
    Run("create", "paused", "s4"),
)
#: Besides the first state of each step: every so many-th state is recovered.
EVERY: Final = 250

#: Where the table is written.
DOCUMENT: Final = TESTS.parent / "docs" / "power-cuts.md"
BEGIN_TABLE: Final = "<!-- written by `make powercut ARGS=--document` -->"
END_TABLE: Final = "<!-- end of table -->"


class Sample:
    """Recovers the first state of each step, and every so many-th.

    With ``steps``, only in these steps.
    """

    def __init__(
        self, recording: Recording, every: int, steps: Collection[str] | None = None
    ) -> None:
        self._recording = recording
        self._every = every
        self._steps = steps
        self._count = 0
        self._seen: set[str] = set()

    def __call__(self, stop: Stop, cut: Cut, state: State, last: int) -> str | None:
        self._count += 1
        is_new = stop.step not in self._seen
        if self._steps is not None:
            is_new = is_new and stop.step in self._steps
        if not is_new and self._count % self._every:
            return None
        self._seen.add(stop.step)
        return rebuild.recover(self._recording, state, last)


def try_run(
    run: Run, folder: Path, without: Iterable[str] = (), every: int = EVERY
) -> Table:
    """Record a run and cut it everywhere; a mutated one is not recovered."""
    names = tuple(without)
    recording = Recording(folder / "run", run, names)
    table = Table(run)
    recover: Callable[[Stop, Cut, State, int], str | None] | None = None
    if not names:
        recover = Sample(recording, every)
    recording.cut_everywhere(table, folder / "scratch", recover=recover)
    return table


def without(names: list[str]) -> int:
    """Prove the method: each missing flush must be seen."""
    unseen = 0
    for name in sorted(MUTATIONS) if names == ["all"] else names:
        mutation = MUTATIONS[name]
        run = Run(mutation.order, mutation.power, mutation.snapshot)
        with tempfile.TemporaryDirectory(prefix="powercut-") as folder:
            table = try_run(run, Path(folder), [name])
        lost = len({finding.stop.place for finding in table.findings})
        unseen += not lost
        print(f"without {mutation.what} ({name}; {run}):")
        print(f"    {lost} of {table.stops} cuts lose something", flush=True)
        _explain(table, Path(folder), 3)
    return 1 if unseen else 0


def everything(numbers: list[int], document: bool) -> int:
    """Try the runs and print the table; ``document`` puts each line into the docs."""
    rows: dict[str, str] = {}
    lost = 0
    for run in [RUNS[n - 1] for n in numbers] or RUNS:
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="powercut-") as folder:
            table = try_run(run, Path(folder))
            _explain(table, Path(folder), 20)
        lost += len(table.findings)
        rows[str(run)] = row(table)
        seconds = time.monotonic() - began
        print(f"{rows[str(run)]}   ({seconds:.0f} s)", flush=True)
        if document:
            _write(rows)
    print("\n".join(markdown(rows)))
    return 1 if lost else 0


def _write(rows: Mapping[str, str]) -> None:
    """Put these lines into the document; other runs keep theirs."""
    head, _, rest = DOCUMENT.read_text().partition(BEGIN_TABLE)
    former, _, tail = rest.partition(END_TABLE)
    known = {str(run) for run in RUNS}
    old = {line.strip("|").split("|")[0].strip(): line for line in former.splitlines()}
    merged = {name: line for name, line in old.items() if name in known} | dict(rows)
    body = "\n".join(["", "", *markdown(merged), "", ""])
    DOCUMENT.write_text(head + BEGIN_TABLE + body + END_TABLE + tail)


def row(table: Table) -> str:
    """One line of the table."""
    lost = len({(finding.stop.place, finding.cut) for finding in table.findings})
    numbers = (
        table.stops,
        table.states,
        table.recovered,
        table.acknowledged,
        table.doubts,
        lost,
    )
    return f"| {table.run} | " + " | ".join(map(str, numbers)) + " |"


def markdown(rows: Mapping[str, str]) -> list[str]:
    """The table of runs, in their order, with its sum."""
    lines = [rows[str(run)] for run in RUNS if str(run) in rows]
    columns = [map(int, line.strip("|").split("|")[1:]) for line in lines]
    total = [str(sum(column)) for column in zip(*columns, strict=True)]
    return [
        "| run | cuts | states by hand | recovered | acknowledged writes | in doubt"
        " | lost |",
        "|---|--:|--:|--:|--:|--:|--:|",
        *lines,
        f"| **all** | {' | '.join(total)} |",
    ]


def _explain(table: Table, folder: Path, limit: int) -> None:
    counted = Counter(
        f"{finding.stop.step}: {finding.what.replace(str(folder), '')} ({finding.cut})"
        for finding in table.findings
    )
    for what, count in counted.most_common(limit):
        print(f"    {count} x after {what}", flush=True)


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="make powercut ARGS=...")
    parser.add_argument("--document", action="store_true", help=f"write {DOCUMENT}")
    parser.add_argument("run", type=int, nargs="*", metavar="NUMBER")
    arguments = parser.parse_args()
    if not set(arguments.run) <= set(range(1, len(RUNS) + 1)):
        parser.error(f"runs are numbered from 1 to {len(RUNS)}")
    if names := os.environ.get("WITHOUT", "").split():
        return without(names)
    return everything(arguments.run, arguments.document)


if __name__ == "__main__":
    sys.exit(main())
