"""The tables of each version of the journal, as SQL, and which ones a file has.

Who only reads a journal does without the library that keeps account of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from .errors import JournalNewer

#: The name of the account.
MIGRATION_SET: Final = "backfold"

#: Catalog, runs and transitions.
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


#: Find files that could not be flushed without reading all of the history.
_VERSION_2 = """
CREATE INDEX failed_flushes ON transitions (at) WHERE trigger = 'flush_failed';
"""

#: The whole tree: memory files, images without a name, passes, reversions.
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

#: The executable that is told when the images of a domain's disks change.
_VERSION_4 = """
ALTER TABLE domains ADD COLUMN hook TEXT CHECK (hook LIKE '/%');
"""


#: What brings a journal from each version to the next, by name.
VERSIONS: Final = {
    "version_1": _VERSION_1,
    "version_2": _VERSION_2,
    "version_3": _VERSION_3,
    "version_4": _VERSION_4,
}


def statements(script: str) -> Iterable[str]:
    """Split a script at its statements' ends; `executescript` would commit."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        inside_trigger = "CREATE TRIGGER" in statement and "END;" not in statement
        if line.endswith(";") and not inside_trigger:
            yield statement
            statement = ""


def pending(connection: sqlite3.Connection) -> list[str]:
    """The versions that a journal does not have yet, in order; writes nothing.

    Raises `JournalNewer` when it has one that we do not know.
    """
    applied = _applied(connection)
    if unknown := sorted(applied - VERSIONS.keys()):
        raise JournalNewer(
            f"The journal was written by a newer Backfold ({unknown}).",
            data="Nothing was changed.",
            remedy="Use the Backfold version that wrote it, or a newer one.",
        )
    return [name for name in VERSIONS if name not in applied]


def _applied(connection: sqlite3.Connection) -> set[str]:
    """The names in the account of the library that keeps it."""
    tables = {name for (name,) in connection.execute("select name from sqlite_master")}
    if "_sqlite_migrations" not in tables:
        return set()
    rows = connection.execute(
        "select name from _sqlite_migrations where migration_set = ?",
        (MIGRATION_SET,),
    )
    return {name for (name,) in rows}


def advance(connection: sqlite3.Connection) -> None:
    """Give a private copy the tables of this version, for reading; nothing is seeded.

    Raises `JournalNewer`.
    """
    for name in pending(connection):
        for statement in statements(VERSIONS[name]):
            connection.execute(statement)
