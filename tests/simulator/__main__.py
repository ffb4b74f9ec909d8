"""`make simulate` and `make replay`: explore in processes, and tell what was found."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

from .explorer import Explorer, Tally
from .history import Schedule
from .quiet import silence
from .report import document, summary
from .scenes import SCENES
from .work import explore, units, working_folder


def simulate(schedules: int, minutes: float, jobs: int, scenes: Sequence[str]) -> Tally:
    """Explore until so many schedules were run, or so many minutes have passed."""
    deadline = time.monotonic() + minutes * 60
    total = Tally()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        work = units(schedules, deadline, scenes)
        pending = {pool.submit(explore, next(work)) for _ in range(jobs)}
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for each in done:
                total.add(each.result())
                print(f"{total.schedules} schedules", file=sys.stderr)
                if total.schedules < schedules and time.monotonic() < deadline:
                    pending.add(pool.submit(explore, next(work)))
    return total


def replay(text: str) -> int:
    """Run one schedule again, and tell what happened."""
    silence()
    with working_folder() as locks:
        explorer = Explorer(Path(locks))
        try:
            history = explorer.play(Schedule.parse(text))
        except Exception as error:
            print(f"{text}: {error}")
            return 1
        finally:
            explorer.close()
    print(f"{text}: every invariant holds ({history.ending.how}).")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m simulator", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="a word in the names of scenes")
    parser.add_argument("--replay", metavar="SCHEDULE")
    parser.add_argument("--document", type=Path, metavar="PAGE")
    options = parser.parse_args()
    if options.replay:
        return replay(options.replay)
    began, used = time.monotonic(), os.times()
    scenes = [name for name in SCENES if options.only in name]
    if not scenes:
        parser.error(f"no scene has {options.only!r} in its name")
    total = simulate(options.schedules, options.minutes, options.jobs, scenes)
    spent = os.times()
    cpu = spent.children_user + spent.children_system
    cpu -= used.children_user + used.children_system
    text = summary(total, time.monotonic() - began, cpu, options.jobs)
    print(text)
    if options.document:
        document(options.document, text)
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
