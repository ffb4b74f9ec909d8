"""Random operations on a tree of snapshots, against a model that knows every block.

`make trees` walks longer: EXAMPLES=..., SEED=...
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from real.scene import play
from trees.real_machine import RealMachine
from trees.walk import ORIGINS, STEPS, Step, walk

EXAMPLES: Final = os.environ.get("EXAMPLES")
SEED: Final = os.environ.get("SEED") or None


async def walk_in_a_folder(origins: list[str], steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await walk(RealMachine(Path(folder), origins), steps)


def test_every_walk_through_a_tree_keeps_every_block() -> None:
    """Snapshots and disks hold what they held, and no image is left over or missing."""

    @settings(
        max_examples=int(EXAMPLES or 4),
        deadline=None,
        derandomize=SEED is None,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(st.lists(st.sampled_from(ORIGINS), min_size=1, max_size=2), STEPS)
    def every_walk(origins: list[str], steps: list[Step]) -> None:
        play(walk_in_a_folder(origins, steps))

    (seed(int(SEED))(every_walk) if SEED is not None else every_walk)()
