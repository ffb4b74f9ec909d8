"""The error tree: what happened, what it means for the data, what to do next.

BackfoldError
├── UsageError            2  the request makes no sense
├── Refused               3  (4 when somebody else has the images) nothing changed
├── Busy                  4  another live process has the domain
├── RolledBack            5  failed, and the domain is as it was before
├── Interrupted           6  something is left open; run `recover`
├── AlreadyDecided        6  past the point of no return
├── EventsLost            1  a consumer of events was too slow; no run is touched
├── JournalError          1  the journal cannot be used
│   ├── JournalBusy
│   ├── JournalDamaged
│   ├── JournalNewer
│   ├── JournalOlder         the disks have seen more than the journal
│   ├── CommitUnknown        a COMMIT failed: it may or may not be durable
│   ├── Superseded           another engine has taken the run over
│   └── Undeclared           a transition that no declaration holds
└── WorldError            1  a call into the world did not do what it should
    ├── OutcomeUnknown       nobody can say whether it took effect: ask
    │   └── Disconnected     the connection to QEMU ended
    ├── MonitorBusy          somebody else talks to the monitor
    └── CommandFailed        QEMU or the system answered with an error
        └── FlushFailed      an fsync failed: the next one would prove nothing
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Protocol

#: Reasons that mean "another live process has the domain or its images".
SOMEBODY_ELSE = frozenset({"image_in_use", "monitor_busy"})


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something was refused: a stable code, and what to do about it."""

    code: str
    message: str
    remedy: str
    disk: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """The reason as the command line prints it."""
        return {
            "code": self.code,
            "disk": self.disk,
            "message": self.message,
            "remedy": self.remedy,
        }


class RunRecord(Protocol):
    """What every record of a run has: a deletion's, a creation's, a revert's."""

    @property
    def id(self) -> str:
        """The run's id."""

    @property
    def domain(self) -> str:
        """The domain."""

    @property
    def snapshot(self) -> str:
        """The snapshot that was named."""

    @property
    def state(self) -> str:
        """The state that the journal has."""

    @property
    def reason(self) -> str | None:
        """Why it ended as it did, when that was not planned."""

    @property
    def started(self) -> str:
        """When it began: UTC, ISO 8601."""

    @property
    def finished(self) -> str | None:
        """When it ended; None while it is open."""


class BackfoldError(Exception):
    """The root of every error that Backfold raises on purpose.

    ``code`` is stable: what to branch on. ``exit_status`` is what the command line
    ends with: 1 failed, nothing left open · 2 usage · 3 refused, nothing changed ·
    4 another live process has the domain · 5 rolled back · 6 something is left open.

    Args:
        what: what happened.
        data: what it means for the data on the disks.
        remedy: what to do next.
    """

    code: ClassVar[str] = "failed"
    exit_status: int = 1

    def __init__(
        self,
        what: str,
        *,
        data: str = "No data was changed.",
        remedy: str = "",
    ) -> None:
        """Keep the three sentences apart, so that each can be shown by itself."""
        super().__init__(what)
        self.what = what
        self.data = data
        self.remedy = remedy


class UsageError(BackfoldError):
    """The request makes no sense as it stands."""

    code = "usage"
    exit_status = 2


class Refused(BackfoldError):
    """Checks found reasons not to begin. Images, QEMU and catalog are unchanged."""

    code = "refused"

    def __init__(self, reasons: Iterable[Reason], deletion: str | None = None) -> None:
        """Carry every reason at once; ``deletion`` is the id that stays as history."""
        self.reasons = tuple(reasons)
        self.deletion = deletion
        super().__init__(
            "; ".join(reason.message for reason in self.reasons),
            data="Images, QEMU and catalog are unchanged.",
            remedy=" ".join(reason.remedy for reason in self.reasons),
        )
        codes = {reason.code for reason in self.reasons}
        self.exit_status = 4 if codes & SOMEBODY_ELSE else 3


class Busy(BackfoldError):
    """Another live process has the domain."""

    code = "busy"
    exit_status = 4


class RolledBack(BackfoldError):
    """The run failed or was cancelled, and the domain is as it was before."""

    code = "rolled_back"
    exit_status = 5

    def __init__(
        self, deletion: RunRecord, what: str, *, data: str, remedy: str
    ) -> None:
        """``deletion`` is the record of the run, whatever machine it is of."""
        super().__init__(what, data=data, remedy=remedy)
        self.deletion = deletion


class Interrupted(BackfoldError):
    """The run is left open; ``recover`` goes on with it."""

    code = "interrupted"
    exit_status = 6

    def __init__(
        self, deletion: RunRecord, what: str, *, data: str, remedy: str
    ) -> None:
        """``deletion`` is the record of the run, whatever machine it is of."""
        super().__init__(what, data=data, remedy=remedy)
        self.deletion = deletion


class AlreadyDecided(BackfoldError):
    """The decision is durable: there is no way back, only forward."""

    code = "already_decided"
    exit_status = 6


class EventsLost(BackfoldError):
    """A consumer of events was too slow for too long; the runs are not touched."""

    code = "events_lost"


class JournalError(BackfoldError):
    """The journal cannot be used."""

    code = "journal"


class JournalBusy(JournalError):
    """Other processes held the journal for too long; nothing was written."""

    code = "journal_busy"


class JournalDamaged(JournalError):
    """SQLite says that the journal is not a database, or malformed."""

    code = "journal_damaged"


class JournalNewer(JournalError):
    """The journal was written by a newer Backfold."""

    code = "journal_newer"


class JournalOlder(JournalError):
    """The disks have seen more than the journal: it is a copy from before."""

    code = "journal_older"


class CommitUnknown(JournalError):
    """A COMMIT reported an error: after a restart its rows may be there or not.

    Measured: an I/O error on the WAL's fdatasync is reported, the connection does
    not see the row, and after a restart the row is there.
    """

    code = "commit_unknown"


class Superseded(JournalError):
    """Another engine claimed the run (its generation moved on)."""

    code = "superseded"


class Undeclared(JournalError):
    """A transition or step that the declaration does not hold."""

    code = "undeclared"


class WorldError(BackfoldError):
    """A call into the world did not do what it should."""

    code = "world"


class OutcomeUnknown(WorldError):
    """No answer: it may have taken effect or not. Ask again, never assume."""

    code = "outcome_unknown"


class Disconnected(OutcomeUnknown):
    """The connection to QEMU ended."""

    code = "disconnected"


class MonitorBusy(WorldError):
    """The monitor accepts connections but does not greet: somebody else has it."""

    code = "monitor_busy"
    exit_status = 4


class CommandFailed(WorldError):
    """QEMU, qemu-img or the system answered with an error."""

    code = "command_failed"


class FlushFailed(CommandFailed):
    """A file could not be flushed. Asking again proves nothing.

    The kernel forgets what it could not write, and the next fsync succeeds.
    """

    code = "flush_failed"

    def __init__(self, path: str, why: str) -> None:
        """``path`` is the file, ``why`` what the system said."""
        super().__init__(
            f"{path} could not be flushed: {why}.",
            data="What was last written into it may not be on the storage.",
            remedy="Look at the storage; asking again would prove nothing.",
        )
        self.path, self.why = path, why
