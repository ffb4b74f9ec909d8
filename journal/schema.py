"""Tables, constraints and their versions.

The declared states and edges of the machines are seeded into two tables; runs and
their transitions refer to them by foreign key, so that no client of the file can
write a state or a transition that was not declared. `transitions` only grows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from .versions import MIGRATION_SET, VERSIONS, pending, statements

if TYPE_CHECKING:
    # Slow to import: who only reads a journal does without.
    from sqlite_utils import Database, Migrations


@dataclass(frozen=True, slots=True)
class DeclaredTransition:
    """A row that the journal may hold: an edge, or a step or remark of a state."""

    machine: str
    source: str
    trigger: str
    dest: str


@dataclass(frozen=True, slots=True)
class Seeds:
    """What the machines declare: states, transitions, and fold states by state."""

    states: tuple[tuple[str, str], ...]
    transitions: tuple[DeclaredTransition, ...]
    allowed_folds: tuple[tuple[str, str], ...]


def _migrations() -> Migrations:
    """The versions, for the library that keeps account of them."""
    from sqlite_utils import Migrations

    migrations = Migrations(MIGRATION_SET)
    for name, script in VERSIONS.items():
        migrations(name=name)(_migration(script))
    return migrations


def _migration(script: str) -> Callable[[Database], None]:
    def migrate_one(db: Database) -> None:
        for statement in statements(script):
            db.execute(statement)

    return migrate_one


def migrate(db: Database, seeds: Seeds) -> None:
    """Bring the journal to this version and seed the declarations.

    Runs in the caller's transaction: several processes may open a new journal at
    once. Raises `JournalNewer` when the file has migrations that we do not know.
    """
    pending(db.conn)
    _migrations().apply(db)
    db.conn.executemany(
        "insert or ignore into declared_states values (?, ?)", seeds.states
    )
    db.conn.executemany(
        "insert or ignore into declared_transitions values (?, ?, ?, ?)",
        [astuple(row) for row in seeds.transitions],
    )
    db.execute("delete from allowed_folds")
    db.conn.executemany("insert into allowed_folds values (?, ?)", seeds.allowed_folds)


def is_current(db: Database, seeds: Seeds) -> bool:
    """Whether a journal needs neither migration nor seeding; writes nothing.

    Raises `JournalNewer`.
    """
    if pending(db.conn):
        return False
    seeded = set(db.execute("select * from declared_transitions").fetchall())
    allowed = set(db.execute("select * from allowed_folds").fetchall())
    return seeded >= {astuple(row) for row in seeds.transitions} and allowed == set(
        seeds.allowed_folds
    )
