"""What one process of `make simulate` does at a time."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .explorer import ALL_KILLS, UNLIMITED, Explorer, Tally
from .history import shrink
from .quiet import silence
from .scenes import SCENES

#: Histories of one unit of random work.
BATCH = 200


@dataclass(frozen=True, slots=True)
class Unit:
    """Work for one process: a scene, and how it is explored."""

    kind: str
    scene: str
    number: int = 0
    limit: int = UNLIMITED
    deadline: float = float("inf")


def units(
    limit: int, deadline: float, scenes: Sequence[str] = tuple(SCENES)
) -> Iterator[Unit]:
    """One thing at a time, then two kills, then up to three things of any kind.

    A third of ``limit`` schedules goes to the first, a sixth to the second.
    """
    for kind, part in ("one", 3), ("two kills", 6):
        for scene in scenes:
            most = 1 + limit // part // len(scenes)
            yield Unit(kind, scene, limit=most, deadline=deadline)
    for number in itertools.count():
        for scene in scenes:
            yield Unit("random", scene, number, limit, deadline)


def explore(unit: Unit) -> Tally:
    """Do one unit."""
    silence()
    with working_folder() as locks:
        explorer = Explorer(Path(locks), limit=unit.limit, deadline=unit.deadline)
        try:
            if unit.kind == "one":
                explorer.every(explorer.start(unit.scene), 1)
            elif unit.kind == "two kills":
                explorer.every(explorer.start(unit.scene), 2, ALL_KILLS)
            else:
                for number in range(BATCH):
                    if not explorer.is_over:
                        seed = unit.number * BATCH + number
                        explorer.at_random(unit.scene, seed, 2 + seed % 2)
            for index, (schedule, what) in enumerate(explorer.tally.failures):
                if index < 20:
                    shorter = shrink(schedule, explorer.fails)
                    explorer.tally.failures[index] = (shorter, what)
        finally:
            explorer.close()
        return explorer.tally


def working_folder() -> tempfile.TemporaryDirectory[str]:
    """Lock files of one process, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(
        prefix="backfold-sim-", dir=memory if os.access(memory, os.W_OK) else None
    )
