"""The guard: a process that ends a hold when the engine dies in it.

It is started before the hold and tied to the engine by a pipe. The end of the pipe
without a word means that the engine is gone: then the guard ends the hold at once
(`engine.release`) and leaves the rest to `recover`. Before it says that it is ready
everything is imported and the journal is open, so that no time is lost then.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..journal.errors import BackfoldError, CommandFailed
from ..states.watch import Watch

#: How long the guard's process may take to start, in seconds.
START_TIMEOUT: Final = 20.0
_READY: Final = b"ready\n"
_DISMISSED: Final = b"dismissed"
#: How often the guard tries to end a hold, and how long it waits between, seconds.
_TRIES: Final = 40
_PAUSE: Final = 0.25


class GuardProcess:
    """Starts and dismisses the guard of one run."""

    def __init__(self, journal: Path, locks: Path) -> None:
        """Guard runs of this journal; ``locks`` is the host's lock directory."""
        self._places = (str(journal.absolute()), str(locks.absolute()))
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, watch: Watch) -> None:
        """Returns when the guard watches. Raises `CommandFailed` if it cannot.

        It is told all about the hold by its input, a line of JSON.

        It has a session of its own, so that a Ctrl-C at the engine's terminal does
        not reach it.
        """
        if self._process is not None:
            return
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            __name__,
            *self._places,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT):
                process.stdin.write(watch.to_json().encode() + b"\n")
                await process.stdin.drain()
                said = await process.stdout.readline()
        except (TimeoutError, ConnectionError):
            said = b""
        if said != _READY:
            process.kill()
            await process.wait()
            raise CommandFailed(
                "The guard process did not start.",
                remedy="Without it a guest could stay frozen if this process dies."
                f" Try `{sys.executable} -m {__name__}` by hand.",
            )
        self._process = process

    async def dismiss(self) -> None:
        """The hold is over: the guard may end."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        with suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(_DISMISSED)
            await process.stdin.drain()
            process.stdin.close()
        await process.wait()

    async def take_over(self) -> None:
        """Close the pipe without a word, as this engine's death would do."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()


async def watch_over(journal: str, locks: str) -> int:
    """Wait for the engine's word or its death; end the hold if it died."""
    from .api import Engine

    said = sys.stdin.buffer
    watch = Watch.from_json(said.readline())
    engine = Engine(journal, locks=Path(locks))
    with suppress(BackfoldError):  # It may come back, and need not to free a guest.
        await engine.__aenter__()
    os.write(1, _READY)
    if _DISMISSED in await asyncio.to_thread(said.read):
        return 0
    os.dup2(2, 1)  # Nobody reads the pipe any more, and a log line may follow.
    release = engine.release(watch)
    for _ in range(_TRIES):
        try:
            await release.end()
        except Exception:  # Whatever it is, the guest may still stand: try again.
            await asyncio.sleep(_PAUSE)
        else:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(asyncio.run(watch_over(*sys.argv[1:])))
