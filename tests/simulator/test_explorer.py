"""A slice of `make simulate`: kills at every moment, in some scenes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sampled import sampled
from simulator.bitmaps import Dirt
from simulator.explorer import ALL_KILLS, Explorer
from simulator.history import Schedule, shrink
from simulator.life import Quiet
from simulator.quiet import silence
from simulator.scenes import SCENES
from simulator.world import BITMAP


@pytest.fixture
def explorer(tmp_path: Path) -> Iterator[Explorer]:
    silence()
    made = Explorer(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    "scene",
    sampled(3, ["running-newest", "off-middle", "running-create-2", "running-deep"]),
)
def test_one_kill_at_every_moment_loses_nothing(explorer: Explorer, scene: str) -> None:
    explorer.every(explorer.start(scene), 1, ALL_KILLS)

    assert explorer.tally.failures == []
    assert len(explorer.tally.states) > 50


@pytest.mark.parametrize("scene", ["running-backed-up", "off-backed-up"])
def test_bitmaps_have_exactly_what_was_written(explorer: Explorer, scene: str) -> None:
    """Unless a QEMU is killed: then they are lost, and never silently wrong."""
    play = explorer.host(scene)

    assert play.first(Quiet()).how == "done"

    domain, world = play.world.domain, play.world
    (disk,) = play.sources()
    file = world.files.file(disk.source)
    assert file is not None and world.noted is not None
    holder = domain.nodes[domain.devices["vda"]] if domain else file
    assert holder.bitmaps == {BITMAP: Dirt(clusters=world.noted["vda"])}
    play.journal.close()

    explorer.every(explorer.start(scene), 1, ("kill", "kill-both-boot"))

    assert explorer.tally.failures == []


@pytest.mark.parametrize("scene", SCENES)
def test_undisturbed_history_ends_well(explorer: Explorer, scene: str) -> None:
    assert explorer.play(Schedule(scene)).ending.how == "done"


@pytest.mark.parametrize(
    ("scene", "kill"),
    [
        ("running-beside", "kill"),
        ("paused-stream", "kill-both-boot"),
        ("off-again", "power.lost"),
        ("off-branch", "kill-start"),
        ("off-places", "kill-back"),
        ("off-revert-2", "kill"),
        ("off-revert-branch", "kill-start"),
    ],
)
def test_kill_among_many_images_loses_nothing(
    explorer: Explorer, scene: str, kill: str
) -> None:
    explorer.every(explorer.start(scene), 1, [kill])

    assert explorer.tally.failures == []
    assert len(explorer.tally.states) > 10


def test_layer_that_got_its_name_back_is_removed_by_recovery(
    explorer: Explorer,
) -> None:
    """The one below could not be removed otherwise, ever: it is based on that."""
    places = explorer.play(Schedule("running-range")).places
    moment = places.index("update_metadata.unlink.announced") + 1

    history = explorer.play(Schedule("running-range", ((moment, "unfence"),)))

    assert history.ending.how == "done"
    assert "/images/vda.s3" not in history.play.world.files.names


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
