"""Backfold deletes external snapshots of QEMU virtual machines, crash-safely."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .engine.api import Engine
    from .engine.event_stream import EventStream
    from .engine.events import (
        AlarmEvent,
        DowntimeEvent,
        Event,
        OnEvent,
        ProgressEvent,
        StateEvent,
    )
    from .engine.inspection_findings import Finding, Inspection
    from .engine.results import Creation, Deletion, DomainDisk, FoldResult, Reversion
    from .engine.story import Chapter, DiskStory, Entry, Story
    from .journal.adoptions import AdoptedImage, Adoption
    from .journal.errors import (
        AlreadyDecided,
        BackfoldError,
        Busy,
        EventsLost,
        Interrupted,
        JournalError,
        Reason,
        Refused,
        RolledBack,
        UsageError,
    )
    from .journal.model import Disk, Domain, Plan, ReversionPlan, Snapshot

__version__ = "0.1.0"

__all__ = [
    "AdoptedImage",
    "Adoption",
    "AlarmEvent",
    "AlreadyDecided",
    "BackfoldError",
    "Busy",
    "Chapter",
    "Creation",
    "Deletion",
    "Disk",
    "DiskStory",
    "Domain",
    "DomainDisk",
    "DowntimeEvent",
    "Engine",
    "Entry",
    "Event",
    "EventStream",
    "EventsLost",
    "Finding",
    "FoldResult",
    "Inspection",
    "Interrupted",
    "JournalError",
    "OnEvent",
    "Plan",
    "ProgressEvent",
    "Reason",
    "Refused",
    "Reversion",
    "ReversionPlan",
    "RolledBack",
    "Snapshot",
    "StateEvent",
    "Story",
    "UsageError",
]

_MODULES = (
    ".engine.api",
    ".engine.event_stream",
    ".engine.events",
    ".engine.inspection_findings",
    ".engine.results",
    ".engine.story",
    ".journal.adoptions",
    ".journal.errors",
)


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for: `backfold --help` needs none."""
    if name in __all__:
        for module in (*_MODULES, ".journal.model"):
            found = import_module(module, __name__)
            if name in vars(found):
                return vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
