"""What is killed at: domains in every state, and stories that lead off the line.

Most steps come in an undisturbed deletion. The others come when somebody disturbs:
each story disturbs once, at a point of its own, and is recorded and killed at from
there on.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from crash.points import Point
from crash.stage import Copied

#: What backups note in, in the story that tells of them.
BITMAP: Final = "nightly"
#: Which of s1, s2 and s3 is deleted. Above the first one there is an overlay that
#: is not the active image, and that has to be reopened for writing.
GONE: Final = {"newest": "s3", "middle": "s2", "first": "s1"}


@dataclass(frozen=True)
class Story:
    """Somebody disturbs a deletion at a point; ``leads_to`` says why that is here."""

    point: Point
    disturb: Callable[[Copied], None]
    leads_to: str


def _cancel(scene: Copied) -> None:
    for job in scene.machine.qmp("query-jobs"):
        scene.machine.qmp("job-cancel", id=job["id"])


def _cont(scene: Copied) -> None:
    scene.machine.qmp("cont")


def _kill(scene: Copied) -> None:
    assert scene.qemu is not None
    os.kill(scene.qemu, signal.SIGKILL)


def _link(scene: Copied) -> None:
    """Give the active image a second name, so that a fence would not fence it."""
    source = scene.first_disks[0].source
    os.link(source, scene.folder / "second-name")


def _begin_backups(scene: Copied) -> None:
    """A backup program makes a bitmap of each disk."""
    for device in scene.machine.qmp("query-block"):
        inserted = device.get("inserted")
        if inserted and inserted["drv"] == "qcow2":
            bitmap = {"name": BITMAP, "persistent": True}
            node = inserted["node-name"]
            scene.machine.qmp("block-dirty-bitmap-add", node=node, **bitmap)


STORIES: Final[Mapping[str, Story]] = {
    "kept": Story(
        Point.parse("vote.decide.noted"),
        _cancel,
        "a decided disk that stays on its overlay: unfence, keep, decide_again",
    ),
    "woken": Story(
        Point.parse("vote.fence.done"),
        _cont,
        "a guest that somebody lets go on in the hold: release_votes, back_off",
    ),
    "refused": Story(
        Point.parse("vote.complete_jobs.done"),
        _cancel,
        "a vote that somebody takes back: abandon, and the steps of roll_back",
    ),
    "linked": Story(
        Point.parse("validate.accept.noted"),
        _link,
        "a check that fails under the lock: refuse",
    ),
    "lost": Story(
        Point.parse("commit_per_disk.proceed.noted"),
        _cancel,
        "a job that somebody cancels before the vote: back_off, dismiss_jobs",
    ),
    "gone": Story(
        Point.parse("vote.decide.noted"),
        _kill,
        "a decision that nobody is there to carry out: relink",
    ),
    "died": Story(
        Point.parse("commit_per_disk.start_job.noted"),
        _kill,
        "a plan that is not true any more: replan, and a helper",
    ),
    "noted": Story(
        Point.parse("validate.accept.noted"),
        _begin_backups,
        "a bitmap that backups need: note_bitmaps, carry_bitmaps",
    ),
}


@dataclass(frozen=True)
class Scenario:
    """A domain, and the deletion that is killed."""

    power: str
    gone: str
    disks: int
    told: str | None = None

    def __str__(self) -> str:
        """As in `running-newest-1` and `running-newest-1-kept`."""
        name = f"{self.power}-{self.gone}-{self.disks}"
        return name if self.told is None else f"{name}-{self.told}"

    @property
    def snapshot(self) -> str:
        """The snapshot that is deleted."""
        return GONE[self.gone]

    @property
    def story(self) -> Story | None:
        """Who disturbs it."""
        return None if self.told is None else STORIES[self.told]


SCENARIOS: Final = (
    *(
        Scenario(power, gone, disks)
        for power in ("running", "paused", "off")
        for gone in ("newest", "middle")
        for disks in (1, 2)
    ),
    Scenario("running", "first", 1),
    Scenario("off", "first", 1),
    Scenario("running", "newest", 1, "kept"),
    Scenario("running", "middle", 1, "kept"),
    Scenario("running", "newest", 1, "linked"),
    Scenario("running", "newest", 1, "lost"),
    Scenario("running", "newest", 1, "woken"),
    Scenario("running", "newest", 1, "refused"),
    Scenario("running", "middle", 1, "gone"),
    Scenario("running", "newest", 1, "died"),
    Scenario("running", "newest", 1, "noted"),
)


def named(name: str) -> Scenario:
    """The scenario of that name; KeyError when there is none."""
    return {str(scenario): scenario for scenario in SCENARIOS}[name]
