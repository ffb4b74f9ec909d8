"""One QMP connection to one QEMU: commands that end, and events that wake.

`qemu.qmp` does the protocol. What is added here is what a deletion needs: every
command has a time-out, an end of the connection is always noticed, and each error
says whether anybody can know what happened.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from typing import Any

from qemu.qmp import (
    ConnectError,
    EventListener,
    ExecInterruptedError,
    ExecuteError,
    Message,
    QMPClient,
    QMPError,
    Runstate,
    StateError,
)

from ...journal.errors import (
    CommandFailed,
    Disconnected,
    MonitorBusy,
    OutcomeUnknown,
)

#: Seconds that a command may take before its outcome is called unknown.
COMMAND_SECONDS = 10.0
#: Seconds that a monitor has to greet before it is called busy.
GREETING_SECONDS = 5.0
#: Seconds after which one connects anew. A QEMU that is just starting sometimes
#: accepts a connection and never greets on it (one in 600); it serves the next.
ATTEMPT_SECONDS = 2.0
#: Seconds for an orderly good-bye; after that the connection is cut.
CLOSE_SECONDS = 5.0
#: The longest path that fits into a socket address.
LONGEST_SOCKET_PATH = 107

_ASK_AGAIN = "It may have taken effect or not."

# The library logs at ERROR what it raises anyway (a missing socket, for example).
_LOG_NAME = "backfold"
logging.getLogger("qemu.qmp.protocol").getChild(_LOG_NAME).addFilter(
    lambda record: record.levelno < logging.ERROR
)


class _Bell(EventListener):
    """A listener that only rings: no queue and no history that could grow."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = asyncio.Event()

    async def put(self, event: Message) -> None:
        self.rung.set()


class Monitor:
    """One connection to a QEMU. QEMU serves one at a time, so close it soon."""

    def __init__(self, path: str, client: QMPClient, peer_pid: int | None) -> None:
        """Use `connect` instead."""
        self.path = path
        #: The process that listens, as the kernel knows it.
        self.peer_pid = peer_pid
        self._client = client
        self._bell = _Bell()
        client.register_listener(self._bell)
        client.events.event_filter = lambda event: False
        client.events.clear()
        self._watch = asyncio.create_task(self._ring_at_the_end())

    @classmethod
    async def connect(
        cls, path: str, within: float = GREETING_SECONDS
    ) -> Monitor | None:
        """Connect and negotiate.

        Returns:
            The monitor, or None when nobody listens: no socket, or a stale one.

        Raises:
            MonitorBusy: When it accepts but does not greet in time.
            CommandFailed: When it cannot be used, for want of permission or because
                it is no QMP monitor.
        """
        try:
            async with asyncio.timeout(within):
                while True:
                    try:
                        async with asyncio.timeout(ATTEMPT_SECONDS):
                            answer = await _attempt(path)
                    except TimeoutError:
                        continue
                    if answer is None:
                        return None
                    if isinstance(answer, tuple):
                        return cls(path, *answer)
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise MonitorBusy(
                f"the monitor {path} accepts connections but does not greet",
                remedy="Close the other connection to this monitor, or give QEMU a "
                "second -qmp socket for Backfold.",
            ) from None

    async def execute(
        self, command: str, /, *, within: float = COMMAND_SECONDS, **arguments: Any
    ) -> Any:
        """Execute a command; ``job_id`` is sent as ``job-id``.

        Raises:
            OutcomeUnknown: When there is no answer in time.
            Disconnected: When the connection has ended, or ends before the answer.
            CommandFailed: When QEMU says no.
        """
        message = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            async with asyncio.timeout(within):
                return await self._client.execute(command, message)
        except TimeoutError:
            self._check_alive(command)
            raise OutcomeUnknown(
                f"{command}: no answer from {self.path} within {within:g} s",
                data=_ASK_AGAIN,
            ) from None
        except (ExecInterruptedError, StateError, EOFError, OSError):
            raise self._disconnected(command) from None
        except ExecuteError as error:
            # What QEMU says, in its words; most errors are of one class.
            kind = error.error_class
            named = "" if kind == "GenericError" else f" ({kind})"
            raise CommandFailed(f"{command}: {error}{named}") from error
        except QMPError as error:
            raise OutcomeUnknown(
                f"{command}: {self.path} answered with something that is no answer: "
                f"{error}",
                data=_ASK_AGAIN,
            ) from error

    async def human(self, line: str, *, within: float = COMMAND_SECONDS) -> str:
        """Execute a command of the human monitor; returns what it printed."""
        answer = await self.execute(
            "human-monitor-command", within=within, command_line=line
        )
        return str(answer).strip()

    async def wait(self, seconds: float) -> None:
        """Return at the next event, or after that time.

        An event that came since the last wait counts, so that none is missed.

        Raises:
            Disconnected: When the connection has ended.
        """
        self._check_alive("wait")
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._bell.rung.wait()
        except TimeoutError:
            pass
        self._bell.rung.clear()
        self._check_alive("wait")

    async def wait_closed(self, seconds: float) -> bool:
        """Wait until QEMU has ended the connection; False when it has not in time."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._watch)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Leave; never raises for what is wrong with the connection."""
        self._watch.cancel()
        if self._client.runstate is Runstate.IDLE:
            return
        writer = self._client._writer
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.disconnect()
        except TimeoutError:
            if writer is not None:
                writer.transport.abort()
        except (QMPError, EOFError, OSError):
            pass

    async def _ring_at_the_end(self) -> None:
        """Wake a waiter when the connection ends: no event comes then."""
        while self._client.runstate is Runstate.RUNNING:
            await self._client.runstate_changed()
        self._bell.rung.set()

    def _check_alive(self, command: str) -> None:
        if self._client.runstate is not Runstate.RUNNING:
            raise self._disconnected(command)

    def _disconnected(self, command: str) -> Disconnected:
        return Disconnected(
            f"{command}: the connection to {self.path} has ended", data=_ASK_AGAIN
        )


async def _attempt(path: str) -> tuple[QMPClient, int | None] | str | None:
    """One attempt; a string says why to try again, None that nobody listens."""
    dialled = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    done = False
    try:
        dialled.setblocking(False)
        _dial(dialled, path)
        peer_pid = _peer_pid(dialled)
        client = QMPClient(_LOG_NAME)
        await client.connect(dialled)
        done = True
        return client, peer_pid
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except BlockingIOError:
        return "its queue of connections is full"
    except ConnectError as error:
        if isinstance(error.exc, (EOFError, ConnectionError)):
            return "it hung up"
        raise CommandFailed(f"{path} is not a QMP monitor: {error.exc}") from error
    except OSError as error:
        raise CommandFailed(
            f"cannot connect to the monitor {path}: {error.strerror or error}"
        ) from error
    finally:
        if not done:
            dialled.close()


def _dial(dialled: socket.socket, path: str) -> None:
    """Connect at once or fail; a longer path than fits goes through its directory."""
    if len(os.fsencode(path)) <= LONGEST_SOCKET_PATH:
        dialled.connect(path)
        return
    folder, name = os.path.split(path)
    handle = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        dialled.connect(f"/proc/self/fd/{handle}/{name}")
    finally:
        os.close(handle)


def _peer_pid(dialled: socket.socket) -> int | None:
    """The process that listens; None when it is not in our pid namespace."""
    layout = struct.Struct("3i")
    answer = dialled.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
    pid, _, _ = layout.unpack(answer)
    return pid or None
