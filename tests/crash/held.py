"""A process that deletes a snapshot and dies at one point of the hold.

    python held.py JOURNAL SNAPSHOT PLACES

PLACES are ``state.step.moment``, comma separated, in the order in which they come.
At each of them it prints ``reached`` and waits for a line; at the last one it then
prints the time (monotonic seconds) and kills itself.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time

import structlog

from backfold.engine.api import Engine


class Stops:
    """A probe that waits at each place for the test, and dies at the last."""

    def __init__(self, places: list[str]) -> None:
        """See the module."""
        self._places = places

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Wait, or wait and die, if this is the next place."""
        if machine != "deletion" or f"{state}.{step}.{moment}" != self._places[0]:
            return
        print("reached", flush=True)
        sys.stdin.readline()
        self._places.pop(0)
        if not self._places:
            print(time.monotonic(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)


async def main(journal: str, snapshot: str, places: str) -> None:
    """Delete, until the last place comes. The log goes out of the test's way."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    async with Engine(journal, probe=Stops(places.split(","))) as engine:
        await engine.delete("web", snapshot, strategy="commit", max_downtime_ms=20000)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
