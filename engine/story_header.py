"""The header of a story: what was copied on each disk, and how the run ended."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .results import Creation, FoldResult, Reversion, Run
from .story import DiskStory

#: A length of time that a rate can be told of, in seconds.
_SHORTEST: Final = 0.001
#: States of a fold whose planned bytes were copied, if nothing else is known.
COPIED: Final = frozenset({"converged", "voted", "switched", "retired"})


def disk_story(disk: FoldResult, facts: Mapping[str, Any]) -> DiskStory:
    """What is known of the copy of one disk.

    QEMU counts holes as copied in all jobs but active commits, whose dirty blocks it
    knows: of the others, the data that was planned is what was copied.
    """
    copied = seen = float(disk.bytes)
    seconds = as_number(facts.get("seconds"))
    if facts.get("active") is True:
        copied = as_number(facts.get("all", facts.get("bytes"))) or 0
        seen = as_number(facts.get("copied")) or 0
    is_known = seconds is not None and "active" in facts
    is_measured = seconds is not None and seconds >= _SHORTEST and seen > 0
    return DiskStory(
        disk.target,
        disk.strategy,
        disk.top,
        disk.base,
        disk.state,
        disk.bytes,
        int(copied) if is_known else None,
        seconds if is_known else None,
        seen / seconds if seconds and is_known and is_measured else None,
    )


def as_number(value: Any) -> float | None:
    """A number of the journal; None for anything else."""
    try:
        found = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def outcome(run: Run, decided: str | None) -> str:
    """How it ended, or what is to be done, in a sentence."""
    reason = f": {run.reason.rstrip('.')}" if run.reason else ""
    if run.finished is None:
        way = "; it is decided, there is only forward" if decided else ""
        state = run.state.replace("_", " ")
        return f"Open in {state}{way}. `backfold recover {run.id}` finishes it."
    if isinstance(run, Creation | Reversion):
        return _ENDS[run.state].format(run=run) + reason + "."
    if run.state == "completed":
        gone = ", ".join(run.snapshots) or run.snapshot
        return f"Completed: {gone} of {run.domain} {_are(run.snapshots)} gone{reason}."
    if run.state == "refused":
        return f"Refused, and nothing was changed{reason}."
    return f"Rolled back{reason}. The domain is as before."


def _are(names: Sequence[str]) -> str:
    return "are" if len(names) > 1 else "is"


_ENDS: Final = {
    "recorded": "The snapshot {run.snapshot} of {run.domain} was taken",
    "reverted": "{run.domain} was reverted to {run.snapshot}",
    "undone": "Undone, the disks are as before",
}
