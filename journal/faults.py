"""What is wrong with a journal's file, in our words."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

from .errors import JournalBusy, JournalDamaged, JournalError
from .rows import Rows


def refuse_unusable(path: Path) -> None:
    """Raise `JournalError` for a link, or for an empty file beside a log."""
    if path.is_symlink():
        raise JournalError(
            f"The journal {path} is a symbolic link.",
            remedy="Name the file itself.",
        )
    log = path.with_name(path.name + "-wal")
    # The log first: another process may be making both right now.
    if (_size(log) or 0) > 0 and _size(path) == 0:
        raise JournalDamaged(
            f"The journal {path} is empty, but its log {log} is not.",
            data="The images are untouched.",
            remedy="Bring the file back from where it was copied or cut.",
        )


def _size(path: Path) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def refuse_foreign(rows: Rows, path: Path) -> None:
    """Raise `JournalDamaged` for a database of another program; an empty one is new."""
    tables = {name for (name,) in rows.execute("select name from sqlite_master")}
    if tables and "declared_transitions" not in tables:
        raise JournalDamaged(
            f"{path} is a database, but not a journal of Backfold.",
            data="It was not changed.",
            remedy="Name another file with --journal.",
        )


def translated(error: BaseException, path: Path) -> BaseException:
    """SQLite's and the system's errors as ours; everything else as it is."""
    ours: JournalError
    is_damaged = isinstance(error, sqlite3.DatabaseError) and (
        getattr(error, "sqlite_errorcode", 0) & 0xFF
        in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    )
    is_busy = isinstance(error, sqlite3.OperationalError) and (
        getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
    )
    if is_busy:
        ours = JournalBusy(
            f"The journal {path} is held by another process.",
            data="Nothing was written.",
            remedy="Try again.",
        )
    elif is_damaged or isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        ours = damage(path, error)
    elif isinstance(error, sqlite3.Error | OSError):
        ours = JournalError(
            f"The journal {path} cannot be used: {error}.",
            remedy="Check the path, its permissions and the space on its file system.",
        )
    else:
        return error
    ours.__cause__ = error
    return ours


def damage(path: Path, why: object) -> JournalDamaged:
    """What is to be said of a journal whose content makes no sense."""
    return JournalDamaged(
        f"The journal {path} is damaged: {why}.",
        data="The images are untouched. Without the journal, an overlay that is"
        " not fenced is the truth; beside a fenced one the base is complete.",
        remedy="Keep a copy, and follow the guide's chapter on rescue by hand.",
    )
