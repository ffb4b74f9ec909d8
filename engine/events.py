"""What a caller hears of a run while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias


@dataclass(frozen=True, slots=True)
class StateEvent:
    """A run of a machine has entered a state; the first one of a run carries its id."""

    run: str
    domain: str
    snapshot: str
    state: str
    detail: Mapping[str, Any]
    machine: str = "deletion"


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """How far one disk is: bytes done, of bytes in total."""

    run: str
    disk: str
    done: int
    total: int


Event: TypeAlias = StateEvent | ProgressEvent
#: Called on the event loop; its exceptions are logged and abort nothing.
OnEvent: TypeAlias = Callable[[Event], None]
