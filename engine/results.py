"""What the engine answers: frozen records of runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeAlias

from ..journal.model import DiskReversion
from ..journal.runs import CreationRow, DeletionRow, ReversionRow
from ..journal.times import seconds_between

#: Fold states in which the base is the truth; before them it is the overlay.
ON_BASE: Final = frozenset({"voted", "switched", "retired"})


@dataclass(frozen=True, slots=True)
class DomainDisk:
    """A disk as it is to be booted now; ``chain`` are paths, the active one first.

    ``broken`` is a reason code and a sentence when the chain cannot be read.
    """

    target: str
    source: str
    format: str
    chain: tuple[str, ...]
    broken: tuple[str, str] | None


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One disk of a deletion; ``bytes`` is what was planned to be copied."""

    target: str
    strategy: str
    top: str
    base: str
    bytes: int
    state: str
    is_active: bool
    superseded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Deletion:
    """A deletion as it stands; times are UTC, ISO 8601, ``seconds`` is its length.

    ``snapshot`` is the one that was named, ``snapshots`` are all that go with it; none
    before it was planned.
    """

    id: str
    domain: str
    snapshot: str
    state: str
    reason: str | None
    disks: tuple[FoldResult, ...]
    downtime_ms: float | None
    started: str
    finished: str | None
    snapshots: tuple[str, ...] = ()

    @property
    def is_open(self) -> bool:
        """Whether somebody has to go on with it."""
        return self.finished is None

    @property
    def is_decided(self) -> bool:
        """Whether a disk's data is in its base for good."""
        return any(disk.state in ON_BASE for disk in self.disks)

    @property
    def seconds(self) -> float | None:
        """From begin to end; None while it is open."""
        return _seconds(self.started, self.finished)

    @classmethod
    def of(cls, row: DeletionRow) -> Deletion:
        """The record of a row of the journal."""
        states = {fold.target: fold.state for fold in row.folds}
        folds = row.plan.folds if row.plan is not None else ()
        done = [
            FoldResult(**{**disk, "superseded": tuple(disk["superseded"])})
            for each in row.passes
            for disk in each["disks"]
        ]
        gone = [name for each in row.passes for name in each["snapshots"]]
        gone += row.plan.snapshots if row.plan is not None else ()
        return cls(
            id=row.id,
            domain=row.domain,
            snapshot=row.snapshot,
            state=row.state,
            reason=row.reason,
            disks=(
                *done,
                *(
                    FoldResult(
                        fold.target,
                        fold.strategy,
                        fold.top.path,
                        fold.base.path,
                        fold.copy_bytes,
                        states[fold.target],
                        row.plan is not None and row.plan.switches(fold),
                        tuple(image.path for image in fold.superseded),
                    )
                    for fold in folds
                    if fold.target in states
                ),
            ),
            downtime_ms=row.downtime_ms,
            started=row.started,
            finished=row.finished,
            snapshots=tuple(gone),
        )


@dataclass(frozen=True, slots=True)
class Creation:
    """The taking of a snapshot as it stands."""

    id: str
    domain: str
    snapshot: str
    state: str
    reason: str | None
    started: str
    finished: str | None

    @property
    def seconds(self) -> float | None:
        """From begin to end; None while it is open."""
        return _seconds(self.started, self.finished)

    @classmethod
    def of(cls, row: CreationRow) -> Creation:
        """The record of a row of the journal."""
        return cls(
            row.id,
            row.domain,
            row.snapshot,
            row.state,
            row.reason,
            row.started,
            row.finished,
        )


@dataclass(frozen=True, slots=True)
class Reversion:
    """A revert as it stands; see `ReversionPlan` for its disks."""

    id: str
    domain: str
    snapshot: str
    state: str
    reason: str | None
    disks: tuple[DiskReversion, ...]
    untouched: tuple[str, ...]
    missing: tuple[str, ...]
    started: str
    finished: str | None

    @property
    def seconds(self) -> float | None:
        """From begin to end; None while it is open."""
        return _seconds(self.started, self.finished)

    @classmethod
    def of(cls, row: ReversionRow) -> Reversion:
        """The record of a row of the journal."""
        return cls(
            row.id,
            row.domain,
            row.snapshot,
            row.state,
            row.reason,
            row.plan.disks,
            row.plan.untouched,
            row.plan.missing,
            row.started,
            row.finished,
        )


#: Whatever `recover` finishes.
Run: TypeAlias = Deletion | Creation | Reversion


def _seconds(started: str, finished: str | None) -> float | None:
    return None if finished is None else seconds_between(started, finished)
