"""What has happened, added up: each figure from rows that are known."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from functools import cache

import pytest
from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal import runs
from backfold.journal.meter import CommitTimes
from backfold.journal.model import CreationPlan
from backfold.journal.schema import migrate
from backfold.journal.tally import COMMIT_BOUNDS, DOWNTIME_BOUNDS, Spread, Tally
from histories import BEGAN, COMPLETED, MIDDLE, REFUSED, ROLLED_BACK, History

GIB = 1 << 30


def empty() -> Database:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    return Database(connection, strict=True, execute_plugins=False)


@cache
def template() -> bytes:
    with closing(empty()) as db:
        migrate(db, SEEDS)
        return db.conn.serialize()


@pytest.fixture
def db() -> Iterator[Database]:
    """An empty journal in memory."""
    with closing(empty()) as db:
        db.conn.deserialize(template())
        db.execute("pragma foreign_keys = on")
        yield db


def tally(db: Database) -> Tally:
    found = Tally()
    found.add_new(db)
    return found


def classes(spread: Spread) -> dict[float, int]:
    """How many are in each class that has any, by its upper end."""
    bounds = (*spread.bounds, float("inf"))
    return {b: c for b, c in zip(bounds, spread.counts, strict=True) if c}


def creation(db: Database, history: History, domain: str, last: str) -> None:
    """A creation that is over."""
    plan = CreationPlan(domain, "s1", "off", "boot", ())
    run = f"c{history.count:011x}"
    history.count += 1
    key = runs.begin_creation(db, run, plan, "planned", history.author)
    history.pass_by(0.2)
    told = {"journal": {"commits": 6, "seconds": 0.5, "longest": 0.3}}
    edges = [("planned", "undo", "undone")]
    if last == "recorded":
        edges = [
            ("planned", "made", "overlays_made"),
            ("overlays_made", "switched", "switched"),
            ("switched", "recorded", "recorded"),
        ]
    for source, trigger, dest in edges:
        final = dest == last
        runs.move(
            db,
            key,
            source,
            trigger,
            dest,
            history.author,
            told if final else {},
            final=final,
        )


def test_a_journal_without_runs_has_nothing_to_tell(db: Database) -> None:
    found = tally(db)

    assert (found.seen, found.ended, found.copied) == (0, Counter(), Counter())
    assert (found.states, found.last_completed) == ({}, None)
    assert found.commits == CommitTimes()
    assert found.continues(db)


def test_deletions_are_counted_by_outcome_and_strategy(db: Database) -> None:
    history = History(db)
    history.deletion(folds={"vda": ("commit", 3 * GIB)})
    history.deletion(folds={"vda": ("stream", GIB), "vdb": ("stream", 5)})
    history.deletion(folds={"vda": ("stream", 7), "vdb": ("commit", 11)})
    completed = history.now
    history.deletion(ROLLED_BACK, folds={"vda": ("commit", 9 * GIB)})
    history.deletion(REFUSED)
    history.deletion(REFUSED)
    history.deletion(MIDDLE, folds={"vda": ("commit", 9 * GIB)})
    found = tally(db)

    assert found.ended == {
        ("deletion", "completed", "commit"): 1,
        ("deletion", "completed", "stream"): 1,
        ("deletion", "completed", "mixed"): 1,
        ("deletion", "rolled_back", "commit"): 1,
        ("deletion", "refused", "none"): 2,
    }
    assert found.copied == {"commit": 3 * GIB + 11, "stream": GIB + 5 + 7}
    assert found.last_completed == completed.timestamp()


def test_what_earlier_passes_did_counts_too(db: Database) -> None:
    """The plan that is left is that of the last pass, which may copy nothing."""
    folds = {"vda": ("commit", 100), "vdb": ("stream", 7)}
    History(db).deletion_of_two_passes(folds, domain="web")
    found = tally(db)

    assert found.ended == {("deletion", "completed", "mixed"): 1}
    assert found.copied == {"commit": 100, "stream": 7}


def test_creations_are_counted_by_outcome(db: Database) -> None:
    history = History(db)
    creation(db, history, "web", "recorded")
    creation(db, history, "db", "recorded")
    creation(db, history, "mail", "undone")
    found = tally(db)

    assert found.ended == {
        ("creation", "recorded", "none"): 2,
        ("creation", "undone", "none"): 1,
    }
    assert found.commits == CommitTimes(18, 1.5, 0.3)
    assert classes(found.longest) == {1: 3}


def test_a_state_lasts_until_it_is_left(db: Database) -> None:
    """The first one from the run's first row; the one that a run stands in has not."""
    history = History(db)
    history.deletion(seconds=2.0)
    history.deletion(REFUSED, seconds=0.05)
    history.deletion(MIDDLE, seconds=3600.0)
    found = tally(db)

    sums = {state: round(spread.sum, 3) for state, spread in found.states.items()}
    assert sums == {
        ("deletion", "validate"): 2 + 0.05 + 3600,
        ("deletion", "prepare"): 2 + 3600,
        **{("deletion", state): 2 for state, _, _ in COMPLETED[2:]},
    }
    assert classes(found.states["deletion", "validate"]) == {0.1: 1, 5: 1, 7200: 1}


def test_rows_of_steps_and_takeovers_do_not_end_a_state(db: Database) -> None:
    """Killed in the middle, taken over an hour later: it stood there all the time."""
    history = History(db)
    key = history.deletion(MIDDLE, seconds=1.0, steps=True)
    history.pass_by(3600)
    key = runs.claim(db, "deletion", key.id, history.author)
    history.pass_by(5)
    author = history.author
    runs.move(db, key, "commit_per_disk", "proceed", "vote", author, {}, final=False)

    spread = tally(db).states["deletion", "commit_per_disk"]
    assert (round(spread.sum), classes(spread)) == (3605, {7200: 1})


def test_no_state_takes_less_than_nothing(db: Database) -> None:
    """Even when the clock was set back meanwhile."""
    history = History(db)
    history.deletion(REFUSED, seconds=-3600.0)
    spread = tally(db).states["deletion", "validate"]

    assert (spread.sum, classes(spread)) == (0, {0.01: 1})


@pytest.mark.parametrize("place", range(len(DOWNTIME_BOUNDS)))
def test_a_bound_belongs_to_its_class(db: Database, place: int) -> None:
    bound = DOWNTIME_BOUNDS[place]
    history = History(db)
    history.deletion(downtime_ms=bound * 1000)
    history.deletion(downtime_ms=bound * 1001)
    counts = tally(db).downtime.counts

    assert (counts[place], counts[place + 1], sum(counts)) == (1, 1, 2)


def test_downtime_is_of_deletions_that_held_a_guest(db: Database) -> None:
    history = History(db)
    history.deletion(downtime_ms=None)
    history.deletion(downtime_ms=12.5)
    history.deletion(ROLLED_BACK, downtime_ms=400)
    found = tally(db)

    assert classes(found.downtime) == {0.025: 1, 0.5: 1}
    assert found.downtime.sum == pytest.approx(0.4125)


def test_commits_are_those_of_runs_that_tell_them(db: Database) -> None:
    """Runs of earlier versions do not."""
    history = History(db)
    history.deletion(commits=None)
    assert tally(db).commits == CommitTimes()
    history.deletion(commits=(40, 0.25, 0.03))
    history.deletion(REFUSED, commits=(2, 0.5, 0.0005))
    found = tally(db)

    assert found.commits == CommitTimes(42, 0.75, 0.03)
    assert classes(found.longest) == {COMMIT_BOUNDS[0]: 1, 0.05: 1}


def test_reading_on_is_the_same_as_reading_everything(db: Database) -> None:
    """After each row of runs that are entangled, however many came since."""
    history = History(db)
    going_on = Tally()
    keys = {}
    for turn in range(3):
        keys[turn] = history.deletion(
            MIDDLE,
            domain=f"d{turn}",
            seconds=0.3 * turn + 0.1,
            folds={"vda": ("commit", 10)},
        )
        going_on.add_new(db)
        if turn % 2:
            history.deletion(folds={"vda": ("stream", 3)}, downtime_ms=7)
    history.deletion(ROLLED_BACK, downtime_ms=0.5)
    for turn, (source, trigger, dest) in enumerate(COMPLETED[2:]):
        for key in keys.values():
            history.pass_by(turn)
            final = dest == "completed"
            told = {"journal": {"commits": 1, "seconds": 0.5, "longest": 0.5}}
            runs.move(
                db,
                key,
                source,
                trigger,
                dest,
                history.author,
                told if final else {},
                final=final,
            )
        assert going_on.continues(db)
        going_on.add_new(db)
        going_on.add_new(db)
    everything = tally(db)

    for field in ("seen", "ended", "copied", "last_completed", "commits"):
        assert getattr(going_on, field) == getattr(everything, field), field
    assert going_on.states.keys() == everything.states.keys()
    for state, spread in everything.states.items():
        assert going_on.states[state].counts == spread.counts
        assert going_on.states[state].sum == pytest.approx(spread.sum)
    assert going_on.downtime.counts == everything.downtime.counts
    assert going_on.longest.counts == everything.longest.counts
    assert everything.ended["deletion", "completed", "commit"] == 3


def test_another_journal_at_the_same_path_is_noticed(db: Database) -> None:
    """One with fewer rows, and one with as many."""
    history = History(db)
    history.deletion()
    found = tally(db)
    assert found.continues(db)
    for start in (BEGAN, BEGAN + timedelta(days=1)):
        with closing(empty()) as other:
            other.conn.deserialize(template())
            if start != BEGAN:
                History(other, now=start).deletion()
            assert not found.continues(other)
