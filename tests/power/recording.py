"""One recorded run, ready to be cut anywhere."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from sqlite_utils import Database

from backfold.journal import runs

from . import strace
from .byhand import ByHand, Pair
from .cuts import Cut, State, states
from .disk import Disk
from .guest_writes import Expected
from .replay import Replay, Stop, differences
from .strace import Call

TESTS: Final = Path(__file__).parents[1]
#: How long a recorded run may take on a busy machine, in seconds.
TIMEOUT: Final = 280


class Run(NamedTuple):
    """What is recorded."""

    order: str
    power: str
    snapshot: str
    disks: int = 1

    def __str__(self) -> str:
        """As it is printed."""
        disks = f"{self.disks} disk{'s' if self.disks > 1 else ''}"
        return f"{self.order} {self.snapshot}, {self.power}, {disks}"


class Finding(NamedTuple):
    """A state in which something is lost."""

    stop: Stop
    cut: Cut
    what: str


@dataclass
class Table:
    """What was found in one run."""

    run: Run
    stops: int = 0
    states: int = 0
    recovered: int = 0
    acknowledged: int = 0
    #: States of a creation that `recover` reports instead of judging.
    doubts: int = 0
    findings: list[Finding] = field(default_factory=list)
    causes: Counter[str] = field(default_factory=Counter)
    steps: set[str] = field(default_factory=set)


class Recording:
    """The calls of one run, with the folder that it ran in."""

    def __init__(self, folder: Path, run: Run, without: Sequence[str] = ()) -> None:
        """Record; ``folder`` is made. Raises `strace.NotPermitted`."""
        folder.mkdir()
        self.folder = folder
        self.run = run
        trace = folder.with_name(folder.name + ".trace")
        command = [sys.executable, "-m", "power.stage", str(folder), *map(str, run)]
        path = {"PYTHONPATH": str(TESTS)}
        strace.record([*command, *without], trace, path, TIMEOUT)
        self.calls = strace.read(trace)
        trace.unlink()
        told = json.loads((folder / "told.json").read_text())
        self.domain: str = told["domain"]
        self.targets: list[str] = told["targets"]
        self.brackets: dict[str, tuple[int, int]] = told["brackets"]
        self.journal = str(folder / "journal" / "journal.db")
        self.device = os.stat(folder).st_dev
        self.last = self._play_to_the_end()
        self.pairs = self._pairs()

    def replay(self) -> Replay:
        """A new play of the calls."""
        folders = [str(self.folder / name) for name in ("images", "journal")]
        return Replay(
            Disk(folders),
            str(self.folder / "marks"),
            str(self.folder / "acknowledged-1.bin"),
        )

    def by_hand(self, scratch: Path) -> ByHand:
        """Somebody who looks at the states of this recording."""
        expected = Expected(len(self.targets))
        expected.touched = frozenset(
            expected.place(number) for number in range(1, self.last + 2)
        )
        hand = ByHand(
            self.journal, self.device, self.domain, self.targets, expected, scratch
        )
        hand.pairs = self.pairs
        return hand

    def cut_everywhere(
        self,
        table: Table,
        scratch: Path,
        seed: int = 0,
        recover: Callable[[Stop, Cut, State, int], str | None] | None = None,
        every: int = 1,
        calls: Sequence[Call] | None = None,
        since: str | None = None,
    ) -> None:
        """Cut the power at every stop, and look at what it may leave.

        ``recover`` is called for all states that it is to be tried on; it decides by
        itself. It returns what went wrong. ``every`` passes over stops, ``since`` over
        those before a moment of a step. ``calls`` are those of the recording, perhaps
        without some flushes.
        """
        scratch.mkdir()
        hand = self.by_hand(scratch)
        replay = self.replay()
        seen: set[object] = set()
        for turn, stop in enumerate(replay.run(calls or self.calls)):
            hand.expected.advance(stop.acknowledged // 4)
            table.causes[stop.cause] += 1
            if turn % every or (since is not None and since not in replay.steps):
                continue
            table.stops += 1
            for cut, state in states(replay.disk, turn, seed):
                key = (
                    stop.acknowledged // 4,
                    tuple((p, c.key, c.mtime) for p, c in sorted(state.files.items())),
                )
                if key in seen:
                    continue
                seen.add(key)
                table.states += 1
                table.findings += [
                    Finding(stop, cut, what) for what in hand.wrong(state)
                ]
                table.doubts += hand.in_doubt
                if recover is not None and not hand.in_doubt:
                    wrong = recover(stop, cut, state, hand.expected.last)
                    if wrong is not None:
                        table.recovered += 1
                        if wrong:
                            table.findings.append(Finding(stop, cut, wrong))
        table.acknowledged = hand.expected.last
        table.steps = replay.steps

    def _play_to_the_end(self) -> int:
        """Prove that nothing was missed; returns the last acknowledged write.

        Played back whole, the recording must give the files that are really there.
        """
        replay = self.replay()
        for _ in replay.run(self.calls):
            pass
        if not replay.ended or (wrong := differences(replay.disk)):
            raise strace.NotUnderstood(f"the recording is not complete: {wrong}")
        sent = struct.unpack(f"<{len(replay.sent) // 4}I", replay.sent)
        if list(sent) != list(range(1, len(sent) + 1)):
            raise strace.NotUnderstood("the acknowledgements are out of order")
        return len(sent)

    def _pairs(self) -> tuple[Pair, ...]:
        """Tops and bases of the active folds, from the finished deletion's plan."""
        connection = sqlite3.connect(f"file:{self.journal}?immutable=1", uri=True)
        db = Database(connection, execute_plugins=False)
        try:
            rows = runs.list_deletions(db, only_open=False)
        finally:
            db.close()
        return tuple(
            Pair(
                self.targets.index(fold.target),
                fold.top.path,
                fold.base.path,
                fold.base.format,
            )
            for row in rows
            if row.plan is not None
            for fold in row.plan.folds
            if fold.is_active
        )
