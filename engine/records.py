"""Results, events and errors as plain objects, as `--json` prints them.

The schemas in ``cli/schemas/`` describe every object; the tests hold them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..journal.errors import BackfoldError, Reason, Refused
from ..journal.times import seconds_between

if TYPE_CHECKING:
    from ..journal.model import Domain, FoldPlan, Plan, Snapshot
    from ..journal.runs import TransitionRow
    from .events import Event
    from .results import Creation, Deletion, DomainDisk, Reversion, Run
    from .story import Entry, Story


def as_json(
    value: Event | Run | Story | Domain | Snapshot | BackfoldError | Reason,
) -> dict[str, Any]:
    """A result, an event or an error as an object that `json.dumps` takes.

    It is the object that the command line prints with ``--json``, described by the
    same schema, without the field ``schema``. Raises TypeError for anything else.
    """
    from ..journal.model import Domain, Snapshot
    from .results import Creation, Deletion, Reversion
    from .story import Story

    match value:
        case Deletion():
            return deletion(value)
        case Creation():
            return creation(value)
        case Reversion():
            return reversion(value)
        case Story():
            return story(value)
        case Domain():
            return domain(value)
        case Snapshot():
            return snapshot(value)
        case BackfoldError():
            return error(value)
        case Reason():
            return dict(value.as_json())
        case _:
            return event(value)


def event(heard: Event) -> dict[str, Any]:
    """What happened, to which run, and when. Raises TypeError for anything else."""
    from .events import AlarmEvent, DowntimeEvent, ProgressEvent, StateEvent

    fields: dict[str, Any]
    match heard:
        case StateEvent():
            because = heard.detail.get("because")
            run, name = heard.machine, "state"
            fields = {
                "from": heard.source,
                "state": heard.state,
                "because": because if isinstance(because, str) else None,
            }
        case ProgressEvent():
            run, name = "deletion", "progress"
            fields = {"disk": heard.disk, "done": heard.done, "total": heard.total}
        case DowntimeEvent():
            run, name = "deletion", "downtime"
            fields = {"downtime_ms": heard.downtime_ms}
        case AlarmEvent():
            run, name = "run", "alarm"
            fields = {"what": heard.what}
        case _:
            raise TypeError(f"{heard!r} has no JSON form")
    return {
        "event": name,
        "time": heard.at,
        run: heard.run,
        "domain": heard.domain,
        "snapshot": heard.snapshot,
        **fields,
    }


def error(found: BackfoldError) -> dict[str, Any]:
    """What happened, what it means for the data, what to do next."""
    reasons = found.reasons if isinstance(found, Refused) else ()
    return {
        "code": found.code,
        "message": found.what,
        "data": found.data or None,
        "remedy": found.remedy or None,
        "reasons": [reason.as_json() for reason in reasons],
    }


def domain(found: Domain) -> dict[str, Any]:
    """A domain as the catalog has it."""
    return {
        "name": found.name,
        "monitor": found.monitor,
        "hook": found.hook,
        "disks": [
            {"target": disk.target, "source": disk.source, "format": disk.format}
            for disk in found.disks
        ],
    }


def domain_now(
    found: Domain, disks: Sequence[DomainDisk], deletion: str | None
) -> dict[str, Any]:
    """A domain with the images to boot from now, and its open deletion."""
    return {
        "name": found.name,
        "monitor": found.monitor,
        "hook": found.hook,
        "deletion": deletion,
        "disks": [
            {
                "target": disk.target,
                "source": disk.source,
                "format": disk.format,
                "chain": list(disk.chain),
                "broken": None
                if disk.broken is None
                else {"code": disk.broken[0], "message": disk.broken[1]},
            }
            for disk in disks
        ],
    }


def snapshot(found: Snapshot) -> dict[str, Any]:
    """A snapshot as the catalog has it."""
    return {
        "domain": found.domain,
        "name": found.name,
        "parent": found.parent,
        "current": found.current,
        "created": found.created,
        "status": found.status,
        "reason": found.reason,
        "disks": [
            {"target": disk.target, "frozen": disk.frozen, "format": disk.format}
            for disk in found.disks
        ],
        "memory": found.memory,
    }


def plan(found: Plan, removed: Sequence[str]) -> dict[str, Any]:
    """What a deletion would do."""
    return {
        "domain": found.domain,
        "snapshot": found.snapshot,
        "snapshots": list(found.snapshots),
        "parent": found.parent,
        "power": found.power,
        "place": found.place,
        "disks": [_fold_plan(fold, found) for fold in found.folds],
        "images": [
            {
                "target": image.target,
                "path": image.path,
                "below": image.below,
                "snapshots": list(image.snapshots),
                "active": image.is_active,
                "becomes": image.becomes,
            }
            for image in found.images
        ],
        "removed": list(removed),
        "kept": [kept.path for kept in found.kept],
        "searched": list(found.searched),
        "more": found.has_more,
        "bytes": sum(fold.copy_bytes for fold in found.folds),
        "space": sum(fold.space_bytes for fold in found.folds),
        "risks": list(found.risks),
    }


def _fold_plan(fold: FoldPlan, plan: Plan) -> dict[str, Any]:
    before = [image.path for image in fold.chain]
    return {
        "target": fold.target,
        "strategy": fold.strategy,
        "because": fold.because,
        "active": plan.switches(fold),
        "top": fold.top.path,
        "base": fold.base.path,
        "above": None if fold.above is None else fold.above.path,
        "survivor": fold.survivor.path,
        "bytes": fold.copy_bytes,
        "space": fold.space_bytes,
        "free": fold.free_bytes,
        "undo": undo(fold),
        "guest": guest(fold, plan),
        "before": before,
        "after": after(fold),
        "bitmaps": [
            {"name": one.name, "fate": one.fate, "recording": one.recording}
            for one in fold.bitmaps
        ],
    }


def undo(fold: FoldPlan) -> str:
    """How much a roll back can give back, in a sentence."""
    if fold.is_stream:
        return "complete until it is decided: the frozen images are not written into"
    names = ", ".join(fold.snapshots) or "no snapshot"
    return f"the domain stays as it is, but {names} cannot be reverted to any more"


def guest(fold: FoldPlan, plan: Plan) -> str:
    """What the guest notices, in a sentence."""
    if plan.power == "off":
        return "is off"
    if plan.place == "helper":
        return "notices nothing: it does not run on these images"
    if not plan.switches(fold):
        return "notices nothing but slower storage"
    if plan.power == "running":
        return "stands still for the pivot, within --max-downtime"
    return "stays paused"


def after(fold: FoldPlan) -> list[str]:
    """The paths of a chain once its fold is done, the active image first."""
    gone = {image.file for image in fold.superseded}
    return [image.path for image in fold.chain if image.file not in gone]


def deletion(found: Deletion) -> dict[str, Any]:
    """A deletion as it stands."""
    return {
        "deletion": found.id,
        "domain": found.domain,
        "snapshot": found.snapshot,
        "snapshots": list(found.snapshots),
        "state": found.state,
        "disks": [
            {
                "target": disk.target,
                "strategy": disk.strategy,
                "top": disk.top,
                "base": disk.base,
                "bytes": disk.bytes,
                "state": disk.state,
                "superseded": list(disk.superseded),
            }
            for disk in found.disks
        ],
        "downtime_ms": found.downtime_ms,
        "seconds": found.seconds,
        "reason": found.reason,
        "started": found.started,
        "finished": found.finished,
    }


def creation(found: Creation) -> dict[str, Any]:
    """The taking of a snapshot as it stands."""
    return {
        "creation": found.id,
        "domain": found.domain,
        "snapshot": found.snapshot,
        "state": found.state,
        "seconds": _length(found.started, found.finished),
        "reason": found.reason,
        "started": found.started,
        "finished": found.finished,
    }


def reversion(found: Reversion) -> dict[str, Any]:
    """A revert as it stands."""
    return {
        "reversion": found.id,
        "domain": found.domain,
        "snapshot": found.snapshot,
        "state": found.state,
        "disks": [
            {
                "target": disk.target,
                "source": disk.overlay.overlay,
                "frozen": disk.overlay.frozen.path,
                "former": disk.former.path,
                "bytes": disk.held,
                "since": disk.since,
                "stays": disk.stays,
            }
            for disk in found.disks
        ],
        "untouched": list(found.untouched),
        "missing": list(found.missing),
        "seconds": _length(found.started, found.finished),
        "reason": found.reason,
        "started": found.started,
        "finished": found.finished,
    }


def refused(found: Refused, domain: str | None, snapshot: str | None) -> dict[str, Any]:
    """A deletion that was refused before it got a row, in a deletion's form."""
    return {
        **nothing(domain, snapshot),
        "deletion": found.deletion,
        "state": "refused",
        "reason": found.what,
    }


def nothing(domain: str | None, snapshot: str | None) -> dict[str, Any]:
    """A deletion that was never begun, in a deletion's form."""
    return {
        "deletion": None,
        "domain": domain,
        "snapshot": snapshot,
        "snapshots": [],
        "state": None,
        "disks": [],
        "downtime_ms": None,
        "seconds": None,
        "reason": None,
        "started": None,
        "finished": None,
    }


def result(run: dict[str, Any], failed: BackfoldError | None) -> dict[str, Any]:
    """The last line of a run: how it stands, and what went wrong."""
    told = None if failed is None else error(failed)
    reasons = [] if told is None else told.pop("reasons")
    return {"event": "result", **run, "reasons": reasons, "error": told}


def entry(row: TransitionRow, began: str) -> dict[str, Any]:
    """One line of a run's history."""
    return {
        "time": row.at,
        "offset": _length(began, row.at),
        "machine": row.machine,
        "kind": row.kind,
        "from": row.source,
        "to": row.dest,
        "trigger": row.trigger,
        "who": row.who,
        "generation": row.generation,
        "detail": dict(row.detail),
    }


def story(found: Story) -> dict[str, Any]:
    """What happened in a run: chapters by state, entries by step."""
    return {
        "state": found.state,
        "outcome": found.outcome,
        "domain": found.domain,
        "snapshot": found.snapshot,
        "who": found.who,
        "started": found.started,
        "finished": found.finished,
        "seconds": found.seconds,
        "decided": found.decided,
        "downtime_ms": found.downtime_ms,
        "bytes": found.bytes,
        "reason": found.reason,
        "disks": [
            {
                "target": disk.target,
                "strategy": disk.strategy,
                "top": disk.top,
                "base": disk.base,
                "state": disk.state,
                "planned": disk.planned_bytes,
                "copied": disk.copied_bytes,
                "seconds": disk.seconds,
                "rate": disk.rate,
            }
            for disk in found.disks
        ],
        "chapters": [
            {
                "state": chapter.state,
                "time": chapter.at,
                "offset": chapter.since_seconds,
                "seconds": chapter.took_seconds,
                "who": chapter.who,
                "entries": [_entry(entry) for entry in chapter.entries],
            }
            for chapter in found.chapters
        ],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    return {
        "time": entry.at,
        "offset": entry.since_seconds,
        "seconds": entry.took_seconds,
        "kind": entry.kind,
        "name": entry.name,
        "what": entry.what,
        "disk": entry.disk,
        "times": entry.times,
        "facts": dict(entry.facts),
    }


def _length(began: str, ended: str | None) -> float | None:
    length = None if ended is None else seconds_between(began, ended)
    return None if length is None else round(length, 6)
