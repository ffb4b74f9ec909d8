"""Helper processes, known again without a doubt: start time, boot, command line.

A pid alone names another process tomorrow. The start time is counted from the boot
(the time of day may be set), so it means something only together with the boot id.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

_TICKS = os.sysconf("SC_CLK_TCK")


def boot_id() -> str:
    """Names this boot of the host."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_time(pid: int) -> float | None:
    """Seconds from the boot to the start of a process; None when it has ended.

    A zombie has ended: it only waits for its parent to notice.
    """
    fields = _status(pid)
    if fields is None or fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19]) / _TICKS


def identity(pid: int | None) -> str | None:
    """Names a process for ever: boot, pid and start time; None when it has ended."""
    started = None if pid is None else start_time(pid)
    return None if started is None else f"{boot_id()}:{pid}@{started}"


def is_dying(pid: int, started: float) -> bool:
    """Whether a killed process is on its way out but may still hold its files.

    The kernel takes its memory first, and its command line with it; and the first
    thread may be a zombie long before the last one has let go.
    """
    fields = _status(pid)
    if fields is None or int(fields[19]) / _TICKS != started:
        return False
    if fields[0] in (b"Z", b"X"):
        return int(fields[17]) > 1
    return _command_line(pid) == b""


def _status(pid: int) -> list[bytes] | None:
    """The fields of ``/proc/PID/stat`` from the state on."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name in parentheses may itself hold spaces and parentheses.
            return file.read().rpartition(b")")[2].split() or None
    except OSError:
        return None


def is_qemu_with(pid: int, argument: str) -> bool:
    """Whether a process is a QEMU that was started with exactly this argument."""
    words = (_command_line(pid) or b"").split(b"\0")
    program = os.path.basename(words[0])
    return program.startswith(b"qemu-system-") and os.fsencode(argument) in words[1:]


def _command_line(pid: int) -> bytes | None:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return None


def find_qemu_with(argument: str) -> int | None:
    """The QEMU of this user that was started with exactly this argument."""
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            owner = os.stat(f"/proc/{name}").st_uid
        except OSError:
            continue
        if owner == os.geteuid() and is_qemu_with(int(name), argument):
            return int(name)
    return None


def reap(pid: int) -> None:
    """Collect a child that has ended; nothing happens when it is not ours."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass


@contextmanager
def held(pid: int) -> Iterator[int | None]:
    """A pidfd, which can never come to mean another process; None when it is gone."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield handle
    finally:
        os.close(handle)


async def ended(handle: int, seconds: float) -> bool:
    """Wait for the end of the process behind a pidfd."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(handle, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(handle)
    return True


def send(handle: int, number: signal.Signals) -> None:
    """Send a signal to the process behind a pidfd; it may have ended by now."""
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        pass
