"""The walks of `real/test_random_trees.py`, on a simulated host: many more of them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from real.scene import play
from trees.walk import KINDS, ORIGINS, STEPS, Step, walk

from .quiet import silence
from .tree_machine import SimMachine

EXAMPLES: Final = int(os.environ.get("EXAMPLES") or 60)


@pytest.fixture(autouse=True)
def without_logs() -> None:
    silence()


async def walk_in_a_folder(origins: list[str], steps: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        await walk(SimMachine(Path(folder), origins), steps)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(st.sampled_from(ORIGINS), min_size=1, max_size=2), STEPS)
def test_every_walk_keeps_every_block(origins: list[str], steps: list[Step]) -> None:
    play(walk_in_a_folder(origins, steps))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_step_is_walked(kind: str) -> None:
    """Of a tree that has two branches already."""
    grown: list[Step] = [("take", 1, 0, 0), ("write", 0, 3, 3)] * 3
    grown += [("revert", 0, 0, 0), ("write", 0, 5, 3), ("take", 1, 0, 0)]
    play(
        walk_in_a_folder(["qcow2"], [*grown, *((kind, n, n, 7 * n) for n in range(4))])
    )
