"""Kills at every moment of a deletion and of its recovery: `make crash`.

    python -m crash.matrix [--only WORDS | --case NAME ...] [--list] [--jobs N]
                           [--results FILE] [--fresh] [--document]

Cases that the results file has from the same source are not played again. The exit
status is 1 when anything was lost or left over, or a declared moment was not died at.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import backfold
from crash import report
from crash.case import Case, Outcome, record, run
from crash.cases import Record, cases_of
from crash.scenarios import SCENARIOS, Scenario
from crash.workers import played

#: Seconds between two lines about the progress.
PACE = 10.0


def main(arguments: list[str] | None = None) -> int:
    """Play what is asked for."""
    options = _parser().parse_args(arguments)
    cases = [Case.parse(name) for name in options.case] or _enumerated(options)
    if options.list:
        print(*cases, sep="\n")
        return 0
    outcomes = _play(cases, options.jobs, Results(options.results, options.fresh))
    print(*report.matrix(outcomes), sep="\n")
    wrong = [outcome for outcome in outcomes if outcome.faults]
    for outcome in wrong:
        _tell(outcome)
    is_whole = not options.only and not options.case
    left_out = report.untouched(outcomes) if is_whole else []
    if left_out:
        print("Nobody died at:", *left_out, sep="\n    ")
    if wrong or left_out or not outcomes:
        return 1
    if options.document and is_whole:
        report.document(outcomes)
    return 0


def _enumerated(options: argparse.Namespace) -> list[Case]:
    """All cases with the words that were asked for, out of fresh records."""
    words = options.only.split()
    scenarios = [s for s in SCENARIOS if _is_meant(s, words)]
    records: dict[Scenario, Record] = dict(played(options.jobs, record, scenarios))
    return [
        case
        for scenario in scenarios
        for case in cases_of(scenario, records[scenario])
        if case.is_meant(words)
    ]


class Results:
    """Outcomes in a file, one a line, so that a run can be continued."""

    def __init__(self, path: Path | None, fresh: bool) -> None:
        """Without a path nothing is kept; ``fresh`` forgets what is there."""
        self._path = path
        self._source = _source()
        self.known: dict[str, Outcome] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if fresh:
            path.unlink(missing_ok=True)
        for line in path.read_text().splitlines() if path.exists() else ():
            found = json.loads(line)
            if found.pop("source") == self._source and not found["faults"]:
                self.known[found["case"]] = Outcome(**found)

    def add(self, outcome: Outcome) -> None:
        """Keep one more."""
        self.known[outcome.case] = outcome
        if self._path is not None:
            line = json.dumps({**asdict(outcome), "source": self._source})
            with self._path.open("a") as file:
                file.write(f"{line}\n")


def _play(cases: list[Case], jobs: int, results: Results) -> list[Outcome]:
    todo = [case for case in cases if str(case) not in results.known]
    print(f"{len(cases)} cases, {len(cases) - len(todo)} of them known", flush=True)
    began = told = time.monotonic()
    losses = faults = 0
    for done, (_, outcome) in enumerate(played(jobs, run, todo), start=1):
        results.add(outcome)
        losses += outcome.losses
        faults += bool(outcome.faults)
        if outcome.faults:
            _tell(outcome)
        if time.monotonic() - told > PACE:
            told = time.monotonic()
            left = (told - began) / done * (len(todo) - done) / 60
            print(
                f"{done}/{len(todo)} cases, {losses} losses, {faults} faults,"
                f" {left:.0f} min left",
                flush=True,
            )
    return [results.known[str(case)] for case in cases]


def _tell(outcome: Outcome) -> None:
    print(f"FAULT in {outcome.case}, state {outcome.state}:")
    for fault in outcome.faults:
        print("   ", fault.replace("\n", "\n    "))
    print(f"    again: make crash ONLY='{outcome.case}'", flush=True)


def _is_meant(scenario: Scenario, words: Iterable[str]) -> bool:
    """Whether cases of a scenario can be meant: only then it is recorded."""
    named = {str(s) for s in SCENARIOS} & set(words)
    return not named or str(scenario) in named


def _source() -> str:
    """Names the state of what is tested and of the tests."""
    digest = hashlib.sha256()
    package = Path(backfold.__file__).parent
    tests = Path(__file__).parents[1]
    folders = [package / name for name in ("engine", "states", "journal")]
    for folder in [*folders, tests / "crash", tests / "real"]:
        for path in sorted(folder.resolve().rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="words that a case's name must have")
    parser.add_argument("--list", action="store_true", help="print the cases' names")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, help="file to keep and continue from")
    parser.add_argument("--fresh", action="store_true", help="forget former results")
    parser.add_argument(
        "--document", action="store_true", help="write the figures of a whole run"
    )
    parser.add_argument(
        "--case", action="append", default=[], help="play just this; may be repeated"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
