"""A process that works on a domain and is killed at one moment of one step.

    python victim.py JOURNAL ORDER SNAPSHOT POINT KILLS

ORDER is ``delete``, ``create``, ``revert`` or ``recover``; POINT is
``state.step.moment``; KILLS are pids, comma separated: ``self`` for this process,
``children`` for those that it has started, as the guard, and ``helper`` for the helper
that the journal knows.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import sys

import psutil

from backfold.engine.api import Engine


class Killer:
    """A probe that kills at its moment."""

    def __init__(self, journal: str, point: str, kills: str) -> None:
        """See the module."""
        self._journal = journal
        self._point = tuple(point.split("."))
        self._kills = kills.split(",")

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Kill everything on the list, this process last."""
        if (state, step, moment) != self._point or machine == "fold":
            return
        print("reached", flush=True)
        for name in self._kills:
            for pid in self._pids(name):
                os.kill(pid, signal.SIGKILL)
        if "self" in self._kills:
            os.kill(os.getpid(), signal.SIGKILL)

    def _pids(self, name: str) -> list[int]:
        if name == "self":
            return []
        if name == "children":
            return [child.pid for child in psutil.Process().children()]
        if name != "helper":
            return [int(name)]
        rows = sqlite3.connect(self._journal).execute(
            "select helper from deletions where helper is not null"
        )
        pids = [json.loads(row[0])["pid"] for row in rows]
        return [pid for pid in pids if pid is not None]


async def main(journal: str, order: str, snapshot: str, point: str, kills: str) -> None:
    """Do what was ordered, until the moment comes."""
    async with Engine(journal, probe=Killer(journal, point, kills)) as engine:
        if order == "create":
            await engine.create_snapshot("web", snapshot)
        elif order == "revert":
            await engine.revert("web", snapshot, discard=True)
        elif order == "recover":
            await engine.recover()
        else:
            await engine.delete(
                "web", snapshot, strategy="commit", max_downtime_ms=5000
            )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
