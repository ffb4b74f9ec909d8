"""What was read of a journal, as families of metrics.

Names follow Prometheus: base units, ``_total`` for what only grows. Labels are few
and bounded: states and outcomes that are declared, open runs one by one (a domain has
one at most), domains only on request.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from ..journal.meter import CommitTimes
from ..journal.standing import DomainStanding, OpenRun, Standing
from ..journal.tally import Spread, Tally
from .liveness import Work
from .seeds import MACHINES

#: How the copying of a deletion was done; ``none`` when nothing had to be copied.
STRATEGIES: Final = ("commit", "stream", "mixed", "none")
STATUSES: Final = ("valid", "deleting", "invalid")
#: The machines whose runs are driven; folds are parts of deletions.
_DRIVEN: Final = tuple(m for m in MACHINES if m.name != "fold")


def of_tally(tally: Tally) -> Iterator[Metric]:
    """What has happened."""
    yield from _ends(tally)
    copied = CounterMetricFamily(
        "backfold_copied_bytes",
        "Bytes that completed deletions copied, as they were planned.",
        labels=["strategy"],
    )
    for strategy in ("commit", "stream"):
        copied.add_metric([strategy], tally.copied[strategy])
    yield copied
    states = HistogramMetricFamily(
        "backfold_state_duration_seconds",
        "Time that runs spent in each state that they left, interruptions included.",
        labels=["machine", "state"],
    )
    for (machine, state), spread in sorted(tally.states.items()):
        states.add_metric([machine, state], _buckets(spread), spread.sum)
    yield states
    yield _histogram(
        "backfold_guest_downtime_seconds",
        "How long a guest stood still, all holds of a deletion together.",
        tally.downtime,
    )
    yield SummaryMetricFamily(
        "backfold_journal_commit_seconds",
        "COMMITs (log and fsync) of finished runs, but each one's last.",
        tally.commits.count,
        tally.commits.seconds,
    )
    yield _histogram(
        "backfold_run_longest_commit_seconds",
        "The longest COMMIT of each finished run.",
        tally.longest,
    )
    completed = GaugeMetricFamily(
        "backfold_last_completed_deletion_timestamp_seconds",
        "When a deletion was completed last; absent when none ever was.",
    )
    if tally.last_completed is not None:
        completed.add_metric([], tally.last_completed)
    yield completed


def of_standing(
    now: Standing, work: Mapping[str, Work], *, per_domain: bool
) -> Iterator[Metric]:
    """How things stand; ``work`` says by run whether somebody is at it."""
    yield _open_runs(now, work)
    oldest = GaugeMetricFamily(
        "backfold_oldest_open_run_start_timestamp_seconds",
        "When the oldest run that is open began; absent when none is open.",
    )
    if now.runs:
        oldest.add_metric([], min(run.started for run in now.runs))
    yield oldest
    yield _each_open_run(now, work)
    yield GaugeMetricFamily(
        "backfold_domains", "Domains in the catalog.", len(now.domains)
    )
    snapshots = GaugeMetricFamily(
        "backfold_snapshots", "Snapshots in the catalog.", labels=["status"]
    )
    for status in STATUSES:
        count = sum(domain.snapshots[status] for domain in now.domains)
        snapshots.add_metric([status], count)
    yield snapshots
    yield GaugeMetricFamily(
        "backfold_chain_depth_images_max",
        "Images of the deepest active chain that the catalog knows.",
        max((domain.depth for domain in now.domains), default=0),
    )
    if per_domain:
        yield from _each_domain(now.domains)


def of_commits(times: CommitTimes) -> Iterator[Metric]:
    """What an engine's own transactions took since it was opened."""
    yield SummaryMetricFamily(
        "backfold_engine_journal_commit_seconds",
        "COMMITs (log and fsync) of this engine.",
        times.count,
        times.seconds,
    )
    yield GaugeMetricFamily(
        "backfold_engine_journal_commit_seconds_max",
        "The longest COMMIT of this engine.",
        times.longest,
    )


def of_look(
    usable: bool, size: int, rows: int | None, seconds: float
) -> Iterator[Metric]:
    """What looking at the journal has shown of itself."""
    yield GaugeMetricFamily(
        "backfold_journal_usable",
        "Whether the journal could be read and is whole (1 or 0).",
        int(usable),
    )
    yield GaugeMetricFamily(
        "backfold_journal_size_bytes", "The journal's file with its log.", size
    )
    if rows is not None:
        yield GaugeMetricFamily("backfold_journal_rows", "Rows of history.", rows)
    yield GaugeMetricFamily(
        "backfold_metrics_collection_seconds",
        "How long it took to read all this.",
        seconds,
    )


def _ends(tally: Tally) -> Iterator[Metric]:
    """Every way that a run can end, those that never happened as zero."""
    for machine in _DRIVEN:
        is_deletion = machine.name == "deletion"
        strategies = STRATEGIES if is_deletion else ("none",)
        family = CounterMetricFamily(
            f"backfold_{machine.name}s",
            f"{machine.name.capitalize()}s that ended, by how.",
            labels=["outcome", "strategy"][: 1 + is_deletion],
        )
        for outcome in sorted(machine.final):
            for strategy in strategies:
                count = tally.ended[machine.name, outcome, strategy]
                family.add_metric([outcome, strategy][: 1 + is_deletion], count)
        yield family


def _open_runs(now: Standing, work: Mapping[str, Work]) -> Metric:
    family = GaugeMetricFamily(
        "backfold_open_runs",
        "Open runs: somebody is at it, nobody is, or it is of another host.",
        labels=["machine", "work"],
    )
    counts = Counter((run.machine, work[run.id]) for run in now.runs)
    for machine in _DRIVEN:
        for each in Work:
            family.add_metric([machine.name, each], counts[machine.name, each])
    return family


def _each_open_run(now: Standing, work: Mapping[str, Work]) -> Metric:
    family = GaugeMetricFamily(
        "backfold_open_run_last_row_timestamp_seconds",
        "When an open run last wrote into the journal; a copy may take long.",
        labels=["machine", "run", "domain", "snapshot", "state", "work"],
    )
    for run in now.runs:
        family.add_metric(_labels(run, work[run.id]), run.at)
    return family


def _labels(run: OpenRun, work: Work) -> list[str]:
    return [run.machine, run.id, run.domain, run.snapshot, run.state, work]


def _each_domain(domains: tuple[DomainStanding, ...]) -> Iterator[Metric]:
    snapshots = GaugeMetricFamily(
        "backfold_domain_snapshots", "Snapshots of a domain.", labels=["domain"]
    )
    depth = GaugeMetricFamily(
        "backfold_domain_chain_depth_images",
        "Images of the domain's deepest active chain that the catalog knows.",
        labels=["domain"],
    )
    for domain in domains:
        snapshots.add_metric([domain.name], domain.snapshots.total())
        depth.add_metric([domain.name], domain.depth)
    yield from (snapshots, depth)


def _histogram(name: str, documentation: str, spread: Spread) -> Metric:
    return HistogramMetricFamily(name, documentation, _buckets(spread), spread.sum)


def _buckets(spread: Spread) -> list[tuple[str, float]]:
    """Cumulative counts, as Prometheus has them."""
    names = [*(str(float(bound)) for bound in spread.bounds), "+Inf"]
    return list(zip(names, accumulate(map(float, spread.counts)), strict=True))
