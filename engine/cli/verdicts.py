"""How a run ended: what is said of it, and the exit status that it means."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...journal.errors import BackfoldError, Refused
from .. import records
from . import failures
from .invocation import Invocation
from .text import duration, size

if TYPE_CHECKING:
    from ...journal.model import DiskReversion
    from ..results import Creation, FoldResult, Reversion, Run


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of one run. Without a run, nothing was begun."""

    status: int
    run: Run | None = None
    error: BackfoldError | None = None
    domain: str | None = None
    snapshot: str | None = None

    @classmethod
    def of_error(
        cls,
        error: BackfoldError,
        run: Run | None = None,
        domain: str | None = None,
        snapshot: str | None = None,
    ) -> Verdict:
        """What an error means; it often carries the run."""
        from ..results import Run

        carried = getattr(error, "deletion", None)
        if isinstance(carried, Run):
            run = carried
        return cls(error.exit_status, run, error, domain, snapshot)


def fail(error: BackfoldError, invocation: Invocation) -> int:
    """Report an error that ended a command; returns the exit status."""
    if invocation.as_json and invocation.streams:
        return tell(Verdict(error.exit_status, None, error), invocation)
    return failures.report(error, invocation.output)


def tell(verdict: Verdict, invocation: Invocation) -> int:
    """Print a verdict; returns its exit status."""
    output = invocation.output
    if invocation.as_json:
        output.json(as_json(verdict))
        return verdict.status
    if verdict.error is not None:
        for line in failures.explain(verdict.error):
            output.note(line)
    elif verdict.run is not None:
        for line in summary(verdict.run):
            output.line(line)
    return verdict.status


def as_json(verdict: Verdict) -> dict[str, object]:
    """The result line of a run."""
    from ..results import Creation, Reversion

    run, error = verdict.run, verdict.error
    if isinstance(run, Creation):
        fields = records.creation(run)
    elif isinstance(run, Reversion):
        fields = records.reversion(run)
    elif run is not None:
        fields = records.deletion(run)
    elif isinstance(error, Refused):
        fields = records.refused(error, verdict.domain, verdict.snapshot)
    else:
        fields = records.nothing(verdict.domain, verdict.snapshot)
    return records.result(fields, error)


def summary(run: Run) -> Iterator[str]:
    """What has become of a run that needs no error to tell it."""
    from ..results import Creation, Reversion

    if isinstance(run, Creation):
        yield _of_creation(run)
        return
    if isinstance(run, Reversion):
        yield from of_reversion(run)
        return
    name = f"snapshot {run.snapshot} of {run.domain}"
    if len(run.snapshots) > 1:
        name = f"snapshots {', '.join(run.snapshots)} of {run.domain}"
    took = "" if run.seconds is None else f" in {duration(run.seconds)}"
    if run.state == "completed":
        still = ""
        if run.downtime_ms is not None:
            still = f"; the guest stood still for {run.downtime_ms:.0f} ms"
        yield f"Deleted {name}{took}{still} (deletion {run.id})."
        for disk in run.disks:
            yield f"  {disk.target}: {_of_disk(disk)}"
    elif run.state == "rolled_back":
        why = f": {run.reason}" if run.reason else ""
        yield f"Rolled back the deletion {run.id} of {name}{why}."
    else:
        why = f": {run.reason}" if run.reason else ""
        yield f"The deletion {run.id} of {name}: {run.state.replace('_', ' ')}{why}."


def _of_disk(disk: FoldResult) -> str:
    if disk.strategy == "commit" and disk.is_active:
        return f"boots from {disk.base} now, not from {disk.top}"
    verb = "is" if len(disk.superseded) == 1 else "are"
    return f"{', '.join(disk.superseded)} {verb} no longer in the chain"


def _of_creation(run: Creation) -> str:
    name = f"Snapshot {run.snapshot} of {run.domain}"
    if run.state == "recorded":
        return f"{name} was taken (creation {run.id})."
    why = f": {run.reason}" if run.reason else ""
    if run.state == "undone":
        return f"{name} was not taken{why}; the domain is as before ({run.id})."
    return f"{name}: {run.state.replace('_', ' ')}{why} (creation {run.id})."


def of_reversion(run: Reversion) -> Iterator[str]:
    """How a revert ended, disk by disk."""
    name = f"{run.domain} to snapshot {run.snapshot}"
    why = f": {run.reason}" if run.reason else ""
    if run.state == "undone":
        yield f"Did not revert {name}{why}; the disks are as before ({run.id})."
        return
    if run.state != "reverted":
        yield f"Revert of {name}: {run.state.replace('_', ' ')} (reversion {run.id})."
        return
    yield f"Reverted {name} (reversion {run.id})."
    for disk in run.disks:
        yield f"  {disk.target}: boots from {disk.overlay.overlay} now"
        yield f"  {disk.target}: {after_revert(disk)}"
    yield from (f"  {target}: {LEFT_OUT}" for target in run.untouched)
    yield from (f"  {target}: {NO_DISK}" for target in run.missing)


#: Of a disk that the snapshot does not include, and of one that the domain lacks.
LEFT_OUT: Final = "stays as it is; the snapshot does not include it"
NO_DISK: Final = "left out; the domain has no such disk any more"


def written(disk: DiskReversion) -> str:
    """What the image that a disk was on holds, in words."""
    since = f" since {disk.since}" if disk.since else ""
    if not disk.held:
        return f"nothing written{since}"
    return f"{size(disk.held)} written{since}"


def after_revert(disk: DiskReversion) -> str:
    """What became of the image that a disk was on."""
    former = f"{disk.former.path} ({written(disk)})"
    if disk.stays is None:
        return f"{former} was removed"
    return f"{former} stays: {disk.stays}"
