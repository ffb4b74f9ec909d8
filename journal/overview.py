"""Which runs there are: what can be said of each in a line, read without its plan."""

from __future__ import annotations

from typing import Final, NamedTuple

from .rows import Rows

#: How many finished deletions are listed.
RECENT: Final = 50


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


def overview(rows: Rows) -> list[RunLine]:
    """Open runs of every kind, then the newest of the finished deletions."""
    found = rows.execute(
        f"select {_COLUMNS}, null from creations where finished is null"
        f" union all select {_COLUMNS}, null from reversions where finished is null"
        f" union all select {_COLUMNS}, downtime_ms from deletions"
        " where finished is null"
    ).fetchall()
    found += rows.execute(
        f"select {_COLUMNS}, downtime_ms from deletions where finished is not null"
        " order by started desc limit ?",
        (RECENT,),
    ).fetchall()
    return [RunLine(*row) for row in found]
