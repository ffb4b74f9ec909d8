"""What is killed at: domains in every state, and stories that lead off the line.

Most steps come in an undisturbed deletion. The others come when somebody disturbs:
each story disturbs once, at a point of its own, and is recorded and killed at from
there on.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from backfold.engine.demo.guest import qemu_img
from crash.points import Point
from crash.stage import Copied
from real.owners import Launcher

#: What backups note in, in the story that tells of them.
BITMAP: Final = "nightly"


@dataclass(frozen=True)
class Order:
    """What is deleted, and how; ``gone`` are the snapshots that go with it.

    ``stage`` is where: see `crash.stage.STAGES`. ``left`` are images that stay beside
    the chains, since no snapshot made them.
    """

    gone: tuple[str, ...]
    strategy: str = "commit"
    scope: str = "snapshot"
    stage: str = "line"
    left: tuple[str, ...] = ()

    @property
    def through(self) -> str | None:
        """The last of a range."""
        is_range = len(self.gone) > 1 and self.scope == "snapshot"
        return self.gone[-1] if is_range else None


#: In the line, above the first snapshot there is an overlay that is not the active
#: image, and that has to be reopened for writing. What lies below the first one no
#: snapshot made, so that its stream leads to no link at all.
ORDERS: Final[Mapping[str, Order]] = {
    "newest": Order(("s3",)),
    "middle": Order(("s2",)),
    "first": Order(("s1",)),
    "stream-newest": Order(("s3",), "stream"),
    "stream-middle": Order(("s2",), "stream"),
    "stream-first": Order(("s1",), "stream", left=("vda.qcow2",)),
    "range-newest": Order(("s2", "s3")),
    "range-middle": Order(("s1", "s2")),
    "stream-range": Order(("s2", "s3"), "stream"),
    "leaf": Order(("s5",), stage="tree"),
    "children": Order(("s4", "s5"), scope="children", stage="tree"),
    "side": Order(("s4",), stage="tree"),
    "stream-side": Order(("s4",), "stream", stage="tree"),
    "branch": Order(("s3", "s4", "s5"), stage="tree"),
    "fork": Order(("s2", "s3", "s4"), "stream", stage="tree"),
}


#: The file that somebody makes in a story.
CLONE: Final = "clone.qcow2"


@dataclass(frozen=True)
class Story:
    """Somebody disturbs a deletion at a point; ``leads_to`` says why that is here.

    ``left`` are files that he leaves beside the images.
    """

    point: Point
    disturb: Callable[[Copied], None]
    leads_to: str
    left: tuple[str, ...] = ()


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


def _own(scene: Copied) -> None:
    """Record the hook of somebody who owns the definition."""
    with closing(sqlite3.connect(scene.journal)) as db, db:
        db.execute("update domains set hook = ?", (str(Launcher(scene.folder).hook),))


def _clone(scene: Copied) -> None:
    """Make somebody else's image on the one below the active image of the branch."""
    [(below, _)] = scene.rows("kept_images", "path, domain")
    link = ["-b", below, "-F", "qcow2"]
    qemu_img("create", "-q", "-f", "qcow2", *link, scene.images_folder / CLONE)


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
    "owned": Story(
        Point.parse("validate.accept.announced"),
        _own,
        "a definition that lives elsewhere: ask_owner, call_hook, tell_owner",
    ),
    "cloned": Story(
        Point.parse("update_metadata.again.noted"),
        _clone,
        "a second pass that is refused: finish",
        (CLONE,),
    ),
    "spoiled": Story(
        Point.parse("vote.flush_copied.noted"),
        _cancel,
        "a second pass that is given up: roll_back, finish",
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
    def order(self) -> Order:
        """What is deleted."""
        return ORDERS[self.gone]

    @property
    def story(self) -> Story | None:
        """Who disturbs it."""
        return None if self.told is None else STORIES[self.told]

    @property
    def left(self) -> tuple[str, ...]:
        """Files that stay beside the images of the chains."""
        return self.order.left + (() if self.story is None else self.story.left)


#: Streams, ranges, and what becomes of branches.
WHOLE_TREE: Final = (
    Scenario("running", "stream-newest", 1),
    Scenario("running", "stream-middle", 2),
    Scenario("off", "stream-newest", 1),
    Scenario("off", "stream-first", 1),
    Scenario("running", "stream-newest", 1, "kept"),
    Scenario("running", "stream-middle", 1, "gone"),
    Scenario("running", "stream-first", 1, "gone"),
    Scenario("running", "range-newest", 1),
    Scenario("running", "range-middle", 1),
    Scenario("off", "range-newest", 1),
    Scenario("running", "stream-range", 1),
    Scenario("running", "leaf", 1),
    Scenario("running", "children", 1),
    Scenario("running", "side", 1),
    Scenario("running", "stream-side", 1),
    Scenario("running", "branch", 1),
    Scenario("running", "branch", 1, "cloned"),
    Scenario("running", "branch", 1, "spoiled"),
    Scenario("running", "fork", 1),
    Scenario("off", "fork", 1),
)

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
    Scenario("running", "newest", 2, "owned"),
    Scenario("off", "newest", 1, "owned"),
    *WHOLE_TREE,
)


def named(name: str) -> Scenario:
    """The scenario of that name; KeyError when there is none."""
    return {str(scenario): scenario for scenario in SCENARIOS}[name]
