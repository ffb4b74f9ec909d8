"""Calling the owner of a domain's definition: an executable, or the program itself.

An executable is never run through a shell. It gets one JSON object on its input, has a
session of its own and no descriptor of ours, and is ended with its process group when
it takes too long, or when the engine leaves the run.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from ..journal.errors import CommandFailed, Reason, Refused
from ..states.ports import DefinitionHook, HookCall
from .left_over_hooks import end_left_over, input_of

#: What a program gives to `Engine`: it returns when the definition is written.
TellOwner = Callable[[HookCall], Awaitable[None]]

#: How long a call may take, and its process to end when it is told to, in seconds.
SECONDS: Final = 60.0
_GRACE: Final = 2.0
#: How much of its error output is kept, and told, from its end (bytes, characters).
_KEPT: Final = 4096
_TOLD: Final = 300
#: No pipe holds more, in bytes.
_PIPE: Final = 1 << 20
_LINES: Final = 3


def as_json(call: HookCall) -> dict[str, Any]:
    """A call as an executable reads it."""
    found: dict[str, Any] = {
        "schema": 1,
        "call": call.call,
        "run": call.run,
        "machine": call.machine,
        "domain": call.domain,
        "disks": _disks(call.disks),
    }
    if call.planned:
        found["planned"] = _disks(call.planned)
    return found


def _disks(disks: tuple[Any, ...]) -> list[dict[str, str]]:
    return [
        {"target": disk.target, "source": disk.source, "format": disk.format}
        for disk in disks
    ]


def hook_obstacle(path: str) -> str | None:
    """Why a file cannot be a hook; None when it can. Only reads.

    Whoever may change the file, or put another one in its place, could run anything
    as the user of the engine.
    """
    if not path.startswith("/") or "\0" in path:
        return f"{path!r} is not an absolute path"
    try:
        found = os.stat(path)
        named = (path, os.path.realpath(path))
        folders = [os.stat(os.path.dirname(name)) for name in named]
    except OSError as error:
        return f"{path}: {os.strerror(error.errno or 0)}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a regular file"
    if not os.access(path, os.X_OK):
        return f"{path} is not executable"
    if found.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to another user"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"{path} can be written by others"
    for folder in folders:
        if folder.st_uid not in (0, os.geteuid()):
            return f"{path} is in a folder of another user"
        if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
            return f"{path} is in a folder that everybody can write to"
    return None


def hook_unusable(domain: str, why: str) -> Reason:
    """The reason for a hook that could not be called."""
    return Reason(
        "hook_unusable",
        f"The hook of {domain} cannot be run: {why}.",
        "A hook is an executable file that belongs to you or to root and that nobody"
        f" else can write to. Mend it, or name another one (`backfold domain hook"
        f" {domain} PATH`).",
    )


def usable_hook(port: DefinitionHook, domain: str, hook: str | None) -> str | None:
    """The absolute path of a hook. Raises `Refused` when it cannot be one."""
    if hook is None:
        return None
    path = os.path.abspath(hook)
    if (why := port.obstacle(path)) is not None:
        raise Refused([hook_unusable(domain, why)])
    return path


class ExecutableHook:
    """Runs the executable that is recorded with a domain."""

    is_program = False

    def __init__(self, seconds: float = SECONDS) -> None:
        """A call may take so many ``seconds``."""
        self._seconds = seconds

    def obstacle(self, hook: str) -> str | None:
        """Why this executable could not be called; see `hook_obstacle`."""
        return hook_obstacle(hook)

    async def call(self, call: HookCall) -> str:
        """Run it; returns the last line of its error output. Raises `CommandFailed`.

        What an engine that died left running of this run is ended first, so that no
        late write of it comes after this one.
        """
        assert call.hook is not None
        if call.again:
            await self.end_former(call.run)
        # In a thread: a file system may not answer, and a guest may stand still.
        why = await asyncio.to_thread(hook_obstacle, call.hook)
        if why is not None:
            raise CommandFailed(f"The hook cannot be run: {why}.")
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        tail = _Tail(reading)
        loop = asyncio.get_running_loop()
        try:
            try:
                process = await _started(call, call.hook, writing)
            finally:
                os.close(writing)
            loop.add_reader(reading, tail.read)
            status = await self._ended(process, call.hook, tail)
            tail.read()
        finally:
            loop.remove_reader(reading)
            os.close(reading)
        if status != 0:
            raise CommandFailed(
                f"The hook {call.hook} failed ({_status(status)}){tail.words()}."
            )
        return tail.last

    async def end_former(self, run: str) -> None:
        """Kill what a dead engine left running. Raises `CommandFailed`."""
        await asyncio.to_thread(end_left_over, run)

    async def _ended(
        self, process: asyncio.subprocess.Process, hook: str, tail: _Tail
    ) -> int:
        try:
            async with asyncio.timeout(self._seconds):
                return await process.wait()
        except TimeoutError:
            await _end(process, _GRACE)
            tail.read()
            raise CommandFailed(
                f"The hook {hook} took longer than {self._seconds:g} s and was"
                f" ended{tail.words()}."
            ) from None
        except asyncio.CancelledError:
            await _end(process, 0)
            raise


class ProgramHook:
    """Calls the program that uses the engine as a library, for every domain."""

    is_program = True

    def __init__(self, tell: TellOwner) -> None:
        """Call ``tell``; whatever it raises is a failure."""
        self._tell = tell

    def obstacle(self, hook: str) -> str | None:
        """There is nothing to look at."""
        return None

    async def call(self, call: HookCall) -> str:
        """Call the program, for `SECONDS` at most."""
        try:
            async with asyncio.timeout(SECONDS):
                await self._tell(call)
        except TimeoutError:
            raise CommandFailed(
                f"The program that owns the definition of {call.domain} took longer"
                f" than {SECONDS:g} s."
            ) from None
        return ""

    async def end_former(self, run: str) -> None:
        """Kill what an engine that runs executables left; see `ExecutableHook`."""
        await asyncio.to_thread(end_left_over, run)


class _Tail:
    """The end of what a process writes, whatever it writes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._kept = b""

    def read(self) -> None:
        """Take what is there; called by the loop when there is something."""
        with suppress(BlockingIOError):
            data = os.read(self._descriptor, _PIPE)
            if not data:
                asyncio.get_running_loop().remove_reader(self._descriptor)
            self._kept = (self._kept + data)[-_KEPT:]

    @property
    def lines(self) -> list[str]:
        """The last lines that are not empty, without what a terminal would obey."""
        text = self._kept.decode(errors="replace")
        shown = (
            "".join(c if c.isprintable() else " " for c in line).strip()
            for line in text.splitlines()
        )
        return [line[-_TOLD:] for line in shown if line][-_LINES:]

    @property
    def last(self) -> str:
        """The last line; empty when there is none."""
        return next(iter(reversed(self.lines)), "")

    def words(self) -> str:
        """What it said, to follow a sentence."""
        return f": {' / '.join(self.lines).rstrip('.')}" if self.lines else ""


async def _started(
    call: HookCall, hook: str, errors: int
) -> asyncio.subprocess.Process:
    """The process; its input is a file, so that it may leave it unread."""
    said = input_of(call.run)
    try:
        os.write(said, json.dumps(as_json(call)).encode() + b"\n")
        os.lseek(said, 0, os.SEEK_SET)
        return await asyncio.create_subprocess_exec(
            hook,
            stdin=said,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **_environment(call)},
            cwd="/",
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(
            f"The hook {hook} could not be started: {error.strerror}."
        ) from error
    finally:
        os.close(said)


def _environment(call: HookCall) -> Mapping[str, str]:
    return {
        "BACKFOLD_CALL": call.call,
        "BACKFOLD_DOMAIN": call.domain,
        "BACKFOLD_RUN": call.run,
    }


async def _end(process: asyncio.subprocess.Process, grace: float) -> None:
    """End a process with its group: asked to first, if there is time for that."""
    if grace:
        _signal(process.pid, signal.SIGTERM)
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await process.wait()
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with suppress(ValueError):
        return f"ended by {signal.Signals(-status).name}"
    return f"ended by signal {-status}"
