"""Use the engine from code that is not asynchronous.

`once` is for one order, `several` for some in a row, `SyncEngine` for a program with
threads that keeps an engine open.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Self, TypeVar

from backfold import Deletion, Engine

T = TypeVar("T")


def once(journal: str, domain: str, snapshot: str) -> Deletion:
    """Open the engine for one deletion. Ctrl-C leaves it at a safe point."""

    async def delete() -> Deletion:
        async with Engine(journal) as engine:
            return await engine.delete(domain, snapshot)

    return asyncio.run(delete())


def several(journal: str, domain: str) -> list[str]:
    """Keep one event loop, and one engine, for several orders."""
    engine = Engine(journal)
    with asyncio.Runner() as runner:
        runner.run(engine.__aenter__())
        try:
            snapshots = runner.run(engine.catalog.snapshots(domain))
            for snapshot in snapshots:
                runner.run(engine.delete(domain, snapshot.name))
        finally:
            runner.run(engine.__aexit__(None, None, None))
    return [snapshot.name for snapshot in snapshots]


class SyncEngine:
    """An engine on an event loop of its own, in a thread; any thread may call it.

    with SyncEngine(lambda: Engine(journal)) as backfold:
        deletion = backfold.call(lambda engine: engine.delete("web", "s1"))
    """

    def __init__(self, make: Callable[[], Engine]) -> None:
        """``make`` makes the engine, in the thread that it is used in."""
        self._make = make
        self._ready: Future[tuple[asyncio.AbstractEventLoop, Engine]] = Future()
        self._stop = asyncio.Event()
        self._calls: set[asyncio.Task[object]] = set()
        self._thread = threading.Thread(target=self._run, name="backfold")

    def __enter__(self) -> Self:
        """Open the engine. Raises what opening it raises."""
        self._thread.start()
        self._loop, self._engine = self._ready.result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait for what is going on, and close the engine."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def call(self, order: Callable[[Engine], Awaitable[T]]) -> T:
        """Do something with the engine, and wait for its result.

        When the wait is interrupted, as by Ctrl-C, the run is left at a safe point.
        """

        async def work() -> T:
            task = asyncio.current_task()
            assert task is not None
            self._calls.add(task)
            task.add_done_callback(self._ended)
            return await order(self._engine)

        future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # Who waits no longer need not hear of it.

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self) -> None:
        async with self._make() as engine:
            self._ready.set_result((asyncio.get_running_loop(), engine))
            await self._stop.wait()
            while self._calls:
                await asyncio.wait(self._calls)
