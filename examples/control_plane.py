"""A service that deletes snapshots of many domains, a few at a time.

    python control_plane.py --at-once 4 --port 8700

It finishes what was interrupted when it starts, and leaves what is going on at a safe
point when it is stopped. It takes orders as JSON lines on a port of this host:
``{"delete": ["web", "s1"]}`` answers when that is done, ``{"health": []}`` at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from backfold import (
    AlarmEvent,
    BackfoldError,
    DowntimeEvent,
    Engine,
    Event,
    Interrupted,
    Run,
    StateEvent,
    as_json,
)


class ControlPlane:
    """Orders wait for their domain, then for one of a few places."""

    def __init__(self, engine: Engine, at_once: int = 4) -> None:
        """Use an open engine; ``at_once`` bounds how many runs go on."""
        self.engine = engine
        self.outcomes: Counter[str] = Counter()
        self.states: dict[str, str] = {}
        self.downtime_ms: dict[str, float] = {}
        self.alarms: list[str] = []
        self._places = asyncio.Semaphore(at_once)
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._orders: set[asyncio.Task[Run]] = set()

    async def __aenter__(self) -> Self:
        """Begin with what an earlier life has left open."""
        self._watcher = asyncio.create_task(self._watch())
        for outlook in await self.engine.outlook():
            self._in_turn(outlook.domain, partial(self._finish, outlook.run))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave every run at a safe point; the next start finishes them."""
        for task in (*self._orders, self._watcher):
            task.cancel()
        await asyncio.gather(*self._orders, self._watcher, return_exceptions=True)

    def delete(self, domain: str, snapshot: str) -> asyncio.Task[Run]:
        """Order a deletion. The task may be awaited, or not."""
        return self._in_turn(domain, lambda: self.engine.delete(domain, snapshot))

    def health(self) -> dict[str, Any]:
        """For a probe or a dashboard; `healthy` is false when somebody should look."""
        return {
            "healthy": not self.alarms and not self.outcomes[Interrupted.code],
            "orders": len(self._orders),
            "states": self.states,
            "outcomes": dict(self.outcomes),
            "downtime_ms": self.downtime_ms,
            "alarms": self.alarms[-10:],
        }

    def _in_turn(
        self, domain: str, work: Callable[[], Awaitable[Run]]
    ) -> asyncio.Task[Run]:
        async def order() -> Run:
            async with self._turns[domain], self._places:
                return await work()

        task = asyncio.create_task(order())
        self._orders.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Run]) -> None:
        self._orders.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self.outcomes[task.result().state] += 1
        else:
            self.outcomes[getattr(error, "code", "bug")] += 1

    async def _finish(self, run: str) -> Run:
        (outcome,) = await self.engine.recover(run)
        if isinstance(outcome, BackfoldError):
            raise outcome
        return outcome

    async def _watch(self) -> None:
        async for event in self.engine.events():
            self._heard(event)

    def _heard(self, event: Event) -> None:
        if isinstance(event, StateEvent):
            self.states[event.domain] = f"{event.machine} {event.state}"
        elif isinstance(event, DowntimeEvent):
            self.downtime_ms[event.run] = event.downtime_ms
        elif isinstance(event, AlarmEvent):
            self.alarms.append(f"{event.at} {event.domain}: {event.what}")


async def answer(plane: ControlPlane, line: bytes) -> dict[str, Any]:
    """Do what a line asks for; errors are answers, too."""
    try:
        match json.loads(line):
            case {"delete": [str(domain), str(snapshot)]}:
                return as_json(await plane.delete(domain, snapshot))
            case {"health": []}:
                return plane.health()
    except BackfoldError as error:
        return {"error": as_json(error)}
    except ValueError:
        pass
    return {"error": {"code": "usage", "message": "not an order"}}


async def listen(plane: ControlPlane, port: int) -> asyncio.Server:
    """Take orders; use the server in ``async with``."""

    async def connected(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(await answer(plane, line)).encode() + b"\n")
                await writer.drain()
        finally:
            writer.close()

    return await asyncio.start_server(connected, "localhost", port)


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT; the handlers are ours, not the engine's."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with (
        Engine(options.journal) as engine,
        ControlPlane(engine, options.at_once) as plane,
        await listen(plane, options.port) as server,
    ):
        print(f"listening on port {server.sockets[0].getsockname()[1]}", flush=True)
        await stopped.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(description="Delete snapshots, as a service.")
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--journal", help="where it is if not in the usual place")
    asyncio.run(run(parser.parse_args(arguments)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
