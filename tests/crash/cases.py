"""Every case there is, out of the records of undisturbed runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from crash.case import HOW, WHO, Case
from crash.points import Point
from crash.scenarios import Scenario

#: Points of a scenario, and whether a QEMU or a helper is there to be killed.
Record = Sequence[tuple[Point, bool]]

#: Where cascades begin: what recovery finds is of another kind after each of these.
#: The first ones lead through all later states anyhow.
CASCADES: Final[Mapping[str, frozenset[str]]] = {
    "resume": frozenset(
        {
            "validate.accept.announced",
            "commit_per_disk.start_job.done",
            "vote.hold.noted",
            "vote.complete_jobs.done",
            "vote.fence.done",
            "vote.decide.noted",
            "pivot.finalize.done",
            "pivot.release_guest.noted",
            "update_metadata.record.noted",
        }
    ),
    "roll_back": frozenset(
        {
            "validate.accept.announced",
            "validate.accept.noted",
            "prepare.proceed.noted",
            "start_paused.open_images.done",
            "commit_per_disk.start_job.done",
            "vote.hold.noted",
            "vote.complete_jobs.done",
            "vote.fence.done",
        }
    ),
}


def cases_of(scenario: Scenario, record: Record) -> Iterator[Case]:
    """Each point of a record, for everybody who can be killed at it.

    An engine that lives goes on by itself when its QEMU is killed, and has to come to
    an end: nothing is left to be rolled back. Stories lead to their own steps; the
    other scenarios ask what can be rolled back, and what an engine alone does.
    """
    for who in WHO:
        for how in HOW:
            if how == "roll_back" and (who == "qemu" or scenario.told is not None):
                continue
            if who == "qemu" and scenario.told is not None:
                continue
            for point, somebody_else in record:
                if who != "engine" and not somebody_else:
                    continue
                yield Case(scenario, who, how, point)
                if who != "qemu" and _starts_cascade(scenario, how, point):
                    yield Case(scenario, who, how, point, cascade=True)


def _starts_cascade(scenario: Scenario, how: str, point: Point) -> bool:
    if scenario.told is not None:
        story = scenario.story
        assert story is not None
        return point == story.point or point.step in ("keep", "relink")
    return str(point) in CASCADES[how]
