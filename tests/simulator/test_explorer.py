"""A slice of `make simulate`: everything once, in two scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.explorer import ALL_KILLS, Explorer
from simulator.history import Schedule, shrink
from simulator.quiet import silence


@pytest.fixture
def explorer(tmp_path: Path) -> Iterator[Explorer]:
    silence()
    made = Explorer(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "scene", ["running-newest", "running-deep", "off-middle", "running-create-2"]
)
def test_one_kill_at_every_moment_loses_nothing(explorer: Explorer, scene: str) -> None:
    explorer.every(explorer.start(scene), 1, ALL_KILLS)

    assert explorer.tally.failures == []
    assert len(explorer.tally.states) > 50


def test_a_schedule_is_text_and_the_same_history_each_time(explorer: Explorer) -> None:
    schedule = Schedule.parse("running-newest/60:kill/75:disconnect/90:power.7")

    histories = [explorer.play(schedule) for _ in range(2)]

    assert str(schedule) == "running-newest/60:kill/75:disconnect/90:power.7"
    assert histories[0].moment == histories[1].moment > 90
    assert histories[0].done == 3


def test_a_failure_is_shrunk_to_what_it_needs() -> None:
    schedule = Schedule.parse("off-middle/1:kill/20:power.1/30:cont/40:kill")

    found = shrink(schedule, lambda it: (20, "power.1") in it.steps)

    assert str(found) == "off-middle/20:power.1"
