"""What a journal still says when nobody knows whether it can be trusted.

Everything here works on a private copy: SQLite replays a log into the file that it
opens, and a log of another database would be replayed into a sound one. The journal
itself is read as bytes and never opened by SQLite, so nothing is written into it.

Do not call this while the same process has the journal open: closing a file drops
every POSIX lock that SQLite holds on it.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from .errors import JournalBusy, JournalError
from .model import Plan

#: How often a copy is tried that another process wrote into meanwhile.
TRIES: Final = 50
#: How long to wait before the next one, in seconds.
PAUSE: Final = 0.05
#: How many complaints of one kind are told.
SHOWN: Final = 5
#: What a file begins with that is a database of SQLite.
MAGIC: Final = b"SQLite format 3\0"

#: What a row of history says; later versions may add to it.
_HISTORY: Final = (
    "id, machine, run, source, trigger, dest, kind, who, generation, detail, at"
)
#: The states that runs are in when no edge was taken yet.
_BEGINS: Final = {
    "deletions": "validate",
    "creations": "planned",
    "reversions": "planned",
}


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run as far as its row can be read; ``images`` are (disk, state, top, base)."""

    machine: str
    id: str
    domain: str
    snapshot: str
    state: str
    started: str
    finished: str | None
    has_hold: bool
    images: tuple[tuple[str, str, str, str], ...] = ()


@dataclass(slots=True)
class Audit:
    """What is wrong with a journal, and what can be read of it all the same."""

    #: What SQLite or our own rules complain of; empty when it can be trusted.
    complaints: list[str] = field(default_factory=list)
    #: (domain, disk, image that the catalog names)
    disks: list[tuple[str, str, str]] = field(default_factory=list)
    #: Paths of all images that the catalog names.
    images: list[str] = field(default_factory=list)
    runs: list[KnownRun] = field(default_factory=list)

    @property
    def open_runs(self) -> list[KnownRun]:
        """Runs that somebody has to finish, as far as it is known."""
        return [run for run in self.runs if run.finished is None]


@contextmanager
def private_copy(journal: Path) -> Iterator[Path]:
    """A consistent copy of a journal with its log, in a folder that is removed.

    Writers may be at work: a copy during which one of the files changed is made
    again. Raises `JournalBusy` when that does not end, `JournalError` when the files
    cannot be read.
    """
    try:
        room = tempfile.TemporaryDirectory(prefix="backfold-")
    except OSError as error:
        raise JournalError(
            f"There is no room for a private copy of the journal: {error}.",
            remedy="Make room for temporary files, or name a folder by TMPDIR.",
        ) from error
    with room as folder:
        copy = Path(folder, "journal.db")
        try:
            for _ in range(TRIES):
                before = _stamps(journal)
                for source, target in zip(_files(journal), _files(copy), strict=True):
                    target.unlink(missing_ok=True)
                    with suppress(FileNotFoundError):
                        shutil.copyfile(source, target)
                if _stamps(journal) == before:
                    break
                time.sleep(PAUSE)
            else:
                raise JournalBusy(
                    f"The journal {journal} is being written all the time.",
                    data="Nothing was written.",
                    remedy="Try again.",
                )
        except OSError as error:
            raise JournalError(
                f"The journal {journal} cannot be read: {error}.",
                remedy="Check the path and its permissions.",
            ) from error
        yield copy


def examine(copy: Path) -> Audit:
    """Everything that can be said about a copy; errors become complaints.

    The copy itself is changed: its log is replayed.
    """
    found = Audit()
    if not _begins_well(copy, found):
        return found
    alone = copy.with_name("alone.db")
    shutil.copyfile(copy, alone)
    try:
        with closing(sqlite3.connect(f"file:{copy}", uri=True)) as db:
            _complain(db, found)
            _read(db, found)
            if not found.complaints and _has_log(copy):
                _compare(db, alone, found)
    except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
        found.complaints.append(str(error))
    return found


def _files(journal: Path) -> tuple[Path, Path]:
    return journal, journal.with_name(journal.name + "-wal")


def _has_log(journal: Path) -> bool:
    log = _files(journal)[1]
    return log.exists() and log.stat().st_size > 0


def _stamps(journal: Path) -> list[tuple[int, int, int] | None]:
    stamps: list[tuple[int, int, int] | None] = []
    for path in _files(journal):
        try:
            found = os.stat(path)
        except FileNotFoundError:
            stamps.append(None)
        else:
            stamps.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return stamps


def _begins_well(copy: Path, found: Audit) -> bool:
    with open(copy, "rb") as file:
        start = file.read(len(MAGIC))
    if not start:
        if _has_log(copy):
            found.complaints.append("the file is empty, but its log is not")
        else:
            found.complaints.append("the file is empty")
        return False
    if start != MAGIC:
        found.complaints.append("the file is not a database of SQLite")
        return False
    return True


def _complain(db: sqlite3.Connection, found: Audit) -> None:
    """Ask SQLite, then our own rules: history only grows, states follow from it."""
    checks = [row[0] for row in db.execute(f"pragma integrity_check({SHOWN})")]
    if checks != ["ok"]:
        found.complaints += [line for text in checks for line in text.splitlines()]
        return
    for table, row, parent, _ in db.execute("pragma foreign_key_check").fetchmany(
        SHOWN
    ):
        found.complaints.append(f"row {row} of {table} refers to nothing in {parent}")
    tables = {row[0] for row in db.execute("select name from sqlite_master")}
    needed = {"transitions", "deletions", "folds", "creations", "disks"}
    if missing := sorted(needed - tables):
        found.complaints.append(f"it has no table {', '.join(missing)}")
        return
    (count, last) = db.execute("select count(*), max(id) from transitions").fetchone()
    if count != (last or 0):
        found.complaints.append(
            f"{last} rows of history were written and {count} are there"
        )
    for machine, run, source, before in db.execute(
        "select machine, run, source, before from (select *, lag(dest) over"
        " (partition by machine, run order by id) as before from transitions"
        " where kind = 'edge' and machine <> 'fold')"
        " where before <> source limit ?",
        (SHOWN,),
    ):
        found.complaints.append(
            f"the {machine} {run} left {source}, but had come to {before}"
        )
    for table in sorted(_BEGINS.keys() & tables):
        for run, state, after in db.execute(
            f"select id, state, coalesce((select dest from transitions where"
            f" run = {table}.id and machine = {table}.machine and kind = 'edge'"
            f" order by id desc limit 1), ?) as after from {table}"
            f" where after <> state limit ?",
            (_BEGINS[table], SHOWN),
        ):
            found.complaints.append(
                f"{run} is in {state}, but its history ends in {after}"
            )


def _compare(db: sqlite3.Connection, alone: Path, found: Audit) -> None:
    """History only grows: what the file has without its log must be there with it.

    A log of another database is replayed without an error. Without its log the file
    may be torn by a checkpoint that was interrupted; then there is nothing to say.
    """
    try:
        db.execute("attach ? as alone", (f"file:{alone}?mode=ro&immutable=1",))
        if db.execute("pragma alone.integrity_check(1)").fetchone() != ("ok",):
            return
        (lost,) = db.execute(
            f"select count(*) from (select {_HISTORY} from alone.transitions"
            f" except select {_HISTORY} from main.transitions)"
        ).fetchone()
    except (sqlite3.Error, UnicodeDecodeError):
        return
    if lost:
        found.complaints.append(
            f"the log takes {lost} rows of history away: it is of another journal"
        )


def _read(db: sqlite3.Connection, found: Audit) -> None:
    """Read what can be read, table by table; what cannot is a complaint."""
    for table, read in (
        ("disks", _read_disks),
        ("images", _read_images),
        ("deletions", _read_deletions),
        ("creations", _read_planned("creation")),
        ("reversions", _read_planned("reversion")),
    ):
        try:
            read(db, found)
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            complaint = f"{table} cannot be read to the end: {error}"
            found.complaints.append(complaint)


def _read_disks(db: sqlite3.Connection, found: Audit) -> None:
    for domain, target, source in db.execute(
        "select domain, target, source from disks order by domain, position"
    ):
        found.disks.append((str(domain), str(target), str(source)))


def _read_images(db: sqlite3.Connection, found: Audit) -> None:
    for (path,) in db.execute("select path from images order by path"):
        found.images.append(str(path))


def _read_deletions(db: sqlite3.Connection, found: Audit) -> None:
    for row in db.execute(
        "select id, domain, snapshot, state, started, finished, hold is not null, plan"
        " from deletions order by started"
    ):
        run, domain, snapshot, state, started, finished, hold, plan = row
        images = _images(db, str(run), plan)
        found.runs.append(
            KnownRun(
                "deletion",
                *(str(run), str(domain), str(snapshot), str(state), str(started)),
                finished,
                bool(hold),
                images,
            )
        )


def _read_planned(machine: str) -> Callable[[sqlite3.Connection, Audit], None]:
    """Reads runs that had their plan from the beginning, if there is their table.

    A journal of an older version does not have each of them.
    """
    table = f"{machine}s"

    def read(db: sqlite3.Connection, found: Audit) -> None:
        if not db.execute(
            "select 1 from sqlite_master where name = ?", (table,)
        ).fetchone():
            return
        for run, domain, snapshot, state, started, finished in db.execute(
            f"select id, domain, snapshot, state, started, finished from {table}"
            " order by started"
        ):
            found.runs.append(
                KnownRun(
                    machine,
                    *(str(run), str(domain), str(snapshot), str(state), str(started)),
                    finished,
                    False,
                )
            )

    return read


def _images(
    db: sqlite3.Connection, run: str, plan: Any
) -> tuple[tuple[str, str, str, str], ...]:
    """The folds of a deletion, as far as rows and plan can be read."""
    try:
        folds = Plan.from_json(plan).folds if plan is not None else ()
        states = dict(
            db.execute("select target, state from folds where deletion = ?", (run,))
        )
        return tuple(
            (
                fold.target,
                str(states.get(fold.target, "?")),
                fold.top.path,
                fold.base.path,
            )
            for fold in folds
        )
    except (sqlite3.Error, ValueError, KeyError, TypeError):
        return ()
