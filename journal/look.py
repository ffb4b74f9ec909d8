"""Looking at a journal from outside: nothing is written, made, locked or migrated.

SQLite's own read-only mode is right for a journal in use: readers and the writer do
not wait for each other. It would make a log and an index of the log where there are
none, so that a journal that nobody has open is read as a file that does not change,
and read again when it did. A journal of an older version is copied into memory and
brought to this version there.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

from .errors import JournalBusy, JournalError
from .faults import damage, refuse_foreign, translated
from .rows import PlainRows, Rows
from .versions import advance, pending

T = TypeVar("T")

#: How often a journal is read again that was opened by somebody meanwhile.
TRIES: Final = 20
#: How long the writer may keep readers out (when it truncates its log), in seconds.
PATIENCE: Final = 5.0

_Stamp = tuple[int, int, int] | None


def look(journal: Path, query: Callable[[Rows], T]) -> T:
    """Ask a journal something, in one transaction.

    Safe beside an open `Store`, also in this process. Raises `JournalError` when
    there is no journal or it cannot be read, `JournalDamaged`, `JournalNewer`, and
    `JournalBusy` when others open and close it all the time.
    """
    if not _is_plain_file(journal):
        raise JournalError(
            f"There is no journal {journal}.",
            remedy="Name the right one with --journal or $BACKFOLD_JOURNAL.",
        )
    for _ in range(TRIES):
        before = _stamps(journal)
        is_alone = before[1] is None
        failure: Exception | None = None
        try:
            answer = _ask(journal, query, is_alone)
        except (sqlite3.Error, OSError, ValueError, TypeError) as error:
            failure = error
        if is_alone and _stamps(journal) != before:
            continue  # Somebody opened it: what was read may be of two times.
        if failure is not None:
            raise _told(failure, journal) from failure
        return answer
    raise JournalBusy(
        f"The journal {journal} is opened and closed by others all the time.",
        data="Nothing was written.",
        remedy="Try again.",
    )


def _is_plain_file(journal: Path) -> bool:
    """Whether it can be a journal. Raises `JournalError` when nobody may know."""
    try:
        return journal.is_file() and not journal.is_symlink()
    except OSError as error:
        raise translated(error, journal) from error


def look_at_nothing(query: Callable[[Rows], T]) -> T:
    """Ask a journal in which nothing has happened, for one that is not there."""
    with closing(_connect(":memory:")) as memory:
        advance(memory)
        return query(PlainRows(memory))


def check_whole(db: Rows) -> None:
    """Have SQLite read the whole file: to be called in a `look`, which reports it."""
    (found,) = db.execute("pragma quick_check(1)").fetchone()
    if found != "ok":
        raise ValueError(found)


def _ask(journal: Path, query: Callable[[Rows], T], is_alone: bool) -> T:
    if journal.stat().st_size == 0:
        raise ValueError("the file is empty")
    uri = f"file:{quote(os.path.abspath(journal))}?mode=ro"
    with closing(_connect(uri + "&immutable=1" * is_alone)) as connection:
        refuse_foreign(PlainRows(connection), journal)
        if not pending(connection):
            connection.execute("begin")
            return query(PlainRows(connection))
        with closing(_connect(":memory:")) as memory:
            connection.backup(memory)
            advance(memory)
            return query(PlainRows(memory))


def _connect(uri: str) -> sqlite3.Connection:
    return sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None)


def _stamps(journal: Path) -> tuple[_Stamp, _Stamp]:
    """What changes when somebody writes into the file, and whether there is a log."""
    return _stamp(journal), _stamp(journal.with_name(journal.name + "-wal"))


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _told(error: Exception, journal: Path) -> BaseException:
    """What went wrong, as ours; a value that makes no sense is damage."""
    ours = translated(error, journal)
    return ours if isinstance(ours, JournalError) else damage(journal, error)
