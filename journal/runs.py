"""Runs in the journal: deletions with their folds, creations, reversions, transitions.

Plain functions on an open transaction (`Store.write` gives it). Every write names
the state and the generation that it expects (compare-and-set), so that a late or
repeated order is refused with `Superseded`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .errors import (
    JournalDamaged,
    Reason,
    Refused,
    Superseded,
    Undeclared,
    UsageError,
)
from .model import (
    READABLE_PLANS,
    CreationPlan,
    FileStamp,
    Plan,
    ReversionPlan,
    plan_version,
)

if TYPE_CHECKING:
    from sqlite_utils import Database

    from .rows import Rows

_TABLES: Final = {
    "deletion": "deletions",
    "creation": "creations",
    "reversion": "reversions",
}


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes a row, and when (UTC, ISO 8601)."""

    who: str
    at: str


@dataclass(frozen=True, slots=True)
class RunKey:
    """A run as its engine knows it: late orders carry an old generation."""

    machine: str
    id: str
    generation: int


@dataclass(frozen=True, slots=True)
class FoldRow:
    """A fold; the stamps are of the images as they were at the decision."""

    target: str
    state: str
    top_stamp: FileStamp | None
    base_stamp: FileStamp | None


@dataclass(frozen=True, slots=True)
class DeletionRow:
    """A deletion as the journal has it."""

    id: str
    domain: str
    snapshot: str
    state: str
    generation: int
    options: Mapping[str, Any]
    plan: Plan | None
    helper: Mapping[str, Any] | None
    hold: Mapping[str, Any] | None
    cancel_requested: bool
    downtime_ms: float | None
    reason: str | None
    started: str
    finished: str | None
    folds: tuple[FoldRow, ...]
    passes: tuple[Mapping[str, Any], ...] = ()
    #: A newer Backfold stored the plan; this one cannot drive the run.
    has_foreign_plan: bool = False


@dataclass(frozen=True, slots=True)
class CreationRow:
    """A creation as the journal has it."""

    id: str
    domain: str
    snapshot: str
    state: str
    generation: int
    plan: CreationPlan
    reason: str | None
    started: str
    finished: str | None


@dataclass(frozen=True, slots=True)
class ReversionRow:
    """A reversion as the journal has it."""

    id: str
    domain: str
    snapshot: str
    state: str
    generation: int
    plan: ReversionPlan
    reason: str | None
    started: str
    finished: str | None


@dataclass(frozen=True, slots=True)
class TransitionRow:
    """One line of a run's history; of a fold, ``detail`` names the disk."""

    machine: str
    source: str
    trigger: str
    dest: str
    kind: str
    who: str
    generation: int
    detail: Mapping[str, Any]
    at: str


def begin_deletion(
    db: Database,
    run: str,
    domain: str,
    snapshot: str,
    options: Mapping[str, Any],
    state: str,
    author: Author,
) -> RunKey:
    """Write the row of a new deletion. Refuses a second open run of a domain."""
    refuse_open(db, domain)
    db.execute(
        "insert into deletions (id, domain, snapshot, state, options, started)"
        " values (?, ?, ?, ?, ?, ?)",
        (run, domain, snapshot, state, json.dumps(dict(options)), author.at),
    )
    key = RunKey("deletion", run, 1)
    remark(db, key, state, "claim", author, {"began": True})
    return key


def begin_creation(
    db: Database, run: str, plan: CreationPlan, state: str, author: Author
) -> RunKey:
    """Write the row of a new creation. Refuses a second open run of a domain."""
    return _begin_planned(db, "creation", run, plan, state, author)


def begin_reversion(
    db: Database, run: str, plan: ReversionPlan, state: str, author: Author
) -> RunKey:
    """Write the row of a new reversion. Refuses a second open run of a domain."""
    return _begin_planned(db, "reversion", run, plan, state, author)


def _begin_planned(
    db: Database,
    machine: str,
    run: str,
    plan: CreationPlan | ReversionPlan,
    state: str,
    author: Author,
) -> RunKey:
    refuse_open(db, plan.domain)
    db.execute(
        f"insert into {_TABLES[machine]} (id, domain, snapshot, state, plan, started)"
        " values (?, ?, ?, ?, ?, ?)",
        (run, plan.domain, plan.snapshot, state, plan.to_json(), author.at),
    )
    key = RunKey(machine, run, 1)
    remark(db, key, state, "claim", author, {"began": True})
    return key


def open_run_reasons(
    db: Database, domain: str, but: str | None = None
) -> tuple[Reason, ...]:
    """Why no new run of a domain may begin: one is still open, other than ``but``."""
    reasons = []
    for machine, table in _TABLES.items():
        for (run,) in db.execute(
            f"select id from {table} where domain = ? and finished is null"
            " and id is not ?",
            (domain, but),
        ).fetchall():
            reasons.append(
                Reason(
                    f"{machine}_open",
                    f"The {machine} {run} of domain {domain} is still open.",
                    f"Run `backfold recover {run}` first.",
                )
            )
    return tuple(reasons)


def refuse_open(db: Database, domain: str) -> None:
    """Raise `Refused` when a run of this domain is open."""
    if reasons := open_run_reasons(db, domain):
        raise Refused(reasons)


def claim(
    db: Database, machine: str, run: str, author: Author, *, is_guard: bool = False
) -> RunKey:
    """Take a run over: from now on, orders of its former engine are refused.

    ``is_guard`` says that it is only done to end a hold.
    """
    table = _TABLES[machine]
    db.execute(f"update {table} set generation = generation + 1 where id = ?", (run,))
    row = db.execute(
        f"select state, generation from {table} where id = ?", (run,)
    ).fetchone()
    key = RunKey(machine, run, int(row[1]))
    remark(db, key, str(row[0]), "claim", author, {"guard": True} if is_guard else {})
    return key


def request_cancel(db: Database, run: str, author: Author) -> None:
    """Leave a request for the engine that works on a deletion, whoever that is."""
    row = deletion(db, run)
    if row.finished is None:
        db.execute("update deletions set cancel_requested = 1 where id = ?", (run,))
        key = RunKey("deletion", run, row.generation)
        remark(db, key, row.state, "request_cancel", author, {})


def move(
    db: Database,
    key: RunKey,
    source: str,
    trigger: str,
    dest: str,
    author: Author,
    detail: Mapping[str, Any],
    *,
    final: bool,
) -> None:
    """Record an edge and change the state with it.

    Raises `Superseded` when the run is not in ``source`` any more or another engine
    has claimed it, `Undeclared` when a fold is in a state that ``dest`` does not
    allow. A foreign key refuses an edge that was not declared.
    """
    table = _TABLES[key.machine]
    changed = db.execute(
        f"update {table} set state = ?, finished = ?"
        " where id = ? and state = ? and generation = ? and finished is null",
        (dest, author.at if final else None, key.id, source, key.generation),
    ).rowcount
    if changed != 1:
        raise _superseded(key)
    _append(db, key, source, trigger, dest, "edge", author, detail)
    if key.machine == "deletion":
        _check_folds(db, key.id, dest)


def announce(
    db: Database,
    key: RunKey,
    state: str,
    step: str,
    author: Author,
    detail: Mapping[str, Any],
) -> None:
    """Record that a step is about to be done. Raises `Superseded`."""
    _expect(db, key, state)
    _append(db, key, state, step, state, "announce", author, detail)


def note(
    db: Database,
    key: RunKey,
    state: str,
    step: str,
    author: Author,
    detail: Mapping[str, Any],
) -> None:
    """Record that a step was done, and what came of it. Raises `Superseded`."""
    _expect(db, key, state)
    _append(db, key, state, step, state, "note", author, detail)


def remark(
    db: Database,
    key: RunKey,
    state: str,
    what: str,
    author: Author,
    detail: Mapping[str, Any],
) -> None:
    """Record something that is neither an edge nor a step."""
    _append(db, key, state, what, state, "remark", author, detail)


def update_deletion(db: Database, key: RunKey, **fields: Any) -> None:
    """Change columns of a deletion. Raises `Superseded`."""
    columns = ", ".join(f"{name} = ?" for name in fields)
    changed = db.execute(
        f"update deletions set {columns}"
        " where id = ? and generation = ? and finished is null",
        (*(_stored(value) for value in fields.values()), key.id, key.generation),
    ).rowcount
    if changed != 1:
        raise _superseded(key)


def end_pass(db: Database, key: RunKey) -> None:
    """Keep what a pass did, and make room for the plan of the next one.

    Raises `Superseded`.
    """
    row = deletion(db, key.id)
    states = {fold.target: fold.state for fold in row.folds}
    folds = () if row.plan is None else row.plan.folds
    done = [
        {
            "target": fold.target,
            "strategy": fold.strategy,
            "top": fold.top.path,
            "base": fold.base.path,
            "bytes": fold.copy_bytes,
            "state": states[fold.target],
            "is_active": row.plan is not None and row.plan.switches(fold),
            "superseded": [image.path for image in fold.superseded],
        }
        for fold in folds
    ]
    gone = [] if row.plan is None else list(row.plan.snapshots)
    passes = json.dumps(
        [*row.passes, {"snapshots": gone, "disks": done}], sort_keys=True
    )
    update_deletion(db, key, passes=passes, plan=None)
    put_folds(db, key, [], "planned")


def put_creation_plan(db: Database, key: RunKey, plan: CreationPlan) -> None:
    """Replace the plan of a creation. Raises `Superseded`."""
    _expect(db, key)
    db.execute("update creations set plan = ? where id = ?", (plan.to_json(), key.id))


def put_reason(db: Database, key: RunKey, reason: str) -> None:
    """Say why a run ends as it does. Raises `Superseded`."""
    _expect(db, key)
    table = _TABLES[key.machine]
    db.execute(f"update {table} set reason = ? where id = ?", (reason, key.id))


def put_folds(db: Database, key: RunKey, targets: list[str], state: str) -> None:
    """Replace a deletion's folds by new ones, as a new plan has them."""
    _expect(db, key)
    db.execute("delete from folds where deletion = ?", (key.id,))
    for target in targets:
        db.execute(
            "insert into folds (deletion, target, state) values (?, ?, ?)",
            (key.id, target, state),
        )


def move_fold(
    db: Database,
    key: RunKey,
    target: str,
    source: str,
    trigger: str,
    dest: str,
    author: Author,
    stamps: tuple[FileStamp, FileStamp] | None = None,
    told: Mapping[str, Any] | None = None,
) -> None:
    """Change a fold's state, and with the decision its stamps (top, base).

    ``told`` is what the row says of it besides its disk.

    Raises `Superseded`; a foreign key refuses an edge that was not declared.
    """
    _expect(db, key)
    top, base = stamps or (None, None)
    changed = db.execute(
        "update folds set state = ?, top_stamp = coalesce(?, top_stamp),"
        " base_stamp = coalesce(?, base_stamp)"
        " where deletion = ? and target = ? and state = ?",
        (dest, _stored(top), _stored(base), key.id, target, source),
    ).rowcount
    if changed != 1:
        raise _superseded(key)
    fold = RunKey("fold", key.id, key.generation)
    _append(
        db,
        fold,
        source,
        trigger,
        dest,
        "edge",
        author,
        {**(told or {}), "disk": target},
    )


def deletion(db: Rows, run: str) -> DeletionRow:
    """One deletion, whole. KeyError when there is none of that id."""
    for row in db.query("select * from deletions where id = ?", (run,)):
        return _deletion_row(db, row)
    raise KeyError(run)


def creation(db: Rows, run: str) -> CreationRow:
    """One creation, whole. KeyError when there is none of that id."""
    return CreationRow(**_planned(db, "creation", run, CreationPlan))


def reversion(db: Rows, run: str) -> ReversionRow:
    """One reversion, whole. KeyError when there is none of that id."""
    return ReversionRow(**_planned(db, "reversion", run, ReversionPlan))


def _planned(
    db: Rows,
    machine: str,
    run: str,
    plan: type[CreationPlan] | type[ReversionPlan],
) -> dict[str, Any]:
    """The fields of a run that had its plan from the beginning."""
    for row in db.query(f"select * from {_TABLES[machine]} where id = ?", (run,)):
        fields = {name: row[name] for name in CreationRow.__slots__}
        try:
            return {**fields, "plan": plan.from_json(row["plan"])}
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(machine, run, error) from error
    raise KeyError(run)


def list_deletions(
    db: Rows, *, only_open: bool, limit: int | None = 50
) -> list[DeletionRow]:
    """Deletions, the newest first; all of them when only open ones are asked for."""
    where = "where finished is null" if only_open else ""
    rows = db.query(
        f"select * from deletions {where} order by started desc limit ?",
        (-1 if only_open or limit is None else limit,),
    )
    return [_deletion_row(db, row) for row in rows]


def open_creations(db: Rows) -> list[CreationRow]:
    """Creations that somebody has to finish."""
    ids = db.execute("select id from creations where finished is null").fetchall()
    return [creation(db, run) for (run,) in ids]


def open_reversions(db: Rows) -> list[ReversionRow]:
    """Reversions that somebody has to finish."""
    ids = db.execute("select id from reversions where finished is null").fetchall()
    return [reversion(db, run) for (run,) in ids]


def find(db: Rows, prefix: str) -> tuple[str, str]:
    """The machine and id of the run that a prefix names. Raises `UsageError`."""
    if not prefix or any(digit not in "0123456789abcdef" for digit in prefix):
        raise UsageError(
            f"{prefix!r} is not the id of a run.",
            remedy="Ids are 12 hex digits; `backfold status` lists them.",
        )
    found = [
        (machine, str(run))
        for machine, table in _TABLES.items()
        for (run,) in db.execute(
            f"select id from {table} where id glob ?", (prefix + "*",)
        ).fetchall()
    ]
    if len(found) != 1:
        what = "is ambiguous" if found else "is not the id of any run"
        raise UsageError(
            f"{prefix!r} {what}.", remedy="`backfold status` lists deletions by id."
        )
    return found[0]


def find_deletion(db: Rows, prefix: str) -> str:
    """The id of the deletion that a prefix names. Raises `UsageError`."""
    machine, found = find(db, prefix)
    if machine != "deletion":
        raise UsageError(f"{found} is a {machine}, not a deletion.")
    return found


def history(db: Rows, run: str) -> Iterator[TransitionRow]:
    """Everything that was recorded of a run, in order."""
    for row in db.query("select * from transitions where run = ? order by id", (run,)):
        yield _transition_row(row)


def announced(db: Rows, run: str, step: str) -> list[TransitionRow]:
    """Every announcement of a step of a run, in order, done or not."""
    rows = db.query(
        "select * from transitions where run = ? and trigger = ? and kind = 'announce'"
        " order by id",
        (run, step),
    )
    return [_transition_row(row) for row in rows]


def failed_flushes(db: Database, boot_id: str) -> Mapping[str, str]:
    """Files that could not be flushed in this boot of the host, and when, by path.

    Of any run: the kernel forgets such a failure, whoever asks next.
    """
    rows = db.execute(
        "select detail, at from transitions where trigger = 'flush_failed' order by at"
    ).fetchall()
    found = [(json.loads(detail), str(at)) for detail, at in rows]
    return {
        str(detail["path"]): at for detail, at in found if detail["boot"] == boot_id
    }


def _transition_row(row: Mapping[str, Any]) -> TransitionRow:
    fields = {name: row[name] for name in TransitionRow.__slots__}
    try:
        detail = json.loads(row["detail"])
        if not isinstance(detail, dict):
            raise ValueError(f"{row['trigger']}: no object")
    except (TypeError, ValueError, RecursionError) as error:
        raise _unreadable(row["machine"], row["run"], error) from error
    return TransitionRow(**{**fields, "detail": detail})


def _deletion_row(db: Rows, row: Mapping[str, Any]) -> DeletionRow:
    try:
        return _read_deletion(db, row)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _unreadable("deletion", row.get("id"), error) from error


def _unreadable(machine: str, run: object, error: Exception) -> JournalDamaged:
    return JournalDamaged(
        f"The journal's row of {machine} {run} cannot be read: {error!r}.",
        data="The images are untouched.",
        remedy="Use the version that wrote it, or follow the guide's chapter on rescue"
        " by hand.",
    )


def _read_deletion(db: Rows, row: Mapping[str, Any]) -> DeletionRow:
    folds = db.query(
        "select * from folds where deletion = ? order by rowid", (row["id"],)
    )
    own = [name for name in DeletionRow.__slots__ if name in row]
    plan = None
    if row["plan"] is not None and plan_version(row["plan"]) in READABLE_PLANS:
        plan = Plan.from_json(row["plan"])
    return DeletionRow(
        **{
            **{name: row[name] for name in own},
            "options": json.loads(row["options"]),
            "plan": plan,
            "has_foreign_plan": row["plan"] is not None and plan is None,
            "helper": _loaded(row["helper"]),
            "hold": _loaded(row["hold"]),
            "cancel_requested": bool(row["cancel_requested"]),
            "passes": tuple(json.loads(row["passes"])),
            "folds": tuple(
                FoldRow(
                    fold["target"],
                    fold["state"],
                    _stamp(fold["top_stamp"]),
                    _stamp(fold["base_stamp"]),
                )
                for fold in folds
            ),
        }
    )


def _append(
    db: Database,
    key: RunKey,
    source: str,
    trigger: str,
    dest: str,
    kind: str,
    author: Author,
    detail: Mapping[str, Any],
) -> None:
    db.execute(
        "insert into transitions"
        " (machine, run, source, trigger, dest, kind, who, generation, detail, at)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            key.machine,
            key.id,
            source,
            trigger,
            dest,
            kind,
            author.who,
            key.generation,
            json.dumps(dict(detail), sort_keys=True),
            author.at,
        ),
    )


def _expect(db: Database, key: RunKey, state: str | None = None) -> None:
    table = _TABLES[key.machine]
    row = db.execute(
        f"select 1 from {table} where id = ? and generation = ? and finished is null"
        " and state = coalesce(?, state)",
        (key.id, key.generation, state),
    ).fetchone()
    if row is None:
        raise _superseded(key)


def _check_folds(db: Database, run: str, state: str) -> None:
    wrong = db.execute(
        "select target, state from folds where deletion = ? and state not in"
        " (select fold_state from allowed_folds where deletion_state = ?)",
        (run, state),
    ).fetchone()
    if wrong is not None:
        raise Undeclared(
            f"The state {state} does not allow the fold {wrong[0]} to be {wrong[1]}."
        )


def _superseded(key: RunKey) -> Superseded:
    return Superseded(
        f"The {key.machine} {key.id} was taken over by another engine or moved on.",
        data="This engine did nothing more.",
        remedy=f"`backfold status {key.id}` shows where it stands.",
    )


def _stored(value: Any) -> Any:
    if isinstance(value, FileStamp):
        return json.dumps([value.size, value.mtime_ns])
    if isinstance(value, Mapping):
        return json.dumps(dict(value), sort_keys=True)
    return value


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _stamp(text: str | None) -> FileStamp | None:
    return None if text is None else FileStamp(*json.loads(text))
