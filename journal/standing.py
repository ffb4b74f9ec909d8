"""How things stand now: runs that are open, snapshots, chains."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

from .rows import Rows
from .times import timestamp

_RUNS: Final = ("deletions", "creations", "reversions")


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that is not finished; ``row``, ``who`` and ``at`` are of its last row.

    ``paths`` are images that whoever works on the run has locked: the domain's, and
    those that the snapshot froze. Times are in seconds since the epoch.
    """

    id: str
    domain: str
    snapshot: str
    machine: str
    state: str
    started: float
    row: int
    who: str
    at: float
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DomainStanding:
    """A domain: its snapshots by status, and the depth of its deepest chain.

    The depth counts the images of one disk that the catalog knows: the active one and
    those that snapshots froze, from the current snapshot on down.
    """

    name: str
    snapshots: Counter[str]
    depth: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Open runs and domains."""

    runs: tuple[OpenRun, ...]
    domains: tuple[DomainStanding, ...]


def standing(db: Rows) -> Standing:
    """Read how things stand; to be called in a transaction."""
    snapshots: dict[str, Counter[str]] = {}
    for domain, status, count in db.execute(
        "select domain, status, count(*) from snapshots group by 1, 2"
    ):
        snapshots.setdefault(domain, Counter())[status] = count
    depths = dict(
        db.execute(
            # `union`, not `union all`: a damaged tree may be a ring.
            "with recursive line (domain, name, parent) as"
            " (select domain, name, parent from snapshots where current = 1"
            " union select s.domain, s.name, s.parent from snapshots s"
            " join line on s.domain = line.domain and s.name = line.parent)"
            " select domain, max(images) + 1 from (select disks.domain, disks.target,"
            " count(distinct frozen) as images from disks"
            " left join line on line.domain = disks.domain"
            " left join snapshot_disks s on s.domain = disks.domain"
            " and s.snapshot = line.name and s.target = disks.target"
            " group by 1, 2) group by 1"
        ).fetchall()
    )
    domains = db.execute("select name from domains order by name").fetchall()
    return Standing(
        open_runs(db),
        tuple(
            DomainStanding(name, snapshots.get(name, Counter()), depths.get(name, 1))
            for (name,) in domains
        ),
    )


def open_runs(db: Rows) -> tuple[OpenRun, ...]:
    """Runs that somebody has to finish, or is at work on, the oldest first."""
    found = []
    for table in _RUNS:
        for run, domain, snapshot, machine, state, started, *last in db.execute(
            f"select r.id, r.domain, r.snapshot, r.machine, r.state, r.started,"
            f" t.id, t.who, t.at from {table} r join transitions t on t.id ="
            f" (select max(id) from transitions where run = r.id)"
            f" where r.finished is null"
        ).fetchall():
            row, who, at = last
            paths = db.execute(
                "select source from disks where domain = :domain"
                " union select frozen from snapshot_disks"
                " where domain = :domain and snapshot = :snapshot",
                {"domain": domain, "snapshot": snapshot},
            ).fetchall()
            found.append(
                OpenRun(
                    run,
                    domain,
                    snapshot,
                    machine,
                    state,
                    timestamp(started),
                    row,
                    who,
                    timestamp(at),
                    tuple(path for (path,) in paths),
                )
            )
    return tuple(sorted(found, key=lambda run: run.started))
