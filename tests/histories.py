"""Runs as they stand in a journal when they are over, without a disk being touched.

Written by the journal's own functions, so that whatever reads them reads what the
engine writes; only the times are chosen. For measurements there is a program:

    PYTHONPATH=tests python -m histories ROWS JOURNAL
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal import runs
from backfold.journal.model import FileId, FileStamp, FoldPlan, Image, Plan
from backfold.journal.runs import Author, RunKey
from backfold.journal.store import Store
from backfold.states.deletion import DELETION

BEGAN = datetime(2026, 5, 4, 3, 2, 1, tzinfo=UTC)
WHO = "root@elsewhere:4711"

#: Source, trigger and destination of a deletion of a running domain.
COMPLETED = (
    ("validate", "accept", "prepare"),
    ("prepare", "proceed", "commit_per_disk"),
    ("commit_per_disk", "proceed", "vote"),
    ("vote", "decide", "pivot"),
    ("pivot", "proceed", "update_metadata"),
    ("update_metadata", "proceed", "completed"),
)
ROLLED_BACK = (
    *COMPLETED[:2],
    ("commit_per_disk", "abandon", "roll_back"),
    ("roll_back", "proceed", "rolled_back"),
)
REFUSED = (("validate", "refuse", "refused"),)
MIDDLE = COMPLETED[:2]


@dataclass
class History:
    """Writes runs one after the other; ``now`` is the time of the next row."""

    db: Database
    now: datetime = BEGAN
    count: int = 0
    who: str = WHO

    def pass_by(self, seconds: float) -> None:
        """Let time go by."""
        self.now += timedelta(seconds=seconds)

    @property
    def author(self) -> Author:
        return Author(self.who, self.now.isoformat())

    def deletion(
        self,
        edges: Sequence[tuple[str, str, str]] = COMPLETED,
        *,
        domain: str = "web",
        snapshot: str = "s1",
        folds: Mapping[str, tuple[str, int]] | None = None,
        seconds: float = 2.0,
        downtime_ms: float | None = None,
        reason: str | None = None,
        commits: tuple[int, float, float] | None = (40, 0.2, 0.03),
        steps: bool = False,
    ) -> RunKey:
        """A deletion along ``edges``, ``seconds`` in each state.

        ``folds`` are strategy and bytes by disk, ``commits`` are count, sum and
        longest of what the journal took; ``steps`` writes rows for every step, too.
        """
        self.count += 1
        run = f"{self.count:012x}"
        key = runs.begin_deletion(
            self.db, run, domain, snapshot, {}, edges[0][0], self.author
        )
        for source, trigger, dest in edges:
            if steps:
                for step in DELETION.state(source).steps:
                    runs.announce(self.db, key, source, step.name, self.author, {})
                    runs.note(self.db, key, source, step.name, self.author, {})
            if trigger == "accept" and folds:
                plan = _plan(domain, snapshot, folds)
                runs.update_deletion(self.db, key, plan=plan.to_json())
            final = dest in DELETION.final
            if final:
                runs.update_deletion(
                    self.db, key, downtime_ms=downtime_ms, reason=reason
                )
            told = {}
            if final and commits is not None:
                names = ("commits", "seconds", "longest")
                told = {"journal": dict(zip(names, commits, strict=True))}
            self.pass_by(seconds)
            runs.move(
                self.db, key, source, trigger, dest, self.author, told, final=final
            )
        return key

    def deletion_of_two_passes(
        self, folds: Mapping[str, tuple[str, int]], *, domain: str
    ) -> RunKey:
        """A deletion that copied in its first pass, and had nothing to copy after."""
        key = self.deletion(MIDDLE, domain=domain, folds=folds, seconds=0.1)
        runs.put_folds(self.db, key, list(folds), "planned")
        runs.end_pass(self.db, key)
        runs.update_deletion(self.db, key, plan=_plan(domain, "s1", {}).to_json())
        for source, trigger, dest in COMPLETED[2:]:
            final = dest == "completed"
            runs.move(self.db, key, source, trigger, dest, self.author, {}, final=final)
        return key


def _plan(domain: str, snapshot: str, folds: Mapping[str, tuple[str, int]]) -> Plan:
    return Plan(
        domain=domain,
        snapshot=snapshot,
        snapshots=(snapshot,),
        parent=None,
        power="running",
        place="domain",
        boot_id="boot",
        folds=tuple(
            FoldPlan(
                target=target,
                job=f"backfold-{target}",
                strategy=strategy,
                chain=tuple(
                    Image(f"/{domain}/{target}.{n}", "qcow2", FileId(1, n), 1 << 30)
                    for n in (2, 1)
                ),
                first=0,
                last=1,
                link=None,
                copy_bytes=bytes_,
                space_bytes=bytes_,
                base_stamp=FileStamp(1, 2),
            )
            for target, (strategy, bytes_) in folds.items()
        ),
    )


def main(rows: int, path: Path) -> None:
    """A new journal of that many rows: deletions of two disks, 2000 domains."""

    def fill(db: Database) -> None:
        history = History(db)
        folds = {"vda": ("commit", 1 << 30), "vdb": ("stream", 1 << 20)}
        written = 0
        while written < rows:
            domain = f"d{history.count % 2000}"
            history.deletion(domain=domain, folds=folds, downtime_ms=12.5, steps=True)
            history.pass_by(5)
            written = db.execute("select max(id) from transitions").fetchone()[0]

    async def write() -> None:
        store = await Store.open(path, SEEDS)
        await store.write(fill)
        await store.close()

    asyncio.run(write())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
