"""Delete, kill at random, recover, read back; until the time is up.

    make soak MINUTES=30
    make soak MINUTES=30 SEED=7

A guest writes to one or two disks all the time. Snapshots are taken and deleted, the
newest or a middle one, by the real command line, while engine, QEMU, both or the guard
are killed at a moment that nobody chose; `backfold recover` is killed as well. After
each recovery every acknowledged write is read back from all disks, and every valid
snapshot from its frozen images. The seed repeats the choices; the moments are the
machine's.

The status is 1 when a write was lost, or a recovery left something open.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from real.scene import Scene
from soak.cycle import Cycle, Failed, Round

#: How many cycles one guest lives; the next one has new images and new books.
CYCLES_OF_A_SCENE = 12


@dataclass
class Books:
    """What has happened so far, and how it has to end."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    read_backs: int = 0
    writes: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, done: Round) -> None:
        """Book a cycle."""
        self.kills.update(done.kills)
        self.ends[done.end] += 1
        self.read_backs += done.read_backs

    @property
    def status(self) -> int:
        """The exit status: 1 when anything was lost or left open."""
        return 1 if self.failures else 0

    def lines(self, seconds: float) -> list[str]:
        """The summary."""
        kills = ", ".join(f"{n} {what}" for what, n in sorted(self.kills.items()))
        ends = ", ".join(f"{n} {what}" for what, n in sorted(self.ends.items()))
        return [
            *(f"FAILURE: {what}" for what in self.failures),
            f"soak of {seconds / 60:.1f} min, seed {self.seed}",
            f"kills: {self.kills.total()} ({kills or 'none'})",
            f"deletions: {self.ends.total()} ({ends or 'none'})",
            f"acknowledged writes: {self.writes}, read back {self.read_backs} times",
            f"losses: {len(self.failures)}",
        ]


async def scene(
    folder: Path, books: Books, choose: random.Random, go_on: Callable[[], bool]
) -> None:
    """One guest with its disks, for some cycles. Raises `Failed`."""
    async with Scene(folder, disks=choose.choice((1, 2)), pause=500) as stage:
        cycle = Cycle(stage, choose)
        try:
            for _ in range(CYCLES_OF_A_SCENE):
                if not go_on():
                    break
                done = await cycle.run()
                books.add(done)
                print(f"{books.ends.total():4}  {done}", flush=True)
        finally:
            books.writes += stage.machine.acknowledged()


def soak(
    folder: Path, seed: int, seconds: float, cycles: int | None, tell: bool = True
) -> Books:
    """Go on until the time is up, or so many cycles were run."""
    books, choose, began = Books(seed), random.Random(seed), time.monotonic()

    def go_on() -> bool:
        if cycles is not None and books.ends.total() >= cycles:
            return False
        return time.monotonic() - began < seconds

    number = 0
    try:
        while go_on():
            number += 1
            place = folder / str(number)
            place.mkdir()
            asyncio.run(scene(place, books, choose, go_on))
    except Failed as error:
        books.failures.append(str(error))
    except KeyboardInterrupt:
        print("stopped early", flush=True)
    for line in books.lines(time.monotonic() - began) if tell else ():
        print(line, flush=True)
    return books


def main() -> int:
    """Read the arguments, run, and keep the folder of a failure."""
    quiet = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=quiet)
    parser = argparse.ArgumentParser(description="Kill deletions at random.")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 31))
    parser.add_argument("--cycles", type=int, help="at most so many deletions")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    folder = tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True)
    seconds = arguments.minutes * 60
    books = soak(Path(folder.name), arguments.seed, seconds, arguments.cycles)
    if books.failures:
        kept = Path(folder.name).rename(f"{folder.name}-failed")
        print(f"everything of the failure is in {kept}", flush=True)
    else:
        folder.cleanup()
    return books.status


if __name__ == "__main__":
    sys.exit(main())
