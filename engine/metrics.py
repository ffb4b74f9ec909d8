"""Metrics for Prometheus, from the journal: one collector, for file and endpoint.

The journal is the only source, so that a command that is run by a timer says the same
as a process that lives on. Needs the package `prometheus-client`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from ..journal.errors import JournalError
from ..journal.location import default_journal
from ..journal.locks import LOCK_DIRECTORY
from ..journal.look import check_whole, look
from ..journal.rows import Rows
from ..journal.standing import OpenRun, Standing, open_runs, standing
from ..journal.tally import Tally
from . import metric_families as families
from .api import Engine
from .liveness import Work, held_locks, work_on

#: How often a collector that lives on checks the whole file for damage, in seconds;
#: its first look is always a whole one.
CHECK_EVERY: Final = 3600.0


class JournalCollector(Collector):
    """What a journal tells of its domains and runs; register it where you like.

    It reads when it is asked, in the thread that asks: all of the history at the first
    time, then what is new. Nothing is written, and a missing journal is not made. A
    journal that cannot be used is a metric (``backfold_journal_usable``), not an
    exception; `failure` says why.
    """

    def __init__(
        self,
        source: Engine | Path | str | None = None,
        *,
        per_domain: bool = False,
        locks: Path = LOCK_DIRECTORY,
    ) -> None:
        """Watch an engine's journal and its COMMITs, or the journal at a path.

        Without a ``source`` it is the default journal. ``per_domain`` adds two series
        for each domain. ``locks`` is the folder that the engines have theirs in.
        """
        self._engine = source if isinstance(source, Engine) else None
        if isinstance(source, Engine):
            self.journal = source.journal
        else:
            self.journal = default_journal() if source is None else Path(source)
        #: Why the journal could not be used when it was last read; None when it could.
        self.failure: JournalError | None = None
        self._per_domain = per_domain
        self._locks = locks
        self._tally = Tally()
        self._checked: float | None = None
        self._one_at_a_time = Lock()

    def describe(self) -> Iterable[Metric]:
        """What `collect` may answer, without reading: for a registry's table."""
        return self._all(Tally(), Standing((), ()), {}, 0.0)

    def collect(self) -> Iterable[Metric]:
        """Read the journal; called by the registry."""
        with self._one_at_a_time:
            began = time.monotonic()
            try:
                now, work = self._read()
            except JournalError as error:
                self.failure, self._checked = error, None
                seconds = time.monotonic() - began
                return [*families.of_look(False, self._size(), None, seconds)]
            self.failure = None
            seconds = time.monotonic() - began
            return [*self._all(self._tally, now, work, seconds)]

    def _all(
        self, tally: Tally, now: Standing, work: Mapping[str, Work], seconds: float
    ) -> Iterator[Metric]:
        yield from families.of_look(True, self._size(), tally.seen, seconds)
        yield from families.of_standing(now, work, per_domain=self._per_domain)
        yield from families.of_tally(tally)
        if self._engine is not None:
            yield from families.of_commits(self._engine.commit_times)

    def _read(self) -> tuple[Standing, Mapping[str, Work]]:
        started = time.monotonic()
        is_due = self._checked is None or started >= self._checked + CHECK_EVERY

        def query(db: Rows) -> tuple[Tally, Standing]:
            if is_due:
                check_whole(db)
            tally = deepcopy(self._tally) if self._tally.continues(db) else Tally()
            tally.add_new(db)
            return tally, standing(db)

        self._tally, now = look(self.journal, query)
        if is_due:
            self._checked = started
        held = held_locks()
        work = {run.id: work_on(run, held, self._locks) for run in now.runs}
        if Work.INTERRUPTED not in work.values():
            return now, work
        return _corrected(now, work, look(self.journal, open_runs))

    def _size(self) -> int:
        log = self.journal.with_name(self.journal.name + "-wal")
        total = 0
        for path in (self.journal, log):
            with suppress(OSError):
                total += os.stat(path).st_size
        return total


class _Read(Collector):
    """Families that were read once."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(found: Iterable[Metric]) -> bytes:
    """Families in the text format of Prometheus, UTF-8."""
    registry = CollectorRegistry()
    registry.register(_Read(found))
    return generate_latest(registry)


def _corrected(
    now: Standing, work: Mapping[str, Work], later: tuple[OpenRun, ...]
) -> tuple[Standing, Mapping[str, Work]]:
    """Runs that only seemed interrupted: they ended, or went on, between two looks."""
    rows = {run.id: run.row for run in later}
    doubtful = {run for run, found in work.items() if found is Work.INTERRUPTED}
    runs = tuple(run for run in now.runs if run.id not in doubtful - rows.keys())
    moved = {run.id for run in runs if run.id in doubtful and rows[run.id] != run.row}
    corrected = {run: Work.GOING_ON if run in moved else work[run] for run in work}
    return replace(now, runs=runs), corrected
