"""Images on a real file system, and a QEMU without a processor that has them open."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from backfold.engine.api import Engine
from backfold.engine.demo.guest import qemu_img
from backfold.journal.model import Disk
from backfold.states.ports import Probe
from real.scene import NoGuard, nobody_manages

from .model import Content
from .walk import BLOCKS

BLOCK: Final = 64 << 10
#: Magic, version, offset and length of the backing file name.
_START: Final = struct.Struct(">4sIQI")


class RealMachine:
    """One folder of images. The domain is on while its QEMU runs, without any guest."""

    def __init__(self, folder: Path, origins: Sequence[str]) -> None:
        """Make a disk of each origin: qcow2, raw, or qcow2 over a template."""
        self._folder = folder
        self._images = folder / "images"
        self._images.mkdir()
        self.templates = frozenset(
            self._template(number)
            for number, origin in enumerate(origins)
            if origin == "template"
        )
        self._before = self._sums()
        self.disks: Sequence[Disk] = [
            self._disk(n, origin) for n, origin in enumerate(origins)
        ]
        self.monitor = str(folder / "monitor")
        self._own_monitor = str(folder / "second")
        self._process: subprocess.Popen[bytes] | None = None

    def new_engine(self, probe: Probe | None = None) -> Engine:
        """An engine on the journal of this folder."""
        return Engine(
            self._folder / "journal" / "journal.db",
            probe=probe,
            guard=NoGuard(),
            managed=nobody_manages,
            locks=self._folder / "locks",
        )

    @property
    def is_on(self) -> bool:
        """Whether the domain's QEMU runs."""
        return self._process is not None

    def power_on(self, disks: Sequence[Disk]) -> None:
        """Start QEMU on these images."""
        monitors = []
        for path in (self.monitor, self._own_monitor):
            monitors += ["-qmp", f"unix:{path},server=on,wait=off"]
        drives = []
        for disk in disks:
            how = f"if=none,id={disk.target},file={disk.source},format={disk.format}"
            drives += ["-drive", how]
        command = ["qemu-system-x86_64", "-machine", "none", "-nodefaults"]
        with (self._folder / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "-display", "none", *monitors, *drives],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self._qmp("query-status")
            except (FileNotFoundError, ConnectionRefusedError):
                assert self._process.poll() is None and time.monotonic() < deadline
                time.sleep(0.01)
            else:
                return

    def power_off(self) -> None:
        """End QEMU in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def write(self, disk: Disk, changes: Mapping[int, int]) -> None:
        """Write through QEMU when it is on, else by qemu-io; zeroes as such."""
        commands = []
        for block, value in changes.items():
            how = f"-P {value}" if value else "-z"
            commands.append(f"write {how} {block * BLOCK} {BLOCK}")
        if self.is_on:
            for command in (*commands, "flush"):
                line = f'qemu-io {disk.target} "{command}"'
                said = self._qmp("human-monitor-command", {"command-line": line})
                assert "rror" not in said and "failed" not in said, said
            return
        wrong = _io(["-f", disk.format, disk.source], commands)
        assert wrong is None, wrong

    def wrong(self, expected: Sequence[tuple[str, str, Content]]) -> list[str]:
        """Read all of them in one go; again one by one when something is wrong."""
        found = [] if self._sums() == self._before else ["a template was changed"]
        if self._verify(expected) is None:
            return found
        each = [self._verify([one]) for one in expected]
        return found + [what for what in each if what is not None]

    def below(self, path: str, format: str) -> str | None:
        """From the header itself."""
        if format == "raw":
            return None
        with open(path, "rb") as file:
            magic, _, at, length = _START.unpack(file.read(_START.size))
            assert magic == b"QFI\xfb", path
            if at == 0:
                return None
            file.seek(at)
            name = os.fsdecode(file.read(length))
        return os.path.normpath(os.path.join(os.path.dirname(path), name))

    def files(self) -> set[str]:
        """Everything that is in the folder."""
        return {str(path) for path in self._images.iterdir()}

    def _verify(self, expected: Sequence[tuple[str, str, Content]]) -> str | None:
        commands = []
        share = "-U" if self.is_on else ""
        for path, format, content in expected:
            commands.append(f"open -r {share} -o driver={format} {path}")
            at = 0
            for value, blocks in groupby(content):
                length = len(list(blocks))
                commands.append(f"read -P {value} {at * BLOCK} {length * BLOCK}")
                at += length
            commands.append("close")
        said = _io([], commands)
        return None if said is None else f"{expected}: {said}"

    def _qmp(self, command: str, arguments: Mapping[str, str] | None = None) -> str:
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(60)
            one.connect(self._own_monitor)
            with one.makefile("rw") as talk:
                assert "QMP" in json.loads(talk.readline())
                for word, more in (("qmp_capabilities", None), (command, arguments)):
                    talk.write(json.dumps({"execute": word, "arguments": more or {}}))
                    talk.flush()
                    while "return" not in (said := json.loads(talk.readline())):
                        assert "error" not in said, said
        return str(said["return"])

    def _template(self, number: int) -> str:
        path = self._images / f"template{number}"
        qemu_img("create", "-q", "-f", "qcow2", path, str(BLOCKS * BLOCK))
        return str(path)

    def _disk(self, number: int, origin: str) -> Disk:
        target = f"vd{'abcdefgh'[number]}"
        path = self._images / target
        format = "raw" if origin == "raw" else "qcow2"
        based = ["-b", f"template{number}", "-F", "qcow2"]
        more = based if origin == "template" else []
        qemu_img("create", "-q", "-f", format, *more, path, str(BLOCKS * BLOCK))
        return Disk(target, str(path), format)

    def _sums(self) -> dict[str, str]:
        return {
            path: hashlib.sha256(Path(path).read_bytes()).hexdigest()
            for path in self.templates
        }


def _io(how: Sequence[str], commands: Sequence[str]) -> str | None:
    """Run qemu-io; what went wrong, if anything did."""
    words = [word for command in commands for word in ("-c", command)]
    done = subprocess.run(["qemu-io", *how, *words], capture_output=True, text=True)
    if done.returncode == 0 and not done.stderr and "failed" not in done.stdout:
        return None
    return f"{done.stdout} {done.stderr}"
