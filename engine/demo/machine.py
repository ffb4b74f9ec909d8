"""A real QEMU with the writing guest, started and ended as an operator would do it."""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from .command import Bus, Disk, Style, qemu_command
from .guest import Ledger, boot_image

#: How long QEMU may take to start, to answer and to end, in seconds.
_PATIENCE = 30.0
#: Longest path of a Unix socket that every kernel takes, in bytes.
_SOCKET_PATH_MAX = 107


class MachineError(RuntimeError):
    """QEMU did not do what it was asked for; the message has its own words."""


class Machine:
    """One guest with its disks; it can be started again and again.

    As a context manager it is started, and killed at the end if it still runs.
    """

    def __init__(
        self,
        folder: Path,
        disks: Sequence[tuple[str, Path, str]],
        *,
        ledger: Ledger | None = None,
        style: Style = "drive",
        bus: Bus = "virtio",
        paused: bool = False,
        pause: int = 0,
        limit: int = 0,
        second_monitor: bool = True,
        extra_args: Sequence[str] = (),
    ) -> None:
        """Describe a machine; nothing is started yet.

        Args:
            folder: Where its sockets, logs, boot images and acknowledgements go.
            disks: Target, active image and format of each disk, in the guest's order.
            ledger: The books of this guest, if it has run as another machine before.
            style: How the disks are opened; see `Style`. The working directory of
                QEMU is the folder of the first disk.
            bus: What the disks are attached to.
            paused: Start with the guest stopped, as with `-S`.
            pause: Microseconds between two writes of the guest.
            limit: The guest halts after so many writes in a boot; 0 means never.
            second_monitor: Have another monitor for `qmp`, so that `monitor` is free.
            extra_args: More arguments for QEMU.
        """
        self.folder = folder.absolute()
        self.disks = list(disks)
        self.ledger = Ledger() if ledger is None else ledger
        self.style = style
        self.bus = bus
        self.paused = paused
        self.pause = pause
        self.limit = limit
        self.extra_args = list(extra_args)
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.folder / "qemu.log"
        self._short: tempfile.TemporaryDirectory[str] | None = None
        sockets = self.folder
        if len(os.fsencode(sockets / "monitor.sock")) > _SOCKET_PATH_MAX:
            self._short = tempfile.TemporaryDirectory(prefix="guest-")
            sockets = Path(self._short.name)
        #: The monitor for the operator and for Backfold.
        self.monitor = sockets / "monitor.sock"
        self._second = sockets / "second.sock" if second_monitor else None

    def __enter__(self) -> Self:
        """Start the machine."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill QEMU if it still runs, and reap it."""
        self.kill()
        if self._short is not None:
            self._short.cleanup()

    @property
    def pid(self) -> int:
        """The process of QEMU."""
        return self._running().pid

    def start(self) -> None:
        """Start QEMU and return when its monitors answer.

        The guest counts on beyond all its earlier writes. `disks` and the other
        attributes may be changed between two starts.

        Raises:
            MachineError: QEMU ended at once, or it runs already.
        """
        if self._process is not None and self.poll() is None:
            raise MachineError(f"QEMU runs already, as process {self.pid}")
        number = len(list(self.folder.glob("acknowledged-*.bin"))) + 1
        acknowledgements = self.folder / f"acknowledged-{number}.bin"
        acknowledgements.touch(exist_ok=False)
        boot = acknowledgements.with_suffix(".img")
        boot_image(
            boot,
            first_sequence=self.ledger.begin(acknowledgements, len(self.disks)),
            disks=len(self.disks),
            pause=self.pause,
            limit=self.limit,
        )
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command(acknowledgements, boot),
                cwd=self.disks[0][1].parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_for_monitor()
        except BaseException:
            self.kill()
            raise

    def poll(self) -> int | None:
        """Return the exit status of QEMU (negative: the signal), None if it runs."""
        return None if self._process is None else self._process.poll()

    def kill(self) -> None:
        """End QEMU with SIGKILL and reap it; nothing to do if it has ended."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def quit(self) -> None:
        """End QEMU in good order (SIGTERM does the same as `quit`) and reap it.

        Raises:
            subprocess.TimeoutExpired: QEMU hangs; it still runs.
        """
        process = self._running()
        process.terminate()
        process.wait(_PATIENCE)

    def acknowledged(self) -> int:
        """Return the last sequence number that the guest acknowledged, over all boots.

        It is what `Ledger.verify` takes as `low` and `high`.
        """
        return self.ledger.last_acknowledged()

    def wait_for_writes(self, count: int, timeout: float = _PATIENCE) -> int:
        """Wait until the guest has acknowledged so many more writes than now.

        Args:
            count: How many writes.
            timeout: Seconds to wait.

        Returns:
            The last acknowledged sequence number.

        Raises:
            TimeoutError: The guest did not write enough.
            MachineError: QEMU ended.
        """
        target = self.acknowledged() + count
        deadline = time.monotonic() + timeout
        while (now := self.acknowledged()) < target:
            self._running()
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the guest acknowledged {count - target + now} writes"
                    f" in {timeout} s instead of {count}"
                )
            time.sleep(0.005)
        return now

    def qmp(self, command: str, **arguments: Any) -> Any:
        """Run one QMP command on a connection of its own and return what it returns.

        It goes to the second monitor, if there is one.

        Raises:
            MachineError: QEMU refused the command.
            OSError: The monitor does not accept or does not answer in time.
        """
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(str(self._second or self.monitor))
            with connection.makefile("rw") as stream:
                stream.readline()  # The greeting.
                _execute(stream, "qmp_capabilities", {})
                return _execute(stream, command, arguments)

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the process of QEMU if it runs."""
        if self._process is None:
            raise MachineError("QEMU was not started")
        status = self._process.poll()
        if status is not None:
            words = self._log.read_text(errors="replace").strip()
            raise MachineError(f"QEMU has ended with status {status}: {words}")
        return self._process

    def _wait_for_monitor(self) -> None:
        """Return when QEMU answers a command."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self.qmp("query-status")
                return
            except OSError:
                self._running()
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.005)

    def _command(self, acknowledgements: Path, boot: Path) -> list[str]:
        """Return the command line of QEMU."""
        monitors = [path for path in (self.monitor, self._second) if path]
        disks = [Disk(target, path.absolute(), fmt) for target, path, fmt in self.disks]
        command = qemu_command(
            boot, acknowledgements, monitors, disks, self.style, self.bus
        )
        return command + (["-S"] if self.paused else []) + self.extra_args


def _execute(stream: TextIO, command: str, arguments: dict[str, Any]) -> Any:
    """Send a command, pass over the events and return the answer."""
    stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    stream.flush()
    for line in stream:
        answer = json.loads(line)
        if "return" in answer:
            return answer["return"]
        if "error" in answer:
            raise MachineError(f"{command}: {answer['error']['desc']}")
    raise ConnectionError(f"QEMU left without an answer to {command}")
