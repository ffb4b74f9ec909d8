"""Tables, constraints and their versions.

The declared states and edges of the machines are seeded into two tables; runs and
their transitions refer to them by foreign key, so that no client of the file can
write a state or a transition that was not declared. `transitions` only grows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Final

from sqlite_utils import Database, Migrations

from .errors import JournalNewer


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


MIGRATIONS: Final = Migrations("backfold")

_VERSION_1 = """
CREATE TABLE declared_states (
    machine TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (machine, state)
) STRICT;
CREATE TABLE declared_transitions (
    machine TEXT NOT NULL,
    source TEXT NOT NULL,
    trigger TEXT NOT NULL,
    dest TEXT NOT NULL,
    PRIMARY KEY (machine, source, trigger, dest),
    FOREIGN KEY (machine, source) REFERENCES declared_states (machine, state),
    FOREIGN KEY (machine, dest) REFERENCES declared_states (machine, state)
) STRICT;
CREATE TABLE allowed_folds (
    deletion_state TEXT NOT NULL,
    fold_state TEXT NOT NULL,
    PRIMARY KEY (deletion_state, fold_state)
) STRICT;

CREATE TABLE images (
    path TEXT PRIMARY KEY CHECK (path LIKE '/%'),
    format TEXT NOT NULL CHECK (format IN ('qcow2', 'raw')),
    made_by TEXT
) STRICT;
CREATE TABLE domains (
    name TEXT PRIMARY KEY CHECK (name <> ''),
    monitor TEXT CHECK (monitor LIKE '/%'),
    created TEXT NOT NULL
) STRICT;
CREATE TABLE disks (
    domain TEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE,
    target TEXT NOT NULL CHECK (target <> ''),
    source TEXT NOT NULL REFERENCES images (path),
    position INTEGER NOT NULL,
    PRIMARY KEY (domain, target),
    UNIQUE (domain, source)
) STRICT;
CREATE TABLE snapshots (
    domain TEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE,
    name TEXT NOT NULL CHECK (name <> ''),
    parent TEXT,
    created TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('valid', 'deleting', 'invalid')),
    reason TEXT CHECK ((reason IS NULL) = (status <> 'invalid')),
    current INTEGER NOT NULL CHECK (current IN (0, 1)),
    PRIMARY KEY (domain, name),
    FOREIGN KEY (domain, parent) REFERENCES snapshots (domain, name),
    CHECK (parent <> name)
) STRICT;
CREATE UNIQUE INDEX one_current_snapshot ON snapshots (domain) WHERE current = 1;
CREATE TABLE snapshot_disks (
    domain TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    target TEXT NOT NULL,
    frozen TEXT NOT NULL REFERENCES images (path),
    PRIMARY KEY (domain, snapshot, target),
    FOREIGN KEY (domain, snapshot) REFERENCES snapshots (domain, name)
        ON DELETE CASCADE
) STRICT;

CREATE TABLE deletions (
    id TEXT PRIMARY KEY CHECK (length(id) = 12),
    machine TEXT NOT NULL DEFAULT 'deletion' CHECK (machine = 'deletion'),
    domain TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    state TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    options TEXT NOT NULL,
    plan TEXT,
    helper TEXT,
    hold TEXT,
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    downtime_ms REAL,
    reason TEXT,
    started TEXT NOT NULL,
    finished TEXT,
    FOREIGN KEY (machine, state) REFERENCES declared_states (machine, state)
) STRICT;
CREATE UNIQUE INDEX one_open_deletion ON deletions (domain) WHERE finished IS NULL;
CREATE TABLE folds (
    deletion TEXT NOT NULL REFERENCES deletions (id),
    target TEXT NOT NULL,
    machine TEXT NOT NULL DEFAULT 'fold' CHECK (machine = 'fold'),
    state TEXT NOT NULL,
    top_stamp TEXT,
    base_stamp TEXT,
    PRIMARY KEY (deletion, target),
    FOREIGN KEY (machine, state) REFERENCES declared_states (machine, state),
    CHECK (state NOT IN ('voted', 'switched', 'retired')
           OR (top_stamp IS NOT NULL AND base_stamp IS NOT NULL))
) STRICT;
CREATE TABLE creations (
    id TEXT PRIMARY KEY CHECK (length(id) = 12),
    machine TEXT NOT NULL DEFAULT 'creation' CHECK (machine = 'creation'),
    domain TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    state TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    plan TEXT NOT NULL,
    reason TEXT,
    started TEXT NOT NULL,
    finished TEXT,
    FOREIGN KEY (machine, state) REFERENCES declared_states (machine, state)
) STRICT;
CREATE UNIQUE INDEX one_open_creation ON creations (domain) WHERE finished IS NULL;

CREATE TABLE transitions (
    id INTEGER PRIMARY KEY,
    machine TEXT NOT NULL,
    run TEXT NOT NULL,
    source TEXT NOT NULL,
    trigger TEXT NOT NULL,
    dest TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('edge', 'announce', 'note', 'remark')),
    who TEXT NOT NULL,
    generation INTEGER NOT NULL,
    detail TEXT NOT NULL,
    at TEXT NOT NULL,
    FOREIGN KEY (machine, source, trigger, dest)
        REFERENCES declared_transitions (machine, source, trigger, dest),
    CHECK ((kind = 'edge') OR (source = dest))
) STRICT;
CREATE INDEX transitions_of_run ON transitions (run, id);
CREATE TRIGGER transitions_are_new BEFORE INSERT ON transitions
WHEN NEW.id IN (SELECT id FROM transitions)
BEGIN SELECT RAISE(ABORT, 'transitions only grows'); END;
CREATE TRIGGER transitions_only_grow BEFORE UPDATE ON transitions
BEGIN SELECT RAISE(ABORT, 'transitions only grows'); END;
CREATE TRIGGER transitions_stay BEFORE DELETE ON transitions
BEGIN SELECT RAISE(ABORT, 'transitions only grows'); END;
"""


@MIGRATIONS()
def version_1(db: Database) -> None:
    """Catalog, runs and transitions."""
    for statement in _statements(_VERSION_1):
        db.execute(statement)


@MIGRATIONS()
def version_2(db: Database) -> None:
    """Find files that could not be flushed without reading all of the history."""
    db.execute(
        "CREATE INDEX failed_flushes ON transitions (at) WHERE trigger = 'flush_failed'"
    )


_VERSION_3 = """
ALTER TABLE snapshots ADD COLUMN memory TEXT CHECK (memory LIKE '/%');
ALTER TABLE deletions ADD COLUMN passes TEXT NOT NULL DEFAULT '[]';
CREATE TABLE kept_images (
    path TEXT PRIMARY KEY REFERENCES images (path),
    domain TEXT NOT NULL REFERENCES domains (name) ON DELETE CASCADE,
    target TEXT NOT NULL
) STRICT;
CREATE TABLE reversions (
    id TEXT PRIMARY KEY CHECK (length(id) = 12),
    machine TEXT NOT NULL DEFAULT 'reversion' CHECK (machine = 'reversion'),
    domain TEXT NOT NULL,
    snapshot TEXT NOT NULL,
    state TEXT NOT NULL,
    generation INTEGER NOT NULL DEFAULT 1,
    plan TEXT NOT NULL,
    reason TEXT,
    started TEXT NOT NULL,
    finished TEXT,
    FOREIGN KEY (machine, state) REFERENCES declared_states (machine, state)
) STRICT;
CREATE UNIQUE INDEX one_open_reversion ON reversions (domain) WHERE finished IS NULL;
"""


@MIGRATIONS()
def version_3(db: Database) -> None:
    """The whole tree: memory files, images without a name, passes, reversions."""
    for statement in _statements(_VERSION_3):
        db.execute(statement)


def _statements(script: str) -> Iterable[str]:
    """Split a script at its statements' ends; `executescript` would commit."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        inside_trigger = "CREATE TRIGGER" in statement and "END;" not in statement
        if line.endswith(";") and not inside_trigger:
            yield statement
            statement = ""


def migrate(db: Database, seeds: Seeds) -> None:
    """Bring the journal to this version and seed the declarations.

    Runs in the caller's transaction: several processes may open a new journal at
    once. Raises `JournalNewer` when the file has migrations that we do not know.
    """
    refuse_newer(db)
    MIGRATIONS.apply(db)
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
    """Whether a journal needs neither migration nor seeding; writes nothing."""
    refuse_newer(db)
    if MIGRATIONS.pending(db):
        return False
    seeded = set(db.execute("select * from declared_transitions").fetchall())
    allowed = set(db.execute("select * from allowed_folds").fetchall())
    return seeded >= {astuple(row) for row in seeds.transitions} and allowed == set(
        seeds.allowed_folds
    )


def refuse_newer(db: Database) -> None:
    """Raise `JournalNewer` when the journal has migrations that we do not know."""
    nothing = Database(memory=True, execute_plugins=False)
    known = MIGRATIONS.pending(nothing)
    nothing.close()
    applied = {migration.name for migration in MIGRATIONS.applied(db)}
    unknown = applied - {migration.name for migration in known}
    if unknown:
        raise JournalNewer(
            f"The journal was written by a newer Backfold ({sorted(unknown)}).",
            data="Nothing was changed.",
            remedy="Use the Backfold version that wrote it, or a newer one.",
        )
