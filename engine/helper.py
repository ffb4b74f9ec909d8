"""`Hypervisor` over QEMU: domains' monitors, and helpers of our own.

A helper is a paused QEMU without a machine. It opens the images of a domain that is
off, and outlives the engine: a job goes on, and the next engine finds it.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator

from ..journal.errors import CommandFailed, MonitorBusy, OutcomeUnknown, WorldError
from ..states.ports import HelperRecord
from . import helper_process
from .qmp.monitor import GREETING_SECONDS, LONGEST_SOCKET_PATH, Monitor
from .qmp.session import QmpSession

#: Seconds that a helper has to come up.
START_SECONDS = 20.0
#: Seconds for one connection while it comes up: QEMU sometimes accepts one in the
#: middle of its start and never greets on it. The next one it serves.
ATTEMPT_SECONDS = 0.5
#: Seconds that a helper has to end after `quit` (it may have much to flush).
QUIT_SECONDS = 60.0
#: Seconds that it has after each signal.
SIGNAL_SECONDS = 15.0
#: Seconds that a helper which lives may be out of reach: it is coming up or ending.
REACH_SECONDS = 5.0

_SOCKET = re.compile(r"([0-9a-f]{12})-[0-9a-f]{8}\.sock")

_HELPER_OPTIONS = (
    *("-machine", "none"),
    "-S",
    "-nodefaults",
    "-no-user-config",
    *("-display", "none"),
)


class QemuHypervisor:
    """Living QEMUs on this host."""

    def __init__(
        self,
        program: str = "qemu-system-x86_64",
        greeting_seconds: float = GREETING_SECONDS,
    ) -> None:
        """``program`` runs the helpers; ``greeting_seconds`` make a monitor busy."""
        self._program = program
        self._greeting_seconds = greeting_seconds

    async def attach(self, monitor: str) -> QmpSession | None:
        """Connect to a domain's monitor; None when nobody listens there.

        Raises:
            MonitorBusy: When it accepts but does not greet.
            CommandFailed: When it cannot be used at all.
        """
        connected = await Monitor.connect(monitor, self._greeting_seconds)
        return None if connected is None else QmpSession(connected)

    def helper_socket(self, run: str) -> str:
        """A new private socket path for a helper of this run.

        Raises:
            CommandFailed: When there is no directory that is only ours.
        """
        name = f"{run}-{secrets.token_hex(4)}.sock"
        obstacles = []
        for folder in _folders():
            path = f"{folder}/{name}"
            if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
                obstacles.append(f"{folder} is too long a path for a socket")
            elif obstacle := _make_private(folder):
                obstacles.append(obstacle)
            else:
                return path
        raise CommandFailed(
            f"no private directory for the helper's socket: {'; '.join(obstacles)}"
        )

    async def start_helper(self, socket: str) -> HelperRecord:
        """Start a paused QEMU that has opened nothing yet.

        Raises:
            CommandFailed: When QEMU is missing, ends at once or does not come up.
        """
        program = shutil.which(self._program)
        if program is None:
            raise CommandFailed(
                f"{self._program} is not installed",
                remedy="Install the Debian package qemu-system-x86.",
            )
        log = _log_path(socket)
        pid = _spawn([program, *_HELPER_OPTIONS, "-qmp", _listen_on(socket)], log)
        with helper_process.held(pid) as handle:
            assert handle is not None, "our own child cannot be reaped by another"
            try:
                return await self._await_greeting(socket, pid, log)
            except BaseException:
                # It has opened no image yet.
                helper_process.send(handle, signal.SIGKILL)
                await asyncio.shield(helper_process.ended(handle, SIGNAL_SECONDS))
                helper_process.reap(pid)
                _clear_away(socket)
                raise

    async def attach_helper(self, record: HelperRecord) -> QmpSession | None:
        """Connect to a helper; None when that very process is gone.

        A helper whose socket was removed from under it (a user's runtime directory
        goes at log-out) can never be reached again: it is ended, which closes its
        images in order, and counts as gone.

        Raises:
            MonitorBusy: When somebody else is connected to it.
            OutcomeUnknown: When it lives and does not listen.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + REACH_SECONDS
        while _is_alive(record):
            monitor = await Monitor.connect(record.socket, self._greeting_seconds)
            if monitor is not None:
                if monitor.peer_pid == record.pid:
                    return QmpSession(monitor, is_helper=True)
                await monitor.close()
            if loop.time() > deadline:
                if _is_there(record.socket):
                    raise OutcomeUnknown(
                        f"the helper {record.pid} lives but does not listen on "
                        f"{record.socket}"
                    )
                await self.end_helper(record.socket, record)
                return None
            await asyncio.sleep(0.02)
        await _bury(record)
        return None

    async def end_helper(self, socket: str, record: HelperRecord | None) -> None:
        """End the helper behind a socket, if it is ours and alive; wait for its end.

        Without a record (the engine died before it could note one) the process is
        found by the socket on its command line, which no other process has.

        Raises:
            OutcomeUnknown: When it does not end even when killed.
        """
        if record is None or not _is_alive(record):
            pid = helper_process.find_qemu_with(_listen_on(socket))
        else:
            pid = record.pid
        if pid is not None:
            with helper_process.held(pid) as handle:
                if handle is not None and _is_helper(pid, socket):
                    await self._end(socket, pid, handle)
            helper_process.reap(pid)
        if record is not None:
            await _bury(record)
        _clear_away(socket)

    async def _end(self, socket: str, pid: int, handle: int) -> None:
        """Ask, then tell, then force."""
        if await self._quit(socket, pid) and await helper_process.ended(
            handle, QUIT_SECONDS
        ):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            helper_process.send(handle, number)
            if await helper_process.ended(handle, SIGNAL_SECONDS):
                return
        raise OutcomeUnknown(f"the helper {pid} does not end")

    async def _quit(self, socket: str, pid: int) -> bool:
        """Whether it was asked over its monitor to end."""
        try:
            monitor = await Monitor.connect(socket, self._greeting_seconds)
        except (MonitorBusy, CommandFailed):
            return False
        if monitor is None:
            return False
        try:
            if monitor.peer_pid != pid:
                return False
            await QmpSession(monitor, is_helper=True).quit()
        except WorldError:
            return False
        finally:
            await monitor.close()
        return True

    async def _await_greeting(self, socket: str, pid: int, log: str) -> HelperRecord:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while (started := helper_process.start_time(pid)) is not None:
            try:
                monitor = await Monitor.connect(socket, ATTEMPT_SECONDS)
            except MonitorBusy:
                monitor = None
            if monitor is not None:
                peer = monitor.peer_pid
                await monitor.close()
                if peer != pid:
                    raise CommandFailed(f"{socket} belongs to the process {peer}")
                return HelperRecord(socket, pid, started, helper_process.boot_id())
            if loop.time() > deadline:
                raise CommandFailed(
                    f"{self._program} does not come up within {START_SECONDS:g} s"
                )
            await asyncio.sleep(0.005)
        raise CommandFailed(f"{self._program} ended at once: {_read(log)}")


def helper_sockets() -> Iterator[tuple[str, str]]:
    """Every helper's socket of this user, and the run that it is for. Only reads."""
    for folder in _folders():
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            found = _SOCKET.fullmatch(name)
            if found is not None:
                yield f"{folder}/{name}", found[1]


def helper_behind(socket: str) -> int | None:
    """The helper that was started with this socket; None when it is dead."""
    return helper_process.find_qemu_with(_listen_on(socket))


async def _bury(record: HelperRecord) -> None:
    """Wait until a killed process has let go of its files, and collect it."""
    with helper_process.held(record.pid) as handle:
        if handle is not None and helper_process.is_dying(
            record.pid, record.start_time
        ):
            await helper_process.ended(handle, SIGNAL_SECONDS)
    helper_process.reap(record.pid)


def _listen_on(socket: str) -> str:
    """The argument that marks a helper. QEMU wants commas doubled."""
    return f"unix:{socket.replace(',', ',,')},server=on,wait=off"


def _log_path(socket: str) -> str:
    return f"{socket}.log"


def _spawn(arguments: list[str], log: str) -> int:
    """Start a process that outlives us, in a session of its own."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        errors = os.open(log, flags, 0o600)
    except OSError as error:
        raise CommandFailed(f"cannot create {log}: {error.strerror}") from error
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        os.unlink(log)
        raise CommandFailed(f"cannot run {arguments[0]}: {error.strerror}") from error
    finally:
        os.close(errors)
    # It may outlive this object, so Popen must not warn: `reap` collects it.
    process.returncode = 0
    return process.pid


def _is_helper(pid: int, socket: str) -> bool:
    return helper_process.start_time(pid) is not None and helper_process.is_qemu_with(
        pid, _listen_on(socket)
    )


def _is_alive(record: HelperRecord) -> bool:
    """Whether that very process lives: not another one that got its pid."""
    return (
        record.boot_id == helper_process.boot_id()
        and helper_process.start_time(record.pid) == record.start_time
        and _is_helper(record.pid, record.socket)
    )


def _folders() -> list[str]:
    user = os.geteuid()
    folders = [f"/tmp/backfold-{user}"]
    if user == 0:
        folders.insert(0, "/run/backfold")
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folders.insert(0, f"{runtime}/backfold-{user}")
    return folders


def _make_private(folder: str) -> str | None:
    """Create a directory that only we can enter; says what stands in the way."""
    if not os.path.isabs(folder):
        return f"{folder} is not absolute"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        return f"{folder}: {error.strerror}"
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode):
        return f"{folder} is not a directory"
    if found.st_uid != os.geteuid():
        return f"{folder} belongs to somebody else"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return f"{folder} is open to others"
    return None


def _is_there(path: str) -> bool:
    return os.path.lexists(path)


def _read(log: str) -> str:
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return file.read(2000).strip() or "it said nothing"
    except OSError:
        return "it said nothing"


def _clear_away(socket: str) -> None:
    for path in (socket, _log_path(socket)):
        try:
            os.unlink(path)
        except OSError:
            pass
