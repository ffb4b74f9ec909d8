"""How things stand: open runs, snapshots, the depth of chains."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal import catalog, runs
from backfold.journal.model import Disk, Domain
from backfold.journal.schema import migrate
from backfold.journal.standing import DomainStanding, standing
from histories import MIDDLE, REFUSED, WHO, History


@pytest.fixture
def db() -> Iterator[Database]:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with closing(Database(connection, strict=True, execute_plugins=False)) as db:
        migrate(db, SEEDS)
        db.execute("pragma foreign_keys = on")
        yield db


def domain(db: Database, name: str) -> None:
    """A domain with two disks that are on their newest overlays."""
    disks = tuple(Disk(t, f"/{name}/{t}.top", "qcow2") for t in ("vda", "vdb"))
    catalog.add_domain(db, Domain(name, None, disks), [], "2026-01-01T00:00:00+00:00")


def snapshot(
    db: Database,
    domain: str,
    name: str,
    parent: str | None = None,
    *,
    disks: tuple[str, ...] = ("vda", "vdb"),
    status: str = "valid",
    current: bool = False,
) -> None:
    reason = "written into" if status == "invalid" else None
    db.execute(
        "insert into snapshots (domain, name, parent, created, status, reason, current)"
        " values (?, ?, ?, '2026-01-01T00:00:00+00:00', ?, ?, ?)",
        (domain, name, parent, status, reason, int(current)),
    )
    for target in disks:
        path = f"/{domain}/{target}.{name}"
        catalog.put_image(db, path, "qcow2", None)
        db.execute(
            "insert into snapshot_disks (domain, snapshot, target, frozen)"
            " values (?, ?, ?, ?)",
            (domain, name, target, path),
        )


def test_snapshots_are_counted_by_status_and_chains_by_their_depth(
    db: Database,
) -> None:
    """Only the active chain counts, and on it the disk with the most images."""
    for name in ("bare", "web"):
        domain(db, name)
    snapshot(db, "web", "s1")
    snapshot(db, "web", "s2", "s1", disks=("vdb",), status="invalid")
    snapshot(db, "web", "s3", "s2", current=True)
    snapshot(db, "web", "branch", "s1", status="deleting")
    snapshot(db, "web", "twig", "branch")

    assert standing(db).domains == (
        DomainStanding("bare", Counter(), 1),
        DomainStanding("web", Counter(valid=3, invalid=1, deleting=1), 4),
    )


def test_a_damaged_tree_that_is_a_ring_has_an_end(db: Database) -> None:
    domain(db, "web")
    snapshot(db, "web", "s1")
    snapshot(db, "web", "s2", "s1", current=True)
    db.execute("update snapshots set parent = 's2' where name = 's1'")

    assert [found.depth for found in standing(db).domains] == [3]


def test_open_runs_tell_their_last_row_and_the_images_to_look_at(db: Database) -> None:
    """The oldest first; one that is over is not open."""
    domain(db, "web")
    snapshot(db, "web", "s1", disks=("vda",), current=True)
    history = History(db)
    history.deletion(REFUSED, domain="web")
    younger = History(db, history.now, history.count)
    younger.pass_by(100)
    last = younger.deletion(MIDDLE, domain="gone", snapshot="s9", seconds=1)
    history.count = younger.count
    key = history.deletion(MIDDLE, domain="web", seconds=2)
    took_over = history.now.timestamp()
    runs.claim(db, "deletion", key.id, history.author)
    first, second = standing(db).runs

    assert (first.id, first.machine, first.state) == (
        key.id,
        "deletion",
        "commit_per_disk",
    )
    assert (first.domain, first.snapshot) == ("web", "s1")
    assert (first.who, first.at) == (WHO, took_over)
    assert sorted(first.paths) == ["/web/vda.s1", "/web/vda.top", "/web/vdb.top"]
    assert (second.id, second.paths) == (last.id, ())
    assert first.started < second.started
    (row,) = db.execute("select max(id) from transitions").fetchone()
    assert first.row == row > second.row


def test_a_time_that_is_none_is_not_guessed_at(db: Database) -> None:
    History(db).deletion(MIDDLE)
    db.execute("update deletions set started = 'yesterday'")

    with pytest.raises(ValueError, match="yesterday"):
        standing(db)
