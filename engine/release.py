"""End a hold that a dead engine left behind, and nothing more.

It is the guard's task: by the recovery that everybody else would use, if the journal
can be had at once; else by what QEMU says alone, so that the guest need not wait for
a journal. Recovery does it too, for every open run before anything that takes long.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ..journal.errors import BackfoldError, Busy, Interrupted
from ..journal.locks import Locks
from ..states.unrecorded import end_unrecorded
from ..states.watch import Watch
from .deletion_run import DeletionRun
from .driver import Driver, World

#: How long the guest waits for the journal, in seconds.
JOURNAL_SECONDS: Final = 0.3
#: How long the former engine may take to let go of its locks, in seconds.
LOCK_SECONDS: Final = 5.0


@dataclass
class Release:
    """One hold that is to be ended.

    ``opened`` gives the journal's driver; told True, it opens the journal afresh.

    `end` may be called again when it has raised: a journal that could not be had
    may come back.
    """

    world: World
    opened: Callable[[bool], Awaitable[Driver]]
    watch: Watch
    #: When the guest was let go on without the journal (monotonic seconds).
    let_go_at: float | None = None

    def __post_init__(self) -> None:
        """The engine has died just now."""
        self.died_at = self.world.clock.monotonic()

    async def end(self) -> None:
        """End the hold, if it still stands; the rest of the run is `recover`'s.

        Under the image locks, which another engine would have to have: what that
        one has done is not undone, since the journal's hold is gone then. Before the
        decision the votes are released, after it the pivot is finished.
        """
        with await self._locks():
            try:
                async with asyncio.timeout(2 * JOURNAL_SECONDS):
                    runner = await self._claim(False, JOURNAL_SECONDS)
            except Exception:  # Whatever it is, the guest must not wait for it.
                await self._end_unrecorded()
                runner = await self._claim(True, None)
            if runner is not None:
                runner.ctx.let_go_at = self.let_go_at
                if runner.state == "pivot" and self.let_go_at is None:
                    # A decided hold whose guest runs: let go on before the death.
                    runner.ctx.let_go_at = self.died_at
                await end_hold(await self.opened(False), runner)

    async def _claim(self, afresh: bool, patience: float | None) -> DeletionRun | None:
        driver = await self.opened(afresh)
        if (await driver.row(self.watch.deletion)).hold is None:
            return None
        return await driver.claimed(self.watch.deletion, None, patience, is_guard=True)

    async def _end_unrecorded(self) -> None:
        world = self.world
        if await end_unrecorded(self.watch, world.hypervisor, world.images):
            self.let_go_at = world.clock.monotonic()

    async def _locks(self) -> Locks:
        locks = Locks(self.world.lock_directory)
        end = self.world.clock.monotonic() + LOCK_SECONDS
        while True:
            try:
                locks.acquire(self.watch.files())
                return locks
            except Busy:
                if self.world.clock.monotonic() >= end:
                    raise
            await self.world.clock.sleep(0.01)


async def end_hold(driver: Driver, runner: DeletionRun) -> None:
    """Drive a run just until its hold has ended. Raises as `Driver.drive` does."""
    began = runner.state

    def has_ended() -> bool:
        return runner.ctx.row.hold is None

    try:
        await driver.drive(
            runner, lambda: runner.run(lambda state: state != began), has_ended
        )
    except Interrupted:
        if not has_ended():
            raise


async def end_holds(driver: Driver, deletions: Iterable[str], patience: float) -> None:
    """End the holds of these deletions; what cannot be ended now is left as it is.

    Whoever recovers them next meets the same obstacle, and reports it.
    """
    for run in deletions:
        with suppress(BackfoldError):
            row = await driver.row(run)
            if row.hold is None:
                continue
            with await driver.locked(row, patience):
                if (await driver.row(run)).hold is not None:
                    await end_hold(driver, await driver.claimed(run, None))
