"""What one process of `make simulate` does at a time."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .explorer import ALL_KILLS, Explorer, Tally
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
    limit: int = 1 << 60
    deadline: float = float("inf")


def units(limit: int, deadline: float) -> Iterator[Unit]:
    """One disturbance everywhere, then two kills, then up to three of any kind."""
    for scene in SCENES:
        yield Unit("one", scene, limit=limit, deadline=deadline)
    for scene in SCENES:
        yield Unit("two kills", scene, limit=limit // 20, deadline=deadline)
    for number in itertools.count():
        for scene in SCENES:
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
