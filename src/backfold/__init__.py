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
    from .engine.inspection_findings import Finding, Fix, Inspection
    from .engine.records import as_json
    from .engine.results import (
        Creation,
        Deletion,
        DomainDisk,
        FoldResult,
        Reversion,
        Run,
    )
    from .engine.story import Chapter, DiskStory, Entry, Story
    from .journal.adoptions import AdoptedImage, Adoption
    from .journal.catalog import Catalog
    from .journal.errors import (
        AlreadyDecided,
        BackfoldError,
        Busy,
        CommandFailed,
        CommitUnknown,
        Disconnected,
        EventsLost,
        FlushFailed,
        Interrupted,
        JournalBusy,
        JournalDamaged,
        JournalError,
        JournalNewer,
        JournalOlder,
        MonitorBusy,
        OutcomeUnknown,
        Reason,
        Refused,
        RolledBack,
        RunRecord,
        Superseded,
        Undeclared,
        UsageError,
        WorldError,
    )
    from .journal.meter import CommitTimes
    from .journal.model import (
        BitmapPlan,
        DataFile,
        Disk,
        DiskReversion,
        Domain,
        FileId,
        FileStamp,
        FoldPlan,
        Image,
        KeptImage,
        MemoryFile,
        OverlayPlan,
        Plan,
        RetiredImage,
        ReversionPlan,
        Snapshot,
        SnapshotDisk,
        TreeImage,
    )
    from .journal.runs import TransitionRow
    from .states.outlook import Outlook
    from .states.ports import HookCall

__version__ = "0.1.0"

__all__ = [
    "AdoptedImage",
    "Adoption",
    "AlarmEvent",
    "AlreadyDecided",
    "BackfoldError",
    "BitmapPlan",
    "Busy",
    "Catalog",
    "Chapter",
    "CommandFailed",
    "CommitTimes",
    "CommitUnknown",
    "Creation",
    "DataFile",
    "Deletion",
    "Disconnected",
    "Disk",
    "DiskReversion",
    "DiskStory",
    "Domain",
    "DomainDisk",
    "DowntimeEvent",
    "Engine",
    "Entry",
    "Event",
    "EventStream",
    "EventsLost",
    "FileId",
    "FileStamp",
    "Finding",
    "Fix",
    "FlushFailed",
    "FoldPlan",
    "FoldResult",
    "HookCall",
    "Image",
    "Inspection",
    "Interrupted",
    "JournalBusy",
    "JournalDamaged",
    "JournalError",
    "JournalNewer",
    "JournalOlder",
    "KeptImage",
    "MemoryFile",
    "MonitorBusy",
    "OnEvent",
    "OutcomeUnknown",
    "Outlook",
    "OverlayPlan",
    "Plan",
    "ProgressEvent",
    "Reason",
    "Refused",
    "RetiredImage",
    "Reversion",
    "ReversionPlan",
    "RolledBack",
    "Run",
    "RunRecord",
    "Snapshot",
    "SnapshotDisk",
    "StateEvent",
    "Story",
    "Superseded",
    "TransitionRow",
    "TreeImage",
    "Undeclared",
    "UsageError",
    "WorldError",
    "as_json",
]

#: Where they are, what costs least first.
_MODULES = (
    ".journal.errors",
    ".journal.model",
    ".engine.events",
    ".engine.inspection_findings",
    ".engine.records",
    ".journal.meter",
    ".journal.runs",
    ".journal.catalog",
    ".journal.adoptions",
    ".engine.event_stream",
    ".engine.results",
    ".engine.story",
    ".states.outlook",
    ".states.ports",
    ".engine.api",
)


def __getattr__(name: str) -> object:
    """Import a public name when it is asked for: `backfold --help` needs none."""
    if name in __all__:
        for module in _MODULES:
            found = import_module(module, __name__)
            if name in vars(found):
                return vars(found)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, loaded or not."""
    return sorted({*globals(), *__all__})
