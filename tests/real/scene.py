"""One domain on a real QEMU: its images, its guest, its journal, and its books.

async with Scene(tmp_path, disks=3) as scene:
    await scene.take("s1")
    await scene.take("s2")
    await scene.engine.delete("web", "s1")
    await scene.verify()
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from backfold.engine.api import Engine
from backfold.engine.demo.command import Style
from backfold.engine.demo.guest import Ledger, Verdict, export_raw, qemu_img
from backfold.engine.demo.machine import Machine
from backfold.engine.images import QemuImages
from backfold.engine.results import Deletion, DomainDisk
from backfold.journal.model import Disk, FileId, Snapshot
from backfold.states.ports import Clock, Guard, Images, Probe
from backfold.states.watch import Watch
from committing import CommittingEngine

#: The name of the domain, and how large its disks are.
DOMAIN = "web"
SIZE = 16 << 20
#: The guest stands still for longer than an operator would want when other tests
#: have the processors; back-offs are tested by tests that set this themselves.
DOWNTIME_MS = 3000
CATALOG = ("images", "domains", "disks", "snapshots", "snapshot_disks")


def play(story: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine; the event loop must have nothing left at its end."""
    asyncio.run(story)


def nobody_manages() -> Mapping[FileId, str]:
    """This host's libvirt is of no concern."""
    return {}


class NoGuard:
    """Nobody watches over the hold: for engines that do not die in it."""

    async def start(self, watch: Watch) -> None:
        """Do nothing."""

    async def dismiss(self) -> None:
        """Do nothing."""

    async def take_over(self) -> None:
        """Do nothing."""


class At:
    """A probe that acts at one moment of one step, the first time it comes."""

    def __init__(
        self, place: str, act: Callable[[], object], *, machine: str = "deletion"
    ) -> None:
        """``place`` is ``state.step.moment``, as in ``vote.fence.done``."""
        self.place = place
        self.act = act
        self.machine = machine
        self.times = 0
        self.seen: list[str] = []

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Act if this is the place. It blocks the engine until it is done."""
        if machine != self.machine:
            return
        place = f"{state}.{step}.{moment}"
        self.seen.append(place)
        if place == self.place:
            self.times += 1
            if self.times == 1:
                self.act()


class Scene:
    """A domain with everything around it, in one folder.

    As an async context manager it starts the guest (unless ``power`` is ``off``),
    opens an engine and records the domain; at the end QEMU is killed.
    """

    def __init__(
        self,
        folder: Path,
        *,
        disks: int = 1,
        style: Style = "drive",
        power: str = "running",
        base_format: str = "qcow2",
        relative: bool = False,
        pause: int = 0,
        monitored: bool = True,
        second_monitor: bool = True,
        guard: Guard | None = None,
    ) -> None:
        """Make the images; nothing runs yet.

        Args:
            folder: Where everything goes. Its images lie in ``folder/images``.
            disks: How many; they are vda, vdb, ...
            style: How QEMU opens them; see `Style`.
            power: ``running``, or ``off`` for a guest that is not started.
            base_format: Format of the images that the domain begins with.
            relative: Begin with an overlay that names its backing image by a
                relative link, so that all further links are relative too.
            pause: Microseconds between two writes of the guest.
            monitored: Whether the domain is recorded with its monitor.
            second_monitor: Whether the operator has a monitor of its own.
            guard: Instead of a real guard, whose process takes its time to start.
        """
        self.folder = folder
        self.images_folder = folder / "images"
        self.images_folder.mkdir()
        self.journal = folder / "journal" / "journal.db"
        self.locks = folder / "locks"
        self.power = power
        self.monitored = monitored
        self.guard = guard
        #: The last acknowledged write before and after each snapshot was taken.
        self.brackets: dict[str, tuple[int, int]] = {}
        self.first_disks = [
            self._new_disk(f"vd{letter}", base_format, relative)
            for letter in "abcdefgh"[:disks]
        ]
        self.machine = Machine(
            folder,
            [(d.target, Path(d.source), d.format) for d in self.first_disks],
            style=style,
            pause=pause,
            second_monitor=second_monitor,
        )
        self.engine = self.new_engine()

    async def __aenter__(self) -> Self:
        """Start the guest, open the engine, record the domain."""
        if self.power != "off":
            self.machine.start()
        await self.engine.__aenter__()
        monitor = str(self.machine.monitor) if self.monitored else None
        await self.engine.add_domain(DOMAIN, self.first_disks, monitor)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the engine and kill what runs."""
        try:
            await self.engine.__aexit__(kind, error, trace)
        finally:
            self.machine.__exit__(kind, error, trace)
            for pid in self.helpers():
                os.kill(pid, 9)

    @property
    def ledger(self) -> Ledger:
        """The acknowledged writes."""
        return self.machine.ledger

    def new_engine(
        self,
        *,
        probe: Probe | None = None,
        images: Images | None = None,
        clock: Clock | None = None,
        managed: Callable[[], Mapping[FileId, str]] = nobody_manages,
    ) -> Engine:
        """One more engine on the same journal; not open yet."""
        return CommittingEngine(
            self.journal,
            probe=probe,
            images=images,
            clock=clock,
            guard=self.guard,
            managed=managed,
            locks=self.locks,
        )

    async def with_probe(self, probe: Probe) -> None:
        """Go on with an engine that has this probe."""
        await self.engine.__aexit__(None, None, None)
        self.engine = self.new_engine(probe=probe)
        await self.engine.__aenter__()

    # What an operator does

    async def take(
        self,
        name: str,
        *,
        writes: int = 15,
        overlays: Mapping[str, str] | None = None,
        exclude: Iterable[str] = (),
        memory: Path | None = None,
    ) -> Snapshot:
        """Let the guest write, and take a snapshot.

        The guest's writes around it are noted, for `verify`.
        """
        await self.write(writes)
        low = self.machine.acknowledged()
        snapshot = await self.engine.create_snapshot(
            DOMAIN,
            name,
            overlays=overlays,
            exclude=tuple(exclude),
            memory=None if memory is None else str(memory),
        )
        self.brackets[name] = (low, self.machine.acknowledged())
        return snapshot

    def memory_file(self, name: str) -> Path:
        """A file as an operator would have saved it; nobody reads what is in it."""
        path = self.folder / f"{name}.mem"
        path.write_bytes(b"QEVM" + name.encode() * 1000)
        return path

    async def save_memory(self, name: str) -> Path:
        """Stop the guest and let QEMU save its memory; the caller lets it go on."""
        path = self.folder / f"{name}.mem"
        self.machine.qmp("stop")
        self.machine.qmp("migrate", uri=f"exec:cat > {path}")
        while self.machine.qmp("query-migrate")["status"] != "completed":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return path

    async def take_three(self) -> None:
        """Take s1, s2 and s3, and let the guest write on."""
        for name in ("s1", "s2", "s3"):
            await self.take(name)
        await self.write()

    async def delete(
        self, snapshot: str, *, max_downtime_ms: int = DOWNTIME_MS, **options: Any
    ) -> Deletion:
        """`Engine.delete` with a downtime for slow test machines."""
        return await self.engine.delete(
            DOMAIN, snapshot, max_downtime_ms=max_downtime_ms, **options
        )

    async def write(self, writes: int = 15) -> None:
        """Wait until the guest has written more, if it runs and is not paused."""
        if self.is_started() and self.run_state() == "running":
            await asyncio.to_thread(self.machine.wait_for_writes, writes)

    async def boot(self, style: Style | None = None) -> None:
        """Boot the guest, by hand, from what the engine says is to be booted."""
        self.machine.disks = [
            (disk.target, Path(disk.source), disk.format) for disk in await self.disks()
        ]
        self.machine.style = style or self.machine.style
        await asyncio.to_thread(self.machine.start)

    async def restart(self, style: Style | None = None) -> None:
        """Power the guest off and boot it again: QEMU opens the whole chain anew."""
        self.machine.quit()
        await self.boot(style)

    async def disks(self) -> tuple[DomainDisk, ...]:
        """What to boot from now."""
        return await self.engine.disks(DOMAIN)

    def run_state(self) -> str:
        """QEMU's run state."""
        return str(self.machine.qmp("query-status")["status"])

    def is_started(self) -> bool:
        """Whether QEMU was started at all and has not ended."""
        try:
            return self.machine.pid > 0
        except RuntimeError:
            return False

    async def attach_disk(self, target: str) -> Disk:
        """Record one more disk, which the machine has from its next `boot` on."""
        disk = self._new_disk(target, "qcow2", False)
        await self.engine.attach_disk(DOMAIN, disk)
        return disk

    # What a test looks at

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        """Rows of the journal, read beside whoever has it open."""
        db = sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True)
        try:
            return list(db.execute(f"select {columns} from {table} order by 1, 2"))
        finally:
            db.close()

    def catalog(self) -> dict[str, list[tuple[Any, ...]]]:
        """Everything that the catalog's tables hold."""
        return {table: self.rows(table) for table in CATALOG}

    def images(self) -> list[Path]:
        """All files of the images' folder, and of folders in it."""
        return sorted(p for p in self.images_folder.rglob("*") if p.is_file())

    def fingerprints(self) -> dict[str, str]:
        """What is in each image file, byte for byte."""
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self.images()
        }

    def helpers(self) -> list[int]:
        """Processes of Backfold that still work on this scene: helpers and guards."""
        found = []
        needles = [os.fsencode(self.journal), os.fsencode(self.images_folder)]
        for entry in Path("/proc").iterdir():
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                opened = [os.readlink(fd) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            is_guest = b"acknowledged" in command
            names = any(needle in command for needle in needles)
            has = any(name.startswith(str(self.images_folder)) for name in opened)
            if (names or has) and not is_guest and b"qemu-img" not in command:
                found.append(int(entry.name))
        return found

    async def verify(self, *, leaks: bool = False, strays: Iterable[Path] = ()) -> None:
        """Kill the guest and prove that nothing is lost and nothing is left over.

        Every disk must hold every acknowledged write, every valid snapshot its point
        in time, all its disks the same one. No run is open, every image file is in a
        chain and sound.

        Args:
            leaks: Whether lower images may have leaked clusters, as after a SIGKILL
                in the middle of a copy. An active image may, since the guest dies.
            strays: Image files that nothing needs, and the test knows of.
        """
        assert self.open_runs() == []
        assert self.rows("deletions where hold is not null or helper is not null") == []
        assert self.rows("snapshots where status = 'deleting'") == []
        await self.let_helpers_end()
        self.machine.kill()
        await self.verify_data()
        disks = await self.disks()
        chains = {path for disk in disks for path in disk.chain}
        there = {str(path) for path in self.images()}
        assert there == chains | {str(path) for path in strays}
        assert {path for path, *_ in self.rows("images")} == chains
        assert not [path for path in there if ".backfold" in path]
        for disk in disks:
            for path in disk.chain:
                may_leak = leaks or path == disk.source
                self._assert_sound(path, may_leak)
                assert await QemuImages().users(path) == (), path

    async def verify_data(self) -> None:
        """Prove that all writes are there, on the disks and in valid snapshots.

        A guest that runs stands still meanwhile.
        """
        is_running = self.is_started() and self.run_state() == "running"
        if is_running:
            self.machine.qmp("stop")
        disks = await self.disks()
        raw = self.folder / "verified.raw"
        for number, disk in enumerate(disks):
            assert disk.broken is None, disk
            export_raw(Path(disk.source), disk.format, raw, force_share=True)
            verdict = self.ledger.verify(raw, number)
            assert verdict.ok, (disk, len(verdict.lost), verdict.lost[:5])
        await self._verify_snapshots([disk.target for disk in disks], raw)
        raw.unlink()
        if is_running:
            self.machine.qmp("cont")

    def open_runs(self) -> list[tuple[Any, ...]]:
        """Ids and states of runs that are not finished."""
        return [
            row
            for table in ("deletions", "creations", "reversions")
            for row in self.rows(f"{table} where finished is null", "id, state")
        ]

    async def let_helpers_end(self) -> None:
        """Helpers and guards may take a moment to end, not more."""
        deadline = time.monotonic() + 10
        while self.helpers() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert self.helpers() == []

    async def _verify_snapshots(self, targets: list[str], raw: Path) -> None:
        for snapshot in await self.engine.catalog.snapshots(DOMAIN):
            if snapshot.status != "valid" or not snapshot.disks:
                continue
            low, high = self.brackets[snapshot.name]
            verdicts: list[Verdict] = []
            for entry in snapshot.disks:
                frozen = Path(entry.frozen)
                export_raw(frozen, entry.format, raw, force_share=True)
                number = targets.index(entry.target)
                verdict = self.ledger.verify(raw, number, low=low, high=high)
                assert verdict.ok, (snapshot.name, entry, verdict.lost[:5])
                verdicts.append(verdict)
            cuts = [verdict.cut for verdict in verdicts if verdict.cut is not None]
            assert max(cut[0] for cut in cuts) <= min(cut[1] for cut in cuts)

    def _assert_sound(self, path: str, may_leak: bool) -> None:
        if header_format(path) == "raw":
            return
        check = subprocess.run(
            ["qemu-img", "check", "-f", "qcow2", path], capture_output=True, text=True
        )
        sound = {0, 3} if may_leak else {0}
        assert check.returncode in sound, (path, check.stdout, check.stderr)

    def _new_disk(self, target: str, format: str, relative: bool) -> Disk:
        base = self.images_folder / f"{target}.{format}"
        qemu_img("create", "-q", "-f", format, base, str(SIZE))
        if not relative:
            return Disk(target, str(base), format)
        overlay = self.images_folder / f"{target}-first.qcow2"
        link = ["-b", base.name, "-F", format]
        qemu_img("create", "-q", "-f", "qcow2", *link, overlay)
        return Disk(target, str(overlay), "qcow2")


def header_format(path: str) -> str:
    """The format of one of our images, by its magic."""
    with open(path, "rb") as image:
        return "qcow2" if image.read(4) == b"QFI\xfb" else "raw"
