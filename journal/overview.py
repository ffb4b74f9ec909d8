"""Which runs and names there are: what can be said of each in a line."""

from __future__ import annotations

import os.path
from typing import Final, NamedTuple

from .rows import Rows

#: How many finished deletions are listed, unless all are asked for.
RECENT: Final = 10


class RunLine(NamedTuple):
    """A run as it stands; ``downtime_ms`` is what the guest saw in a deletion.

    Times are UTC, ISO 8601. ``finished`` is None while somebody has to go on with it.
    """

    machine: str
    id: str
    domain: str
    snapshot: str
    state: str
    reason: str | None
    started: str
    finished: str | None
    downtime_ms: float | None


_COLUMNS: Final = "machine, id, domain, snapshot, state, reason, started, finished"


def overview(rows: Rows, recent: int | None = RECENT) -> list[RunLine]:
    """Open runs of every kind, then the newest of the finished deletions.

    ``recent`` is how many of these; None for all.
    """
    found = rows.execute(
        f"select {_COLUMNS}, null from creations where finished is null"
        f" union all select {_COLUMNS}, null from reversions where finished is null"
        f" union all select {_COLUMNS}, downtime_ms from deletions"
        " where finished is null"
    ).fetchall()
    found += rows.execute(
        f"select {_COLUMNS}, downtime_ms from deletions where finished is not null"
        " order by started desc limit ?",
        (-1 if recent is None else recent,),
    ).fetchall()
    return [RunLine(*row) for row in found]


def images_of(rows: Rows, run: RunLine) -> list[str]:
    """Where the active images of an open run's domain are, fenced ones too.

    Whoever works on the run has locked one of them, if it is a file.
    """
    sources = rows.execute(
        "select source from disks where domain = ?", (run.domain,)
    ).fetchall()
    found = []
    for (source,) in sources:
        found += [source, f"{os.path.realpath(source)}.backfold-{run.id}"]
    return found


def domain_names(rows: Rows) -> list[tuple[str, str]]:
    """Every domain with the targets of its disks."""
    return rows.execute(
        "select name, (select group_concat(target, ' ') from disks"
        " where domain = domains.name) from domains order by name"
    ).fetchall()


def disk_targets(rows: Rows, domain: str) -> list[tuple[str, str]]:
    """The targets of a domain's disks with the images that it boots from."""
    return rows.execute(
        "select target, source from disks where domain = ? order by position",
        (domain,),
    ).fetchall()


def snapshot_names(rows: Rows, domain: str) -> list[tuple[str, str]]:
    """A domain's snapshots, the newest first, with their status."""
    return rows.execute(
        "select name, status from snapshots where domain = ? order by created desc",
        (domain,),
    ).fetchall()
