"""Runs of one engine: locked, claimed, driven to an end or to a safe stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..journal import catalog, runs
from ..journal.errors import (
    BackfoldError,
    Busy,
    Interrupted,
    JournalError,
    JournalNewer,
)
from ..journal.locks import Locks
from ..journal.model import Domain, FileId
from ..journal.runs import Author, DeletionRow, ReversionRow, RunKey
from ..journal.store import Store
from ..states.context import Context, LeaveOpen, Stuck
from ..states.options import Options
from ..states.owner import Owner, OwnerFailed
from ..states.ports import Clock, DefinitionHook, Guard, Hypervisor, Images, Probe
from ..states.revert import ReversionContext
from ..states.take_snapshot import CreationContext
from .beacon import Beacon
from .creation_run import CreationRun
from .definitions import CatalogDefinitions
from .deletion_run import DeletionRun
from .event_stream import Broadcast
from .events import Event, OnEvent
from .planned_run import PlannedRun
from .planner import FoldPlanner
from .reader import Reader
from .results import Creation, Deletion, Reversion
from .reversion_run import ReversionRun
from .runner import Runner

T = TypeVar("T", Creation, Reversion)


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside the journal, through its ports; ``who`` signs the rows."""

    hypervisor: Hypervisor
    images: Images
    clock: Clock
    probe: Probe
    new_guard: Callable[[], Guard]
    managed: Callable[[], Mapping[FileId, str]]
    hook: DefinitionHook
    lock_directory: Path
    who: str


@dataclass(frozen=True, slots=True)
class Driver:
    """Drives runs of one journal in one world."""

    store: Store
    world: World
    broadcast: Broadcast = field(default_factory=Broadcast)

    @property
    def author(self) -> Author:
        """Who writes rows, now."""
        return Author(self.world.who, self.world.clock.now())

    @property
    def reader(self) -> Reader:
        """Reads facts."""
        world = self.world
        return Reader(
            self.store,
            world.hypervisor,
            world.images,
            world.managed,
            world.clock.boot_id,
            world.hook,
        )

    @property
    def planner(self) -> FoldPlanner:
        """Plans deletions."""
        return FoldPlanner(self.reader)

    async def row(self, run: str) -> DeletionRow:
        """A deletion as the journal has it."""
        return await self.store.read(lambda db: runs.deletion(db, run))

    def new_locks(self) -> Locks:
        """Locks in this host's directory, none taken yet."""
        return Locks(self.world.lock_directory)

    def identities(self, paths: Collection[str]) -> list[FileId]:
        """The files behind these paths, without those that are missing."""
        found = [self.world.images.identify(path) for path in paths]
        return [file for file in found if file is not None]

    async def images_of_reversion(self, row: ReversionRow) -> list[FileId]:
        """The files that nobody else may work on during an open reversion."""
        domain = await self.store.read(lambda db: catalog.domain(db, row.domain))
        paths = {disk.source for disk in domain.disks}
        for disk in row.plan.disks:
            fence = self.world.images.fence_name(disk.former.path, row.id)
            paths |= {disk.former.path, fence}
            paths |= {disk.overlay.frozen.path, disk.overlay.overlay}
        return self.identities(paths)

    async def locked(self, row: DeletionRow, patience: float) -> Locks:
        """The locks of an open deletion. Raises `Busy` after ``patience`` seconds.

        It waits because a guard may be ending a hold right now.
        """
        domain = await self.store.read(lambda db: catalog.domain(db, row.domain))
        files = set(self.identities([disk.source for disk in domain.disks]))
        for fold in row.plan.folds if row.plan is not None else ():
            fence = self.world.images.fence_name(fold.top.path, row.id)
            layers = [image.path for image in fold.layers]
            files |= set(self.identities([*layers, fence]))
        for memory in row.plan.memories if row.plan is not None else ():
            fence = self.world.images.fence_name(memory.path, row.id)
            files |= set(self.identities([memory.path, fence]))
        locks = self.new_locks()
        end = self.world.clock.monotonic() + patience
        while True:
            try:
                locks.acquire(files)
                return locks
            except Busy:
                if self.world.clock.monotonic() >= end:
                    raise
            await self.world.clock.sleep(0.05)

    async def claimed(
        self,
        run: str,
        on_event: OnEvent | None,
        patience: float | None = None,
        *,
        is_guard: bool = False,
    ) -> DeletionRun:
        """Take an open deletion over; orders of its former engine are refused.

        ``patience`` bounds the wait for other users of the journal, in seconds.
        """
        key = await self.store.write(
            lambda db: runs.claim(db, "deletion", run, self.author, is_guard=is_guard),
            patience,
        )
        return await self.deletion_run(key, on_event)

    async def deletion_run(self, key: RunKey, on_event: OnEvent | None) -> DeletionRun:
        """A runner that stands where the journal says."""
        world = self.world
        row = await self.row(key.id)
        if row.has_foreign_plan:
            raise JournalNewer(
                f"The plan of deletion {row.id} was stored by another version.",
                data="Nothing was changed; the deletion stays open.",
                remedy="Recover it with the Backfold version that began it.",
            )
        domain = await self.store.read(lambda db: catalog.domain(db, row.domain))
        runner = DeletionRun(
            key,
            self.store,
            world.clock,
            world.probe,
            world.who,
            self._heard(on_event),
        )
        runner.ctx = Context(
            key=key,
            row=row,
            options=Options(**{**row.options, "image_folders": _folders(row)}),
            monitor=domain.monitor,
            hypervisor=world.hypervisor,
            images=world.images,
            clock=world.clock,
            definitions=CatalogDefinitions(),
            planner=self.planner,
            guard=world.new_guard(),
            owner=await self._owner(runner, domain),
            effects=runner,
            read=self.store.read,
            who=world.who,
            interrupted=lambda: False,
        )
        runner.ctx.owner.checkpoint = runner.ctx.checkpoint
        await runner.refresh()
        return runner

    async def drive(
        self,
        runner: DeletionRun,
        work: Callable[[], Awaitable[Any]],
        enough: Callable[[], bool] = lambda: False,
    ) -> Deletion:
        """Run to an end, or to a safe stop.

        That is when the caller's await is cancelled, or ``enough`` has been done.
        The work itself is never cancelled: it looks for the caller's wish at its
        safe points, so that no hold and no decision is torn. Raises `Interrupted`
        when the run stays open, `Refused` when it was refused.
        """
        leaving = asyncio.Event()
        runner.ctx.interrupted = lambda: leaving.is_set() or enough()
        try:
            with Beacon(self.world.lock_directory, runner.key.id) as runner.beacon:
                await _to_the_end(work(), leaving.set)
        except LeaveOpen:
            stopped = "It was interrupted, and left at a safe point."
            safe = "The guest runs as before; nothing is lost."
            if leaving.is_set():
                await runner.left_open(stopped, safe, "")
            raise await self._interrupted(runner, stopped, safe, "") from None
        except (Stuck, JournalError) as error:
            if isinstance(error, Stuck) and runner.ctx.row.hold is None:
                await runner.left_open(error.what, error.data, error.remedy)
            raise await self._interrupted(
                runner, error.what, error.data, error.remedy
            ) from error
        finally:
            await runner.ctx.disconnect()
            if runner.ctx.row.hold is None:
                await runner.ctx.guard.dismiss()
            else:
                await runner.ctx.guard.take_over()
            await runner.ctx.owner.close()
        if runner.refusal is not None and runner.state == "refused":
            raise runner.refusal
        return Deletion.of(await self.row(runner.key.id))

    async def finish_creation(
        self, key: RunKey, resumed: bool, on_event: OnEvent | None
    ) -> Creation:
        """Drive a creation to its end. Raises `Interrupted` when it stays open."""
        world = self.world
        row = await self.store.read(lambda db: runs.creation(db, key.id))
        domain = await self.store.read(lambda db: catalog.domain(db, row.domain))
        runner = CreationRun(
            key,
            self.store,
            world.clock,
            world.probe,
            world.who,
            self._heard(on_event),
        )
        runner.ctx = CreationContext(
            key=key,
            row=row,
            monitor=domain.monitor,
            hypervisor=world.hypervisor,
            images=world.images,
            clock=world.clock,
            owner=await self._owner(runner, domain),
            effects=runner,
            read=self.store.read,
            resumed=resumed,
        )
        return await self._to_its_end(
            runner, resumed, lambda: Creation.of(runner.ctx.row)
        )

    async def finish_reversion(
        self, key: RunKey, resumed: bool, on_event: OnEvent | None
    ) -> Reversion:
        """Drive a reversion to its end. Raises `Interrupted` when it stays open."""
        world = self.world
        row = await self.store.read(lambda db: runs.reversion(db, key.id))
        domain = await self.store.read(lambda db: catalog.domain(db, row.domain))
        runner = ReversionRun(
            key,
            self.store,
            world.clock,
            world.probe,
            world.who,
            self._heard(on_event),
        )
        runner.ctx = ReversionContext(
            key=key,
            row=row,
            monitor=domain.monitor,
            hypervisor=world.hypervisor,
            images=world.images,
            owner=await self._owner(runner, domain),
            effects=runner,
            read=self.store.read,
            resumed=resumed,
        )
        return await self._to_its_end(
            runner, resumed, lambda: Reversion.of(runner.ctx.row)
        )

    async def _owner(self, runner: Runner, domain: Domain) -> Owner:
        """The owner of the definition, as the journal has it now."""
        owner = Owner(
            self.world.hook,
            runner.key,
            domain,
            self.store.read,
            self.world.clock,
            runner,
        )
        await owner.refresh()
        return owner

    async def _to_its_end(
        self, runner: PlannedRun[Any], resumed: bool, record: Callable[[], T]
    ) -> T:
        """Run to a final state; a caller that is cancelled waits for it, too.

        A hook that fails is not called again then.
        """
        await runner.refresh()
        if not resumed:
            runner.tell_state({})
        leaving = asyncio.Event()

        async def looked() -> None:
            if leaving.is_set():
                raise OwnerFailed("The hook failed, and nobody waits for it any more.")

        runner.ctx.owner.checkpoint = looked
        try:
            await _to_the_end(runner.run(), leaving.set)
        except Stuck as error:
            await runner.left_open(error.what, error.data, error.remedy)
            raise Interrupted(
                record(), error.what, data=error.data, remedy=error.remedy
            ) from error
        finally:
            await runner.disconnect()
            await runner.ctx.owner.close()
        if leaving.is_set():
            raise asyncio.CancelledError
        return record()

    def _heard(self, on_event: OnEvent | None) -> OnEvent:
        """Who hears of a run: every stream, then a listener, which may fail."""

        def heard(event: Event) -> None:
            self.broadcast.tell(event)
            if on_event is not None:
                on_event(event)

        return heard

    async def _interrupted(
        self, runner: DeletionRun, what: str, data: str, remedy: str
    ) -> Interrupted:
        try:
            row = await self.row(runner.key.id)
        except BackfoldError:
            row = runner.ctx.row
        return Interrupted(
            Deletion.of(row),
            what,
            data=data,
            remedy=remedy or f"Run `backfold recover {row.id}`.",
        )


async def _to_the_end(work: Awaitable[Any], leave: Callable[[], object]) -> None:
    """Wait for ``work``, however often the caller is cancelled meanwhile.

    Then ``leave`` is called, for the work to see; it is never cancelled itself,
    unless the event loop is closed under it.
    """
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            leave()
    task.result()


def _folders(row: DeletionRow) -> tuple[str, ...]:
    """JSON has no tuples."""
    return tuple(row.options.get("image_folders", ()))
