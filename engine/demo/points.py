"""Where the demo kills: the moments that a deletion of the newest snapshot passes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, NamedTuple

from ...states.deletion import DELETION
from ..runner import crash_points

#: Steps and edges of a started domain whose active images are folded, when nobody
#: disturbs. The others of the declaration are for domains that are off, for folds
#: below the active image, or for what went wrong.
PASSED: Final[Mapping[str, frozenset[str]]] = {
    "prepare": frozenset({"sync_frozen", "probe_fence", "proceed"}),
    "commit_per_disk": frozenset({"start_job", "proceed"}),
    "vote": frozenset(
        {
            "hold",
            "stop_guest",
            "complete_jobs",
            "sync_written",
            "fence",
            "look_again",
            "decide",
        }
    ),
    "pivot": frozenset(
        {"finalize", "release_guest", "sync_headers", "close_images", "proceed"}
    ),
    "update_metadata": frozenset({"record", "unlink", "proceed"}),
}
#: Steps that are done for one disk after the other.
PER_DISK: Final = frozenset(
    {("commit_per_disk", "start_job"), ("update_metadata", "unlink")}
)


class KillPoint(NamedTuple):
    """A moment of a step or edge; its ``nth`` time, when there is one for each disk."""

    state: str
    step: str
    moment: str
    nth: int = 1

    def __str__(self) -> str:
        """As in `vote.fence.done`, `update_metadata.unlink.announced#2`."""
        name = f"{self.state}.{self.step}.{self.moment}"
        return f"{name}#{self.nth}" if (self.state, self.step) in PER_DISK else name

    @classmethod
    def parse(cls, text: str) -> KillPoint:
        """Read what `str` wrote; ValueError when it is something else."""
        name, _, nth = text.partition("#")
        state, step, moment = name.split(".")
        return cls(state, step, moment, int(nth or "1"))


def kill_points(disks: int) -> list[KillPoint]:
    """Every point that a deletion with so many disks passes, in a fixed order."""
    return [
        KillPoint(state, step, moment, nth)
        for state, step, moment in crash_points(DELETION)
        if step in PASSED.get(state, ())
        for nth in range(1, disks + 1 if (state, step) in PER_DISK else 2)
    ]


def draw(seed: int, disks: int = 2) -> KillPoint:
    """The point that this seed stands for."""
    return random.Random(seed).choice(kill_points(disks))
