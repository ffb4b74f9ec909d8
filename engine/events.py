"""What a caller hears of runs while they go on.

Events are told after what they tell of is durable (alarms: before). Times are UTC,
ISO 8601, by the clock of the engine that tells them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A run of a machine has entered a state; the first one of a run carries its id.

    ``source`` is the state before, None for the state that a run begins in.
    ``detail`` is what the journal has of the edge: JSON.
    """

    run: str
    domain: str
    snapshot: str
    state: str
    detail: Mapping[str, Any]
    machine: str = "deletion"
    at: str = ""
    source: str | None = None


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far one disk of a deletion is: bytes done, of bytes in total."""

    run: str
    disk: str
    done: int
    total: int
    domain: str = ""
    snapshot: str = ""
    at: str = ""


@dataclass(frozen=True, slots=True)
class DowntimeEvent:
    """The guest was let go on; ``downtime_ms`` is the sum of all holds so far."""

    run: str
    domain: str
    snapshot: str
    downtime_ms: float
    at: str


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """Something unexpected that somebody should look at; the run goes on."""

    run: str
    domain: str
    snapshot: str
    what: str
    at: str


Event: TypeAlias = StateEvent | ProgressEvent | DowntimeEvent | AlarmEvent
#: Called on the event loop; its exceptions are logged and abort nothing.
OnEvent: TypeAlias = Callable[[Event], None]
