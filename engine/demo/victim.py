"""The engine that is killed: a process of its own, as `backfold delete` would be.

    python -m backfold.engine.demo.victim JOURNAL DOMAIN SNAPSHOT QEMU-PID POINT LOG

It deletes the snapshot, and at the point it kills QEMU and then itself: what a power
cut does to both, except that the page cache stays.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

from ..api import Engine
from .points import KillPoint
from .stage import log_to

#: How long the guest may stand still, in milliseconds: a busy host needs some time.
MAX_DOWNTIME_MS: Final = 2000


class KillBoth:
    """A probe that kills QEMU and this process when the point is reached."""

    def __init__(self, qemu: int, point: KillPoint) -> None:
        """``qemu`` is a pid that its parent has not reaped, so it is still that one."""
        self._qemu = qemu
        self._point = point
        self._times = 0

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Kill both, if this is the moment; then it does not return."""
        point = self._point
        if (machine, state, step, moment) != ("deletion", *point[:3]):
            return
        self._times += 1
        if self._times == point.nth:
            os.kill(self._qemu, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


async def delete(journal: str, domain: str, snapshot: str, probe: KillBoth) -> None:
    """Delete a snapshot while the probe looks on."""
    async with Engine(journal, probe=probe) as engine:
        # A commit, because it pivots: that is where a kill is worth looking at.
        await engine.delete(
            domain, snapshot, strategy="commit", max_downtime_ms=MAX_DOWNTIME_MS
        )


def main(arguments: list[str]) -> int:
    """Returns only when the point was not reached."""
    journal, domain, snapshot, pid, text, log = arguments
    point = KillPoint.parse(text)
    with log_to(Path(log)):
        asyncio.run(delete(journal, domain, snapshot, KillBoth(int(pid), point)))
    print(f"The deletion ended without passing {point}.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
