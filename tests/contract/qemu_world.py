"""Images and machines of the contract tests, on real QEMU."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backfold.engine.helper import QemuHypervisor
from backfold.engine.qmp.monitor import Monitor
from backfold.engine.qmp.session import QmpSession
from backfold.journal.model import FileId, FileStamp, FoldPlan, Image, OverlayPlan
from backfold.states.ports import HelperRecord, Hypervisor, Job, LiveChain, Session

SIZE = 4 << 20
BLOCK = 64 << 10


def run(*command: str | Path, cwd: str | Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


def file_id(path: str | Path) -> FileId:
    status = os.stat(path)
    return FileId(status.st_dev, status.st_ino)


class QemuWorld:
    """What a contract test needs besides the port itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        # Socket paths must be short, whatever pytest's folder is called.
        self._sockets = tempfile.TemporaryDirectory(prefix="bf-")
        self.sockets = Path(self._sockets.name)

    def hypervisor(self) -> Hypervisor:
        return QemuHypervisor(greeting_seconds=1.0)

    def chain(self, *names: str, format: str = "qcow2") -> list[Image]:
        """Images on top of each other, the first is the base; returned top first.

        Each image overwrites a block of the one below, has one that nobody else has,
        and one that the next overwrites.
        """
        images: list[Image] = []
        for depth, name in enumerate(names):
            path = self.folder / name
            kind = "qcow2" if images else format
            command: list[str | Path] = ["qemu-img", "create", "-q", "-f", kind]
            if images:
                command += ["-b", images[-1].path, "-F", images[-1].format]
            run(*command, path, str(SIZE))
            image = Image(str(path), kind, file_id(path), SIZE)
            self.write(image, 10 + depth, 2 * depth, 3)
            images.append(image)
        return images[::-1]

    def write(self, image: Image, pattern: int, block: int, blocks: int) -> None:
        command = f"write -q -P {pattern} {block * BLOCK} {blocks * BLOCK}"
        run("qemu-io", "-f", image.format, "-c", command, image.path)

    def write_block(self, image: Image, block: int) -> None:
        """One block, written while nobody else has the image."""
        self.write(image, 99, block, 1)

    def add_bitmap(self, image: Image, name: str, *, recording: bool = True) -> None:
        """A persistent bitmap that has noted nothing yet."""
        mode = () if recording else ("--disable",)
        run("qemu-img", "bitmap", "--add", *mode, image.path, name)

    def content(self, image: Image) -> bytes:
        """What a guest would see in this image, read with nobody else around."""
        raw = self.folder / "content.raw"
        run("qemu-img", "convert", "-f", image.format, "-O", "raw", image.path, raw)
        return raw.read_bytes()

    def link(self, image: Image) -> str | None:
        """The backing file name in an image's header, verbatim."""
        answer = run("qemu-img", "info", "-U", "--output=json", image.path)
        name = json.loads(answer).get("backing-filename")
        return None if name is None else str(name)

    def relink(self, image: Image, below: Image) -> None:
        """Change the link in a header by hand, and nothing else."""
        link = ("-b", below.path, "-F", below.format)
        run("qemu-img", "rebase", "-u", "-f", "qcow2", *link, image.path)

    def remove(self, path: str) -> None:
        """Unlink an image, whoever has it open."""
        os.unlink(path)

    def file_id(self, path: str) -> FileId:
        """Device and inode of an image."""
        return file_id(path)

    def overlay(self, image: Image) -> OverlayPlan:
        """A new empty overlay, as a plan for a snapshot names it."""
        path = f"{image.path}.s1"
        below = ("-b", image.path, "-F", "qcow2")
        run("qemu-img", "create", "-q", "-f", "qcow2", *below, path)
        return OverlayPlan("vda", image, path, image.path, FileStamp(0, 0))

    def machine(self, *options: str, cwd: Path | None = None) -> str:
        """Start a paused machine without a guest; returns its monitor."""
        monitor = self.sockets / f"{len(self._processes)}.sock"
        process = subprocess.Popen(
            [
                "qemu-system-x86_64",
                *("-machine", "pc", "-m", "32", "-S", "-display", "none"),
                *("-nodefaults", "-no-user-config"),
                *("-qmp", f"unix:{monitor},server=on,wait=off"),
                *options,
            ],
            cwd=cwd or "/",
        )
        self._processes.append(process)
        _await_greeting(process, str(monitor))
        return str(monitor)

    def domain(self, *disks: Sequence[Image]) -> str:
        """A paused machine with one disk per chain."""
        options: list[str] = []
        for number, chain in enumerate(disks):
            options += ["-drive", drive(chain[0].path, f"d{number}")]
            options += ["-device", f"virtio-blk-pci,drive=d{number}"]
        return self.machine(*options)

    def kill(self, record: HelperRecord) -> None:
        """SIGKILL, and wait until every thread has let go of the images."""
        handle = os.pidfd_open(record.pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            assert select.select([handle], [], [], 20)[0]
        finally:
            os.close(handle)

    async def soft_cancel(self, session: Session, job: str) -> None:
        """What another client may do: it ends a READY job without any error."""
        await raw(session).execute("block-job-cancel", device=job)

    def stop_machines(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def close(self) -> None:
        self.stop_machines()
        self._sockets.cleanup()


def _await_greeting(process: subprocess.Popen[bytes], monitor: str) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        assert process.poll() is None, "QEMU did not start"
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as dialled:
            dialled.settimeout(1)
            dialled.connect(monitor)
            if dialled.recv(1):
                return
        time.sleep(0.01)
    raise AssertionError("QEMU did not greet")


def raw(session: Session) -> Monitor:
    """The monitor behind a session, for what another client would do."""
    assert isinstance(session, QmpSession)
    return session._monitor


def drive(path: str | Path, name: str, *, more: str = "") -> str:
    return f"file={path},format=qcow2,if=none,id={name}{more}"


def fold_plan(
    chain: Sequence[Image],
    top: Image,
    base: Image,
    *,
    link: str | None = None,
    job: str = "backfold-test-0",
    strategy: str = "commit",
) -> FoldPlan:
    """Of the layers from ``top`` to ``base``; without ``link`` links are absolute."""
    first, last = chain.index(top), chain.index(base)
    under = chain[last + 1] if last + 1 < len(chain) else None
    new = under if strategy == "stream" else base if first else None
    return FoldPlan(
        target="vda",
        job=job,
        strategy=strategy,
        chain=tuple(chain),
        first=first,
        last=last,
        link=None if new is None else link or new.path,
        copy_bytes=0,
        space_bytes=0,
        base_stamp=FileStamp(0, 0),
    )


async def reach(session: Session, job: str, *wanted: str) -> Job:
    """Wait until a job has one of these states."""
    async with asyncio.timeout(10):
        while True:
            found = (await session.jobs())[job]
            if found.status in wanted:
                return found
            await session.wait(0.05)


async def only_chain(
    session: Session, aliases: Mapping[str, str] | None = None
) -> LiveChain:
    (chain,) = await session.chains(aliases or {})
    return chain


@contextlib.contextmanager
def closing_world(folder: Path) -> Iterator[QemuWorld]:
    world = QemuWorld(folder)
    try:
        yield world
    finally:
        world.close()


def files(chain: LiveChain) -> list[FileId | None]:
    return [image.file for image in chain.images]
