"""Journals whose runs were never run: rows written by the journal's own functions.

For what only reads history. Times are given, so that what is read back is known.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal import runs
from backfold.journal.model import (
    FileId,
    FileStamp,
    FoldPlan,
    Image,
    Plan,
    TreeImage,
)
from backfold.journal.runs import Author, RunKey
from backfold.journal.schema import migrate
from backfold.states.deletion import DELETION
from backfold.states.fold import FOLD

BEGAN = datetime(2026, 1, 31, 3, 0, 0, tzinfo=UTC)
MIB = 1 << 20
#: What a name may hold that a browser, a terminal or `dot` would act on.
HOSTILE = (
    '<script>document.title="owned"</script><img src=x onerror=console.error(1)>'
    "&amp;\"'\\n\x1b[31m\u202e</style><!--]]>"
)
STAMPS = (FileStamp(10, 11), FileStamp(20, 21))


def image(path: str, inode: int) -> Image:
    return Image(path, "qcow2", FileId(1, inode), 64 * MIB)


def fold(target: str, *chain: str) -> FoldPlan:
    """An active commit of the first path into the second."""
    images = tuple(image(path, number) for number, path in enumerate(chain, 1))
    return FoldPlan(
        target=target,
        strategy="commit",
        job=f"backfold-{target}",
        chain=images,
        first=0,
        last=1,
        link=None,
        copy_bytes=8 * MIB,
        space_bytes=3 * MIB,
        base_stamp=FileStamp(1, 2),
        because="fewer bytes to copy",
        free_bytes=1 << 30,
        snapshots=("s1",),
    )


def plan(folder: str = "/srv/web", *, risks: Sequence[str] = ()) -> Plan:
    """Delete ``s1``: the active image of two disks goes down into the frozen one."""
    folds, images = [], []
    for target in ("vda", "vdb"):
        base, top = f"{folder}/{target}.qcow2", f"{folder}/{target}.s1"
        folds.append(fold(target, top, base))
        images += [
            TreeImage(target, base, None, ("s1",), False, "survivor"),
            TreeImage(target, top, base, (), True, "superseded"),
        ]
    return Plan(
        domain="web",
        snapshot="s1",
        snapshots=("s1",),
        parent=None,
        power="running",
        place="domain",
        boot_id="boot",
        folds=tuple(folds),
        images=tuple(images),
        risks=tuple(risks),
        searched=(folder,),
    )


class Written:
    """A deletion that is being written, row by row."""

    def __init__(self, db: Database, run: str, domain: str, snapshot: str) -> None:
        self.db, self.id, self.seconds = db, run, 0.0
        self.who = "ann@host:1"
        self.state = DELETION.initial
        self.folds: dict[str, str] = {}
        self.key: RunKey = runs.begin_deletion(
            db, run, domain, snapshot, {}, self.state, self.author
        )

    @property
    def author(self) -> Author:
        at = BEGAN + timedelta(seconds=self.seconds)
        return Author(self.who, at.isoformat(timespec="microseconds"))

    def wait(self, seconds: float) -> Written:
        self.seconds += seconds
        return self

    def go(self, *triggers: str, after: float = 1.0) -> Written:
        """Make transitions of the deletion, each ``after`` seconds after the last."""
        for trigger in triggers:
            self.wait(after)
            name, _, wanted = trigger.partition(">")
            dest = wanted or next(
                edge.dest
                for edge in DELETION.edges
                if (edge.source, edge.trigger) == (self.state, name)
            )
            runs.move(
                self.db,
                self.key,
                self.state,
                name,
                dest,
                self.author,
                {},
                final=dest in DELETION.final,
            )
            self.state = dest
        return self

    def planned(self, made: Plan, dest: str = "commit_per_disk") -> Written:
        """Store a plan with its folds, as the edge out of `prepare` does."""
        self.wait(1.0)
        runs.update_deletion(self.db, self.key, plan=made.to_json())
        targets = [each.target for each in made.folds]
        runs.put_folds(self.db, self.key, targets, FOLD.initial)
        self.folds = dict.fromkeys(targets, FOLD.initial)
        return self.go(f"proceed>{dest}", after=0)

    def each_fold(self, *triggers: str, after: float = 0.0) -> Written:
        """Make transitions of every fold."""
        for trigger in triggers:
            self.wait(after)
            for target, source in self.folds.items():
                dest = next(
                    edge.dest
                    for edge in FOLD.edges
                    if (edge.source, edge.trigger) == (source, trigger)
                )
                author, stamps = self.author, STAMPS if dest == "voted" else None
                runs.move_fold(
                    self.db, self.key, target, source, trigger, dest, author, stamps
                )
                self.folds[target] = dest
        return self

    def step(
        self, name: str, told: Mapping[str, Any] | None = None, took: float = 0.1
    ) -> Written:
        """Announce a step and note that it was done."""
        runs.announce(
            self.db, self.key, self.state, name, self.author, dict(told or {})
        )
        self.wait(took)
        runs.note(self.db, self.key, self.state, name, self.author, {})
        return self

    def set(self, **fields: Any) -> Written:
        """Change columns of the row."""
        runs.update_deletion(self.db, self.key, **fields)
        return self


class Journal:
    """A journal file that is written by hand."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        connection = sqlite3.connect(path, isolation_level=None)
        self.db = Database(connection, strict=True, execute_plugins=False)
        # Nothing here has to outlive a power cut.
        self.db.execute("pragma synchronous = off")
        self.db.execute("pragma foreign_keys = on")
        migrate(self.db, SEEDS)
        path.chmod(0o600)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.db.execute("pragma journal_mode = wal")
        with closing(self.db.conn):
            pass

    def deletion(self, run: str, domain: str = "web", snapshot: str = "s1") -> Written:
        return Written(self.db, run, domain, snapshot)

    def completed(self, run: str = "c0" * 6, made: Plan | None = None) -> Written:
        """It backs off once, and takes 13 seconds, of which 42 ms are downtime."""
        written = self.deletion(run).go("accept").planned(made or plan())
        written.step("start_job", {"disk": "vda", "job": f"backfold-{run}-0"})
        written.each_fold("start").each_fold("converge", after=2.0)
        written.go("proceed", after=0.5).step("hold")
        written.each_fold("diverge").go("back_off", after=0.4)
        written.each_fold("converge", after=3.0).go("proceed", after=0.0)
        written.step("hold").each_fold("vote").go("decide", after=0.9)
        written.set(downtime_ms=42.0).each_fold("switch", after=1.0)
        written.go("proceed").each_fold("retire", after=0.5)
        return written.go("proceed>completed", after=0.5)

    def rolled_back(
        self, run: str = "b0" * 6, reason: str = "No space left."
    ) -> Written:
        """Its job fails while it copies."""
        written = self.deletion(run).go("accept").planned(plan())
        written.each_fold("start").each_fold("fail", after=2.0)
        runs.put_reason(self.db, written.key, reason)
        return written.go("abandon", after=0.0).step("cancel_jobs").go("proceed")

    def hostile(self, run: str = "d0" * 6) -> Written:
        """Whatever can be somebody else's text is `HOSTILE`."""
        made = plan(f"/srv/{HOSTILE}", risks=[HOSTILE])
        images = [replace(each, snapshots=(HOSTILE,)) for each in made.images]
        folds = [replace(each, because=HOSTILE) for each in made.folds]
        made = replace(made, images=tuple(images), folds=tuple(folds))
        written = self.deletion(run, f"web{HOSTILE}", f"s1{HOSTILE}")
        written.who = HOSTILE
        written.go("accept").planned(made)
        written.step("start_job", {"disk": HOSTILE, HOSTILE: HOSTILE})
        runs.remark(
            self.db,
            written.key,
            written.state,
            "alarm",
            written.author,
            {"what": HOSTILE},
        )
        written.each_fold("start").each_fold("fail", after=2.0)
        runs.put_reason(self.db, written.key, HOSTILE)
        written.go("abandon").go("proceed")
        # No function of the journal would write a fold of such a disk.
        self.db.execute(
            "insert into transitions"
            " (machine, run, source, trigger, dest, kind, who, generation, detail, at)"
            " values ('fold', ?, 'planned', 'start', 'copying', 'edge', 'x', 1, ?, ?)",
            (run, json.dumps({"disk": HOSTILE}), written.author.at),
        )
        return written

    def refused(self, run: str = "f0" * 6, reason: str = "It does not fit.") -> Written:
        written = self.deletion(run)
        runs.put_reason(self.db, written.key, reason)
        return written.go("refuse")

    def interrupted(self, run: str = "a0" * 6, made: Plan | None = None) -> Written:
        """Killed in its vote, and found by nobody yet."""
        written = self.deletion(run).go("accept").planned(made or plan())
        written.each_fold("start").each_fold("converge", after=2.0)
        return written.go("proceed", after=0.5).step("hold", took=0.2)


def spoil(path: Path, order: str, *arguments: object) -> None:
    """Change a row behind the journal's back, as a hostile client of the file would."""
    with closing(sqlite3.connect(path)) as db, db:
        for (trigger,) in db.execute(
            "select name from sqlite_master where type = 'trigger'"
        ).fetchall():
            db.execute(f"drop trigger {trigger}")
        db.execute(order, arguments)
    os.chmod(path, 0o600)
