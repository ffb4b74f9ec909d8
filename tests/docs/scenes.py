"""What the pages begin with. `scene(name, folder)` is a context manager of a `Stage`.

- `empty`: nothing is there.
- `web-unrecorded`: a guest runs on `/srv/web.qcow2`; Backfold does not know it.
- `web-off`: `web` has one disk, vda, and the snapshots s1, s2 and s3; it is off.
- `web-running`: the same, and a guest writes to the disk all the time.
- `web-deleted`: `web-running`, and then s3 was deleted by a commit.
- `web-interrupted`: `web-running`, and the engine that was deleting s3 by a commit
  was killed while it copied. QEMU and its guest live.
- `web-decided`: the same, and it was killed right after its decision; then the guard
  has let the guest go on.
- `web-dead`: QEMU, the engine and its guard were killed together at that moment.

Pages have names of their own for these places, wherever they really are:

- `/srv`: the folder of the images `web.qcow2`, `web.s1`, `web.s2` and `web.s3`.
- `/run/web.qmp`: the monitor of the guest.
- `/var/lib/backfold`: the folder of `journal.db`, which `$BACKFOLD_JOURNAL` names.
- `~`: the working directory, which is empty.
- `/usr/share/doc/backfold/examples`: the folder `examples` of the repository.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from backfold.engine.demo.guest import qemu_img
from backfold.engine.demo.machine import Machine
from backfold.journal.model import Disk
from committing import CommittingEngine
from real.scene import NoGuard, nobody_manages

ROOT = Path(__file__).parents[2]
VICTIM = ROOT / "tests" / "crash" / "victim.py"
SNAPSHOTS = ("s1", "s2", "s3")
SIZE = 64 << 20
#: A busy test machine needs longer than an operator would want.
DOWNTIME_MS = 5000


@dataclass
class Stage:
    """The folder in which a page's commands are run, and everything in it."""

    folder: Path
    machine: Machine | None = None
    last_run: str | None = None
    undo: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        """Make the folders."""
        self.images = self.folder / "srv"
        self.home = self.folder / "home"
        self.journal = self.folder / "journal" / "journal.db"
        for folder in (self.images, self.home):
            folder.mkdir()
        self.disk = self.images / "web.qcow2"

    @property
    def places(self) -> list[tuple[str, Path]]:
        """What pages call the places, and where they are."""
        found = [
            ("/srv", self.images),
            ("/var/lib/backfold", self.journal.parent),
            ("/usr/share/doc/backfold/examples", ROOT / "examples"),
            ("~", self.home),
        ]
        if self.machine is not None:
            found.insert(0, ("/run/web.qmp", self.machine.monitor))
        return found

    def engine(self) -> CommittingEngine:
        """An engine on the journal of the stage."""
        return CommittingEngine(self.journal, guard=NoGuard(), managed=nobody_manages)

    def make_disk(self) -> None:
        """Make the disk, with some data."""
        qemu_img("create", "-q", "-f", "qcow2", self.disk, str(SIZE))
        fill(self.disk, 0)

    def place_guest(self) -> Machine:
        """A guest that writes to the disk; it does not run yet."""
        folder = self.folder / "machine"
        folder.mkdir()
        self.machine = Machine(folder, [("vda", self.disk, "qcow2")], pause=2000)
        return self.machine


def empty(stage: Stage) -> None:
    """Nothing is there."""


def unrecorded(stage: Stage) -> None:
    """A guest runs."""
    stage.make_disk()
    stage.undo.enter_context(stage.place_guest()).wait_for_writes(20)


def off(stage: Stage) -> None:
    """Three snapshots of a domain that is off."""
    stage.make_disk()
    asyncio.run(_record(stage))


def running(stage: Stage) -> None:
    """Three snapshots of a domain that runs."""
    stage.make_disk()
    machine = stage.place_guest()
    machine.disks = [("vda", asyncio.run(_record(stage)), "qcow2")]
    stage.undo.enter_context(machine).wait_for_writes(20)


def deleted(stage: Stage) -> None:
    """The newest snapshot was deleted."""
    running(stage)
    asyncio.run(_delete(stage))


def interrupted(stage: Stage) -> None:
    """The deletion of the newest snapshot was killed while it copied."""
    running(stage)
    _kill(stage, "commit_per_disk.start_job.done", "commit_per_disk")


def decided(stage: Stage) -> None:
    """The deletion of the newest snapshot was killed right after its decision."""
    running(stage)
    _kill(stage, "vote.decide.noted", "update_metadata")


def dead(stage: Stage) -> None:
    """QEMU, engine and guard were killed right after the decision."""
    running(stage)
    assert stage.machine is not None
    _kill(stage, "vote.decide.noted", "pivot", also=f"{stage.machine.pid},children,")


SCENES: dict[str, Callable[[Stage], None]] = {
    "empty": empty,
    "web-unrecorded": unrecorded,
    "web-off": off,
    "web-running": running,
    "web-deleted": deleted,
    "web-interrupted": interrupted,
    "web-decided": decided,
    "web-dead": dead,
}


@contextmanager
def scene(name: str, folder: Path) -> Iterator[Stage]:
    """Everything that a page begins with; what runs is killed at the end."""
    stage = Stage(folder.resolve())
    with stage.undo:
        stage.undo.callback(_kill_helpers, stage)
        SCENES[name](stage)
        if stage.journal.exists():
            stage.last_run = _last_run(stage.journal)
        yield stage


async def _record(stage: Stage) -> Path:
    """Record the domain and take its snapshots; returns the active image."""
    monitor = None if stage.machine is None else str(stage.machine.monitor)
    active = stage.disk
    async with stage.engine() as engine:
        await engine.add_domain("web", [Disk("vda", str(active), "qcow2")], monitor)
        for number, name in enumerate(SNAPSHOTS, 1):
            await engine.create_snapshot("web", name)
            (disk,) = await engine.disks("web")
            active = Path(disk.source)
            if name != SNAPSHOTS[-1]:
                fill(active, number)
    return active


async def _delete(stage: Stage) -> None:
    """Delete the newest snapshot."""
    async with stage.engine() as engine:
        await engine.delete("web", SNAPSHOTS[-1], max_downtime_ms=DOWNTIME_MS)


def fill(image: Path, number: int) -> None:
    """Write data that no other image has, and where the guest does not write.

    Below the active image all have the same amount, and more than the guest writes.
    So it is certain what a deletion copies: s3 is folded by a commit, s2 by a stream,
    and s1 by a commit, since no snapshot made its image.
    """
    order = f"write -q -P {number + 1} {10 + number * 12}M 12M"
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-c", order, str(image)],
        check=True,
        capture_output=True,
    )


def _kill(stage: Stage, place: str, state: str, also: str = "") -> None:
    """Kill the engine that deletes the newest snapshot; it leaves this state.

    ``also`` are other processes to kill, before the engine.
    """
    subprocess.run(
        [
            sys.executable,
            *(
                str(VICTIM),
                str(stage.journal),
                "delete",
                SNAPSHOTS[-1],
                place,
                f"{also}self",
            ),
        ],
        capture_output=True,
        timeout=60,
        check=False,
    )
    query = "select state from deletions where finished is null"
    _let_guards_end(stage)
    found = _rows(stage.journal, query)
    assert found == [(state,)], found


def _last_run(journal: Path) -> str | None:
    """The deletion that was begun last."""
    found = _rows(journal, "select id from deletions order by rowid desc limit 1")
    return found[0][0] if found else None


def _rows(journal: Path, query: str) -> list[tuple[str, ...]]:
    """Rows of the journal."""
    db = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    try:
        return list(db.execute(query))
    finally:
        db.close()


def _let_guards_end(stage: Stage) -> None:
    """A guard ends the hold of a killed engine, and then itself."""
    deadline = time.monotonic() + 30
    while any(_processes(os.fsencode(stage.journal))) and time.monotonic() < deadline:
        time.sleep(0.02)


def _kill_helpers(stage: Stage) -> None:
    """Helpers and guards outlive engines; end those of this stage."""
    for pid in _processes(os.fsencode(stage.folder)):
        os.kill(pid, signal.SIGKILL)


def _processes(needle: bytes) -> Iterator[int]:
    """The other processes that have this in their command lines."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if needle in (entry / "cmdline").read_bytes():
                    yield int(entry.name)
