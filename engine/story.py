"""The story of a run: what happened, when, how long it took, and why it ended so.

The records that `engine.storyteller` makes of the rows of the journal. Its sentences
are for people; ``facts`` are the values behind them. Names in both are other people's
words: whoever prints them makes them safe first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

#: What an entry tells of. A ``step`` was announced and done; ``unfinished`` is one that
#: was announced and never noted, so that it may have happened or not.
Kind: TypeAlias = Literal[
    "begin",
    "takeover",
    "plan",
    "step",
    "unfinished",
    "copied",
    "decision",
    "transition",
    "request",
    "alarm",
    "left_open",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    ``at`` is UTC, ISO 8601; ``since_seconds`` counts from the run's begin, and
    ``took_seconds`` is None where no length of time is known. ``name`` is the step,
    edge or remark of the journal, ``times`` how often the same was recorded in a row.
    """

    at: str
    since_seconds: float
    took_seconds: float | None
    kind: Kind
    what: str
    disk: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    times: int = 1


@dataclass(frozen=True, slots=True)
class Chapter:
    """One stay in a state: from the edge that led there to the edge that left it.

    ``took_seconds`` is None for the state in which the run stands or has ended.
    """

    state: str
    at: str
    since_seconds: float
    took_seconds: float | None
    who: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class DiskStory:
    """One disk of a deletion: what was to be copied, and what was, in bytes.

    ``copied_bytes`` and ``seconds`` are None while its job has not converged, and for
    runs of versions that did not record them. ``rate`` is in bytes per second.
    """

    target: str
    strategy: str
    top: str
    base: str
    state: str
    planned_bytes: int
    copied_bytes: int | None
    seconds: float | None
    rate: float | None


@dataclass(frozen=True, slots=True)
class Story:
    """A run from its begin to its end, or to now.

    ``decided`` is when it was decided, if it was: from there it only goes forward.
    ``downtime_ms`` is how long the guest stood still, in all holds; ``bytes`` what was
    copied in all, None where nothing is known of it.
    """

    machine: str
    run: str
    domain: str
    snapshot: str
    state: str
    outcome: str
    who: str
    started: str
    finished: str | None
    seconds: float | None
    decided: str | None
    downtime_ms: float | None
    bytes: int | None
    reason: str | None
    disks: tuple[DiskStory, ...]
    chapters: tuple[Chapter, ...]
