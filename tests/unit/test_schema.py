"""The journal's own constraints: what no client of the file can write."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from sqlite_utils import Database

from backfold.engine.seeds import MACHINES, SEEDS
from backfold.journal.errors import JournalNewer
from backfold.journal.schema import Seeds, is_current, migrate

NOW = "2025-01-01T00:00:00.000000+00:00"

#: A domain with two disks and two snapshots, and one run of each kind.
FILLED = f"""
insert into images values ('/a', 'qcow2', null), ('/b', 'raw', null);
insert into images values ('/a.s', 'qcow2', '0123456789ab');
insert into domains values ('d', '/run/d.sock', '{NOW}', '/etc/d.hook');
insert into domains values ('e', null, '{NOW}', null);
insert into disks values ('d', 'vda', '/a.s', 0), ('d', 'vdb', '/b', 1);
insert into snapshots values ('d', 's1', null, '{NOW}', 'valid', null, 0, null);
insert into snapshots values ('d', 's2', 's1', '{NOW}', 'valid', null, 1, null);
insert into snapshot_disks values ('d', 's1', 'vda', '/a');
insert into deletions (id, domain, snapshot, state, options, started)
    values ('0123456789ab', 'd', 's1', 'vote', '{{}}', '{NOW}');
insert into folds (deletion, target, state) values ('0123456789ab', 'vda', 'converged');
insert into creations (id, domain, snapshot, state, plan, started)
    values ('ba9876543210', 'd', 's3', 'planned', '{{}}', '{NOW}');
insert into transitions values (1, 'deletion', '0123456789ab', 'vote', 'hold', 'vote',
    'announce', 'me', 1, '{{}}', '{NOW}');
"""


def connected(path: Path) -> Database:
    """A connection as the store makes it, without the store."""
    connection = sqlite3.connect(path, isolation_level=None)
    db = Database(connection, strict=True, execute_plugins=False)
    db.execute("pragma foreign_keys = on")
    return db


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with something in it, made once."""
    path = tmp_path_factory.mktemp("schema") / "journal.db"
    with closing(connected(path)) as db:
        db.execute("begin immediate")
        migrate(db, SEEDS)
        db.commit()
        db.conn.executescript(f"begin; {FILLED} commit;")
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    """A copy of that journal."""
    return Path(shutil.copy(filled, tmp_path))


@pytest.fixture
def client(path: Path) -> Iterator[sqlite3.Connection]:
    """A plain client of the file, such as the `sqlite3` shell, with foreign keys."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("pragma foreign_keys = on")
        yield connection


def migrated(db: Database, seeds: Seeds) -> None:
    """Migrate in a transaction, as the store does."""
    db.execute("begin immediate")
    migrate(db, seeds)
    db.commit()


def dump(connection: sqlite3.Connection) -> str:
    return "\n".join(connection.iterdump())


def transition(
    source: str = "vote",
    trigger: str = "decide",
    dest: str = "pivot",
    kind: str = "edge",
    machine: str = "deletion",
) -> str:
    """The statement that records a transition."""
    return (
        "insert into transitions (machine, run, source, trigger, dest, kind, who,"
        f" generation, detail, at) values ('{machine}', '0123456789ab', '{source}',"
        f" '{trigger}', '{dest}', '{kind}', 'me', 1, '{{}}', '{NOW}')"
    )


ALLOWED = {
    "an edge": transition(),
    "a step's announcement": transition("vote", "hold", "vote", "announce"),
    "a step's note": transition("vote", "fence", "vote", "note"),
    "a remark": transition("validate", "alarm", "validate", "remark"),
    "a fold's edge": transition("converged", "vote", "voted", "edge", "fold"),
    "a self-loop": transition("planned", "restart", "planned", "edge", "fold"),
    "an open run of another domain": "insert into deletions (id, domain, snapshot,"
    f" state, options, started) values ('{'f' * 12}', 'e', 's', 'vote', '{{}}', '')",
    "a finished run of the same domain": "insert into deletions (id, domain, snapshot,"
    f" state, options, started, finished) values ('{'f' * 12}', 'd', 's', 'completed',"
    " '{}', '', '')",
    "a vote with stamps": "update folds set state = 'voted', top_stamp = '[1, 2]',"
    " base_stamp = '[1, 2]'",
    "an invalid snapshot with its reason": "update snapshots set status = 'invalid',"
    " reason = 'written into' where name = 's1'",
    "an image of two domains": "insert into disks values ('e', 'vda', '/b', 0)",
}

REFUSED = {
    "an edge that leads elsewhere": transition("vote", "decide", "completed"),
    "an edge from elsewhere": transition("prepare", "decide", "pivot"),
    "an edge of another name": transition("vote", "force", "pivot"),
    "an edge of another machine": transition(machine="creation"),
    "an edge of an unknown machine": transition(machine="other"),
    "a state that is not declared": transition("nowhere", "alarm", "nowhere", "remark"),
    "a step of another state": transition("prepare", "hold", "prepare", "announce"),
    "an announcement that moves": transition(kind="announce"),
    "a note that moves": transition(kind="note"),
    "a remark that moves": transition(kind="remark"),
    "an unknown kind": transition(kind="wish"),
    "a changed transition": "update transitions set who = 'nobody' where id = 1",
    "a changed time": f"update transitions set at = '{NOW}'",
    "a removed transition": "delete from transitions where id = 1",
    "no transitions any more": "delete from transitions",
    "a second open deletion": "insert into deletions (id, domain, snapshot, state,"
    f" options, started) values ('{'f' * 12}', 'd', 's2', 'validate', '{{}}', '')",
    "a second open creation": "insert into creations (id, domain, snapshot, state,"
    f" plan, started) values ('{'f' * 12}', 'd', 's4', 'planned', '{{}}', '')",
    "a deletion in no state": "update deletions set state = 'deleted'",
    "a deletion in a fold's state": "update deletions set state = 'copying'",
    "a deletion of another machine": "update deletions set machine = 'fold'",
    "a creation in a deletion's state": "update creations set state = 'vote'",
    "a fold in a deletion's state": "update folds set state = 'vote'",
    "a deletion with a short id": "update deletions set id = '0123'",
    "a deletion with text for a number": "update deletions set generation = 'many'",
    "a deletion with half a cancel": "update deletions set cancel_requested = 2",
    "a deletion without a start": "update deletions set started = null",
    "a vote without stamps": "update folds set state = 'voted'",
    "a vote with one stamp": "update folds set state = 'voted', top_stamp = '[1, 2]'",
    "a switch without stamps": "update folds set state = 'switched'",
    "a retired fold without stamps": "update folds set state = 'retired'",
    "a fold of no deletion": "insert into folds (deletion, target, state)"
    f" values ('{'f' * 12}', 'vda', 'planned')",
    "two folds of one disk": "insert into folds (deletion, target, state)"
    " values ('0123456789ab', 'vda', 'planned')",
    "an image of a relative path": "insert into images values ('a', 'raw', null)",
    "an image of an unknown format": "insert into images values ('/c', 'vmdk', null)",
    "an image that a disk needs": "delete from images where path = '/b'",
    "an image that a snapshot needs": "delete from images where path = '/a'",
    "a disk of an unknown image": "update disks set source = '/c' where target = 'vda'",
    "a disk of no domain": "insert into disks values ('x', 'vda', '/b', 0)",
    "a disk without a name": "insert into disks values ('e', '', '/b', 0)",
    "two disks of one image": "update disks set source = '/b' where target = 'vda'",
    "a domain without a name": f"insert into domains values ('', null, '{NOW}', null)",
    "a monitor of a relative path": "update domains set monitor = 'd.sock'",
    "a hook of a relative path": "update domains set hook = 'd.hook'",
    "two current snapshots": "update snapshots set current = 1",
    "a snapshot that is half current": "update snapshots set current = 2",
    "a snapshot that is its own parent": "update snapshots set parent = name",
    "a snapshot of an unknown parent": "update snapshots set parent = 'x'",
    "a snapshot that has children": "delete from snapshots where name = 's1'",
    "an unknown status": "update snapshots set status = 'gone'",
    "invalid without a reason": "update snapshots set status = 'invalid'",
    "valid with a reason": "update snapshots set reason = 'why'",
    "a frozen image that is unknown": "update snapshot_disks set frozen = '/c'",
}


@pytest.mark.parametrize("sql", ALLOWED.values(), ids=ALLOWED.keys())
def test_what_is_declared_can_be_written(client: sqlite3.Connection, sql: str) -> None:
    """The refusals below are not refusals of everything."""
    assert client.execute(sql).rowcount > 0


@pytest.mark.parametrize("sql", REFUSED.values(), ids=REFUSED.keys())
def test_a_plain_client_is_refused(client: sqlite3.Connection, sql: str) -> None:
    """The file itself refuses what was not declared, whoever writes."""
    before = dump(client)

    with pytest.raises(sqlite3.IntegrityError):
        client.execute(sql)

    assert dump(client) == before


def test_transitions_cannot_be_replaced(client: sqlite3.Connection) -> None:
    """`insert or replace` is an update by another name."""
    replaced = transition().replace("insert", "insert or replace", 1)
    replaced = replaced.replace("(machine,", "(id, machine,")
    replaced = replaced.replace("values (", "values (1, ")

    with pytest.raises(sqlite3.IntegrityError):
        client.execute(replaced)


def test_a_domain_takes_its_disks_and_snapshots_with_it(
    client: sqlite3.Connection,
) -> None:
    """Forgetting a domain leaves no orphans, and the history of its runs."""
    client.execute("update snapshots set parent = null")
    client.execute("delete from domains where name = 'd'")

    for table in ("disks", "snapshots", "snapshot_disks"):
        assert client.execute(f"select count(*) from {table}").fetchone() == (0,)
    for table in ("deletions", "folds", "creations", "transitions"):
        assert client.execute(f"select count(*) from {table}").fetchone() == (1,)


def test_every_table_is_strict(client: sqlite3.Connection) -> None:
    """SQLite would otherwise store any type in any column."""
    tables = client.execute(
        "select name, \"strict\" from pragma_table_list where type = 'table'"
        " and schema = 'main' and name not like 'sqlite_%'"
    ).fetchall()

    assert {name for name, strict in tables if not strict} <= {"_sqlite_migrations"}
    assert len(tables) > 10


def test_the_declarations_are_seeded_whole(client: sqlite3.Connection) -> None:
    """The tables that the foreign keys refer to are the machines, and no more."""
    states = set(client.execute("select * from declared_states"))
    rows = set(client.execute("select * from declared_transitions"))
    allowed = set(client.execute("select * from allowed_folds"))

    assert states == {(m.name, state.name) for m in MACHINES for state in m.states}
    assert rows == {astuple(row) for row in SEEDS.transitions}
    assert allowed == set(SEEDS.allowed_folds)


def test_migrating_twice_changes_nothing(path: Path) -> None:
    """Several processes may open a new journal at once; all of them migrate."""
    with closing(connected(path)) as db:
        before = dump(db.conn)
        migrated(db, SEEDS)
        assert dump(db.conn) == before


def test_only_a_journal_that_needs_it_is_written_to(path: Path) -> None:
    """`is_current` decides that without writing."""
    with closing(connected(path)) as db, closing(connected(Path(":memory:"))) as new:
        before = db.conn.total_changes
        assert is_current(db, SEEDS)
        assert db.conn.total_changes == before

        assert not is_current(new, SEEDS)
        assert new.table_names() == []


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """The whole first opening is one transaction."""
    wrong = replace(SEEDS, states=(*SEEDS.states, ("deletion",)))  # type: ignore[arg-type]
    with closing(connected(tmp_path / "journal.db")) as db:
        db.execute("begin immediate")
        with pytest.raises(sqlite3.Error):
            migrate(db, wrong)
        db.rollback()

        assert db.table_names() == []


def test_declarations_that_grow_are_added(path: Path) -> None:
    """A newer version's steps can be written after it has opened the journal."""
    step = replace(SEEDS.transitions[0], trigger="new_step")
    grown = replace(
        SEEDS,
        transitions=(*SEEDS.transitions, step),
        allowed_folds=(*SEEDS.allowed_folds, ("validate", "planned")),
    )
    with closing(connected(path)) as db:
        assert not is_current(db, grown)
        migrated(db, grown)
        assert is_current(db, grown)
        db.execute(transition(step.source, "new_step", step.dest))


def test_an_allowance_that_is_taken_back_is_gone(path: Path) -> None:
    """Otherwise the old row stays, and every opening takes the write lock."""
    shrunk = replace(SEEDS, allowed_folds=SEEDS.allowed_folds[1:])
    with closing(connected(path)) as db:
        assert not is_current(db, shrunk)
        migrated(db, shrunk)

        assert set(db.execute("select * from allowed_folds")) == set(
            shrunk.allowed_folds
        )
        assert is_current(db, shrunk)


def test_an_unknown_migration_of_ours_is_newer(path: Path) -> None:
    """Of ours only: other programs may keep migrations in the same table."""
    insert = (
        "insert into _sqlite_migrations (migration_set, name, applied_at)"
        " values (?, 'version_99', '')"
    )
    with closing(connected(path)) as db:
        db.execute(insert, ("another program",))
        assert is_current(db, SEEDS)

        db.execute(insert, ("backfold",))
        before = dump(db.conn)
        for use in (is_current, migrate):
            with pytest.raises(JournalNewer):
                use(db, SEEDS)
        assert dump(db.conn) == before


def test_no_seeds_are_needed_for_the_tables() -> None:
    """The schema does not know the machines: another set of them works as well."""
    with closing(connected(Path(":memory:"))) as db:
        migrate(db, Seeds((), (), ()))
        assert is_current(db, Seeds((), (), ()))
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(transition())
