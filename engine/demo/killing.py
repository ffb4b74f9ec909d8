"""The parent's side of the kill: it starts the victim and waits for its death."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

from . import victim
from .points import KillPoint


class Failed(Exception):
    """The story cannot go on, and that is Backfold's fault; the message says why."""


class Victim:
    """A process that deletes a snapshot, and kills QEMU and itself at a point."""

    def __init__(self, process: asyncio.subprocess.Process, errors: Path) -> None:
        """Use `start`."""
        self._process = process
        self._errors = errors

    @classmethod
    async def start(
        cls, journal: Path, domain: str, snapshot: str, qemu: int, point: KillPoint
    ) -> Victim:
        """Start it; its log and what it says go beside the journal."""
        log, errors = journal.with_name("victim.log"), journal.with_name("victim.err")
        arguments = [journal, domain, snapshot, qemu, point, log]
        with errors.open("wb") as stream:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                victim.__name__,
                *map(str, arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stream,
            )
        return cls(process, errors)

    @property
    def pid(self) -> int:
        """Its process id, as the journal's rows have it."""
        return self._process.pid

    async def died(self, timeout: float) -> None:
        """Wait for its death. Raises `Failed` when it ended in another way."""
        try:
            async with asyncio.timeout(timeout):
                status = await self._process.wait()
        except TimeoutError:
            raise Failed(f"the deletion is still at work after {timeout} s") from None
        if status != -signal.SIGKILL:
            words = self._errors.read_text(errors="replace").strip()
            reason = words.splitlines()[-1] if words else f"status {status}"
            raise Failed(f"the deletion was not killed as planned: {reason}")

    async def end(self) -> None:
        """Kill it if it still runs."""
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
