"""What an inspection asks the journal, and the one thing that it may mend there.

Plain functions on an open transaction, beside those of `catalog` and `runs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from sqlite_utils import Database

from .catalog import domain
from .errors import UsageError
from .runs import refuse_open

_RUNS: Final = ("deletions", "creations", "reversions")
#: Where plans have new overlays: table, list of disks, path.
_OVERLAYS: Final = (
    ("creations", "$.overlays", "$.overlay"),
    ("reversions", "$.disks", "$.overlay.overlay"),
)
_USERS: Final = (
    "select source as path from disks union select frozen from snapshot_disks"
    " union select path from kept_images"
)


@dataclass(frozen=True, slots=True)
class FinishedOrOpen:
    """A run as an inspection knows it; ``finished`` is None while it is open."""

    machine: str
    domain: str
    state: str
    finished: str | None


def runs_of(db: Database, ids: Iterable[str]) -> Mapping[str, FinishedOrOpen]:
    """The runs with these ids, of any domain; ids that name nothing are left out."""
    found = {}
    for run in set(ids):
        for table in _RUNS:
            for row in db.execute(
                f"select machine, domain, state, finished from {table} where id = ?",
                (run,),
            ).fetchall():
                found[run] = FinishedOrOpen(*row)
    return found


def anything_open(db: Database) -> bool:
    """Whether a run of any domain is open."""
    return any(
        db.execute(f"select 1 from {table} where finished is null limit 1").fetchone()
        for table in _RUNS
    )


def finished_overlays(db: Database) -> set[str]:
    """The overlays of all runs that have made new ones, unless an open one does."""
    finished: set[str] = set()
    opened: set[str] = set()
    for table, disks, overlay in _OVERLAYS:
        for path, end in db.execute(
            f"select json_extract(each.value, ?), finished from {table},"
            " json_each(json_extract(plan, ?)) each",
            (overlay, disks),
        ).fetchall():
            (opened if end is None else finished).add(str(path))
    return finished - opened


def kept_images(db: Database, name: str) -> list[tuple[str, str, str]]:
    """A domain's images that stay as shared bases: target, path and format."""
    rows = db.execute(
        "select target, k.path, format from kept_images k join images i"
        " on i.path = k.path where domain = ? order by k.path",
        (name,),
    )
    return [(str(t), str(path), str(format)) for t, path, format in rows.fetchall()]


def unused_entries(db: Database) -> list[str]:
    """Images that the catalog knows and that nothing in it refers to."""
    rows = db.execute(
        f"select path from images where path not in ({_USERS}) order by path"
    )
    return [str(path) for (path,) in rows.fetchall()]


def images_in_use(db: Database) -> list[tuple[str, str]]:
    """Path and format of all images that something in the catalog refers to."""
    rows = db.execute(f"select path, format from images where path in ({_USERS})")
    return [(str(path), str(format)) for path, format in rows.fetchall()]


def forget_unused(db: Database, name: str, path: str) -> None:
    """Forget an image that nothing refers to, while no run is open.

    Raises `Refused` or `UsageError` when that is not so any more.
    """
    domain(db, name)
    refuse_open(db, name)
    if anything_open(db) or path not in unused_entries(db):
        raise UsageError(
            f"The entry of {path} is needed by now.",
            remedy="Check the domain again.",
        )
    db.execute("delete from images where path = ?", (path,))
