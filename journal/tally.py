"""What has happened, added up: how runs ended, how long they took, how much they moved.

History only grows, and a run that is finished does not change any more. So what was
read once need not be read again: a `Tally` knows the last row that it has seen and
adds what came after it. A new one reads everything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

from .meter import CommitTimes
from .rows import Rows
from .times import timestamp

#: Upper bounds of the classes that lengths of time are sorted into, in seconds.
STATE_BOUNDS: Final = (0.01, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200)
DOWNTIME_BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
COMMIT_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)

#: The edges that were taken since; those of folds are part of their deletion.
_EDGES: Final = (
    "select * from transitions where id > :seen and kind = 'edge' and machine <> 'fold'"
)
#: An edge into the state that a finished run is in was its last one.
_ENDED: Final = (
    f"select d.*, e.detail from ({_EDGES}) e join {{table}} d"
    " on d.id = e.run and d.machine = e.machine and d.state = e.dest"
    " where d.finished is not null"
)
#: What each pass of a deletion did, disk by disk.
_FOLDS: Final = (
    "select ended.id as run, state, json_extract(f.value, '$.strategy') as strategy,"
    " json_extract(f.value, '$.copy_bytes') as bytes"
    " from ended, json_each(ended.plan, '$.folds') f"
    " union all"
    " select ended.id, state, json_extract(f.value, '$.strategy'),"
    " json_extract(f.value, '$.bytes')"
    " from ended, json_each(ended.passes) p, json_each(p.value, '$.disks') f"
)


class Spread:
    """Lengths of time, counted by class; seconds."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """Nothing was counted yet; ``bounds`` are the upper ends of the classes."""
        self.bounds = tuple(bounds)
        #: By class; the last one has no upper end.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, place: int, count: int, total: float) -> None:
        """Count some more in one class; ``total`` is their sum."""
        self.counts[place] += count
        self.sum += total


class Tally:
    """Everything that has happened up to a row of the history."""

    def __init__(self) -> None:
        """Nothing was read yet."""
        self._seen = 0
        self._last: tuple[str, str] | None = None
        #: Finished runs, by machine, final state, and strategy: ``commit``,
        #: ``stream``, ``mixed``, or ``none`` when nothing had to be copied.
        self.ended: Counter[tuple[str, str, str]] = Counter()
        #: Bytes that completed deletions were to copy, by strategy.
        self.copied: Counter[str] = Counter()
        #: Time spent in each state that was left, by machine and state.
        self.states: defaultdict[tuple[str, str], Spread] = defaultdict(
            lambda: Spread(STATE_BOUNDS)
        )
        #: How long guests stood still, once for each deletion that held one.
        self.downtime = Spread(DOWNTIME_BOUNDS)
        #: COMMITs of finished runs; see `Runner` for what is in it.
        self.commits = CommitTimes()
        #: The longest COMMIT of each finished run.
        self.longest = Spread(COMMIT_BOUNDS)
        #: When a deletion was completed last, in seconds since the epoch.
        self.last_completed: float | None = None

    @property
    def seen(self) -> int:
        """How many rows the history has, as far as it was read."""
        return self._seen

    def continues(self, db: Rows) -> bool:
        """Whether the last row that was read is still there; else begin anew."""
        return _row(db, self._seen) == self._last

    def add_new(self, db: Rows) -> None:
        """Add what was recorded since; to be called in a transaction.

        When this raises, the tally is of no use any more.
        """
        (last,) = db.execute("select coalesce(max(id), 0) from transitions").fetchone()
        self._add_states(db)
        for table in ("deletions", "creations", "reversions"):
            self._add_ends(db, table)
        self._add_folds(db)
        self._add_downtime(db)
        self._seen, self._last = last, _row(db, last)

    def _add_states(self, db: Rows) -> None:
        """A state lasts from the edge into it, or the run's first row, to the next."""
        before = (
            "coalesce((select at from transitions p where p.run = e.run"
            " and p.machine = e.machine and p.kind = 'edge' and p.id < e.id"
            " order by p.id desc limit 1), (select at from transitions p"
            " where p.run = e.run and p.machine = e.machine order by p.id limit 1))"
        )
        # A clock may be set back; a length of time is none below zero.
        took = f"max(0, 86400.0 * (julianday(at) - julianday({before})))"
        for machine, state, place, count, total in db.execute(
            f"select machine, source, {_place('took', STATE_BOUNDS)} as place,"
            f" count(*), sum(took) from"
            f" (select machine, source, {took} as took from ({_EDGES}) e)"
            f" where took is not null group by 1, 2, 3",
            {"seen": self._seen},
        ):
            self.states[machine, state].add(place, count, total)

    def _add_ends(self, db: Rows, table: str) -> None:
        longest = "json_extract(detail, '$.journal.longest')"
        for place, runs, commits, seconds, sum_, max_ in db.execute(
            f"select {_place(longest, COMMIT_BOUNDS)} as place, count(*),"
            f" sum(json_extract(detail, '$.journal.commits')),"
            f" sum(json_extract(detail, '$.journal.seconds')),"
            f" sum({longest}), max({longest})"
            f" from ({_ENDED.format(table=table)}) where {longest} is not null"
            f" group by 1",
            {"seen": self._seen},
        ):
            self.longest.add(place, runs, sum_)
            self.commits = CommitTimes(
                self.commits.count + commits,
                self.commits.seconds + seconds,
                max(self.commits.longest, max_),
            )
        if table == "deletions":
            return
        for machine, state, count in db.execute(
            f"select machine, state, count(*) from ({_ENDED.format(table=table)})"
            f" group by 1, 2",
            {"seen": self._seen},
        ):
            self.ended[machine, state, "none"] += count

    def _add_folds(self, db: Rows) -> None:
        ended = f"with ended as ({_ENDED.format(table='deletions')}), f as ({_FOLDS})"
        for state, strategy, count, last in db.execute(
            f"{ended} select state, case when low is null then 'none'"
            f" when low = high then low else 'mixed' end, count(*), max(finished)"
            f" from ended left join (select run, min(strategy) as low,"
            f" max(strategy) as high from f group by run) on run = id group by 1, 2",
            {"seen": self._seen},
        ):
            self.ended["deletion", state, strategy] += count
            if state == "completed":
                self.last_completed = max(self.last_completed or 0, timestamp(last))
        for strategy, total in db.execute(
            f"{ended} select strategy, sum(bytes) from f where state = 'completed'"
            f" group by 1",
            {"seen": self._seen},
        ):
            self.copied[strategy] += total

    def _add_downtime(self, db: Rows) -> None:
        seconds = "downtime_ms / 1000"
        for place, count, total in db.execute(
            f"select {_place(seconds, DOWNTIME_BOUNDS)} as place, count(*),"
            f" sum({seconds}) from ({_ENDED.format(table='deletions')})"
            f" where downtime_ms is not null group by 1",
            {"seen": self._seen},
        ):
            self.downtime.add(place, count, total)


def _row(db: Rows, number: int) -> tuple[str, str] | None:
    """What tells a row of history from that of another journal."""
    found: tuple[str, str] | None = db.execute(
        "select run, at from transitions where id = ?", (number,)
    ).fetchone()
    return found


def _place(value: str, bounds: Sequence[float]) -> str:
    """SQL that sorts a value into its class."""
    cases = " ".join(f"when {value} <= {b} then {i}" for i, b in enumerate(bounds))
    return f"case {cases} else {len(bounds)} end"
