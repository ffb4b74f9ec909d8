"""`Engine`: the public API. Everything that the command line does goes through it."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from ..journal import catalog as catalog_rows
from ..journal import runs
from ..journal.catalog import Catalog
from ..journal.errors import (
    AlreadyDecided,
    BackfoldError,
    Busy,
    Interrupted,
    JournalError,
    Reason,
    Refused,
    RolledBack,
    UsageError,
)
from ..journal.locks import LOCK_DIRECTORY, Locks
from ..journal.model import Disk, Domain, FileId, Plan, Snapshot
from ..journal.runs import Author, CreationRow, DeletionRow, RunKey, TransitionRow
from ..journal.store import Store
from ..states.context import Context, LeaveOpen, Options, Stuck
from ..states.deletion import DELETION, UNDECIDED
from ..states.ports import Clock, Guard, Hypervisor, Images, Probe
from ..states.take_snapshot import CreationContext
from .clock import SystemClock
from .creation_run import CreationRun, plan_creation, valid_name
from .definitions import CatalogDefinitions
from .deletion_run import DeletionRun
from .events import OnEvent, StateEvent
from .facts import Reader
from .guard import GuardProcess
from .helper import QemuHypervisor
from .images import QemuImages
from .libvirt import managed_images
from .planner import FoldPlanner
from .results import Creation, Deletion, DomainDisk
from .seeds import SEEDS
from .truth import boot_sources


class NoProbe:
    """Nobody watches the steps."""

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Do nothing."""


def default_journal() -> Path:
    """Where the journal is when nobody says: see the design's §7."""
    if named := os.environ.get("BACKFOLD_JOURNAL"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/backfold/journal.db")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "backfold/journal.db"


class Engine:
    """Deletes snapshots of the domains in one journal. An async context manager.

    Several engines, in one process or in many, may share a journal.
    """

    def __init__(
        self,
        journal: Path | str | None = None,
        *,
        hypervisor: Hypervisor | None = None,
        images: Images | None = None,
        clock: Clock | None = None,
        guard: Guard | None = None,
        probe: Probe | None = None,
        managed: Callable[[], Mapping[FileId, str]] = managed_images,
        locks: Path = LOCK_DIRECTORY,
    ) -> None:
        """Use ``journal`` (see `default_journal`); the ports are for embedders.

        ``managed`` tells which images other managers on this host name.
        """
        self.journal = Path(journal) if journal is not None else default_journal()
        self._hypervisor = hypervisor or QemuHypervisor()
        self._images = images or QemuImages()
        self._clock = clock or SystemClock()
        self._guard = guard
        self._probe = probe or NoProbe()
        self._managed = managed
        self._locks = locks
        self._who = f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
        self._opened: Store | None = None

    async def __aenter__(self) -> Engine:
        """Open the journal. Raises `JournalError`."""
        self._opened = await Store.open(self.journal, SEEDS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the journal."""
        await self._store.close()
        self._opened = None

    @property
    def catalog(self) -> Catalog:
        """Domains and snapshots, as the journal has them."""
        return Catalog(self._store)

    # Domains and snapshots

    async def add_domain(
        self,
        name: str,
        disks: Sequence[Disk],
        monitor: str | None = None,
    ) -> Domain:
        """Record a domain with its active images; the images below are not ours.

        Raises `UsageError` for names and images that are taken or make no sense,
        `Refused` when an image is missing or cannot be read.
        """
        valid_name("domain", name)
        if not disks:
            raise UsageError("A domain needs at least one disk.")
        reasons: list[Reason] = []
        below: list[tuple[str, str]] = []
        seen: set[FileId] = set()
        absolute = []
        for disk in disks:
            valid_name("disk", disk.target)
            source = os.path.abspath(disk.source)
            absolute.append(Disk(disk.target, source, disk.format))
            chain = await self._reader.chain(source, disk.format)
            if chain.broken is not None:
                code, message = chain.broken
                remedy = "Name the image that the domain boots from, with its format."
                reasons.append(Reason(code, message, remedy, disk.target))
            elif chain.images[0].file in seen:
                raise UsageError(f"{source} is given twice.")
            seen.update(image.file for image in chain.images[:1])
            below += [(image.path, image.format) for image in chain.images[1:]]
        if len({disk.target for disk in disks}) != len(disks):
            raise UsageError("A disk's target is given twice.")
        if reasons:
            raise Refused(reasons)
        socket_path = None if monitor is None else os.path.abspath(monitor)
        domain = Domain(name, socket_path, tuple(absolute))
        created = self._clock.now()
        await self._store.write(
            lambda db: catalog_rows.add_domain(db, domain, below, created)
        )
        return domain

    async def create_snapshot(
        self,
        domain: str,
        name: str,
        *,
        overlays: Mapping[str, str] | None = None,
        exclude: Collection[str] = (),
        on_event: OnEvent | None = None,
    ) -> Snapshot:
        """Take a snapshot: every disk at one instant, or none.

        Raises `Refused`, `UsageError`, `Busy`; `RolledBack` when it failed and
        nothing has changed; `Interrupted` when it is open for `recover`.
        """
        plan = await plan_creation(self._reader, domain, name, overlays or {}, exclude)
        with Locks(self._locks) as locks:
            locks.acquire(overlay.frozen.file for overlay in plan.overlays)
            run = self._clock.new_id()
            key = await self._store.write(
                lambda db: runs.begin_creation(db, run, plan, "planned", self._author)
            )
            creation = await self._finish_creation(key, False, on_event)
        if creation.state != "recorded":
            raise RolledBack(
                creation,
                f"The snapshot {name} was not taken: {creation.reason}.",
                data="The domain is as before; the new overlays were removed.",
                remedy="Mend the cause and take it again.",
            )
        return await self.catalog.snapshot(domain, name)

    async def disks(self, domain: str) -> tuple[DomainDisk, ...]:
        """What to boot a domain from now, with the chain below each disk."""
        found = await self.catalog.domain(domain)
        opened = await self._store.read(
            lambda db: runs.list_deletions(db, only_open=True)
        )
        mine = [row for row in opened if row.domain == domain]
        disks = boot_sources(found, mine[0] if mine else None, self._images)
        result = []
        for disk in disks:
            chain = await self._reader.chain(disk.source, disk.format)
            paths = tuple(image.path for image in chain.images)
            result.append(
                DomainDisk(disk.target, disk.source, disk.format, paths, chain.broken)
            )
        return tuple(result)

    async def revert_images(self, domain: str, snapshot: str) -> tuple[Disk, ...]:
        """The frozen images that a revert would build new overlays on.

        Raises `Refused` (``invalid_snapshot``) when the snapshot is being deleted or
        was written into: its images do not hold its point in time any more.
        """
        found = await self.catalog.snapshot(domain, snapshot)
        if found.status != "valid":
            why = found.reason or "its deletion is open"
            raise Refused(
                [
                    Reason(
                        "invalid_snapshot",
                        f"The snapshot {snapshot} of {domain} cannot be reverted to:"
                        f" {why}.",
                        "Finish its deletion: `backfold recover`, or delete it again.",
                    )
                ]
            )
        return tuple(Disk(d.target, d.frozen, d.format) for d in found.disks)

    # Deletions

    async def plan(
        self, domain: str, snapshot: str, *, ignore_libvirt: bool = False
    ) -> Plan:
        """What `delete` would do. Takes no lock, writes nothing. Raises `Refused`."""
        return await self._planner.plan(
            "0" * 12, domain, snapshot, insist=ignore_libvirt
        )

    async def delete(
        self,
        domain: str,
        snapshot: str,
        *,
        bandwidth: int | None = None,
        max_downtime_ms: int = 500,
        timeout: float | None = None,
        ignore_libvirt: bool = False,
        on_event: OnEvent | None = None,
    ) -> Deletion:
        """Delete one snapshot; returns when it is gone and its images are retired.

        ``bandwidth`` is in bytes per second, ``max_downtime_ms`` bounds how long the
        guest may stand still, ``timeout`` (seconds) gives the run up before the
        decision. Raises `Refused`, `Busy`, `RolledBack` or `Interrupted`. Cancelling
        the await before the decision releases the guest and raises `Interrupted`;
        after it the pivot is finished first.
        """
        options = Options(bandwidth, max_downtime_ms, timeout, ignore_libvirt)
        disks = (await self.catalog.domain(domain)).disks
        frozen = (await self.catalog.snapshot(domain, snapshot)).disks
        paths = [disk.source for disk in disks] + [disk.frozen for disk in frozen]
        with Locks(self._locks) as locks:
            locks.acquire(self._identities(paths))
            run = self._clock.new_id()
            key = await self._store.write(
                lambda db: runs.begin_deletion(
                    db,
                    run,
                    domain,
                    snapshot,
                    asdict(options),
                    DELETION.initial,
                    self._author,
                )
            )
            runner = await self._deletion_run(key, on_event)
            runner.tell(StateEvent(run, domain, snapshot, DELETION.initial, {}))
            if timeout is not None:
                runner.ctx.deadline = self._clock.monotonic() + timeout
            return _judged(await self._drive(runner, runner.run))

    async def resume(self, run: str, *, on_event: OnEvent | None = None) -> Deletion:
        """Go on with an open deletion. Raises as `delete` does.

        A living job is attached to; no byte is copied twice.
        """
        return _judged(await self._recovered(run, False, on_event))

    async def roll_back(self, run: str, *, on_event: OnEvent | None = None) -> Deletion:
        """Give an open deletion up, before its decision.

        Returns the rolled-back deletion; one that is finished is returned as it is.
        Raises `AlreadyDecided` after the decision, `Busy` or `Interrupted`.
        """
        return await self._recovered(run, True, on_event)

    async def recover(
        self,
        run: str | None = None,
        *,
        roll_back: bool = False,
        on_event: OnEvent | None = None,
    ) -> list[Deletion | Creation | BackfoldError]:
        """Finish what was interrupted: one run, or all open ones of this journal.

        Returns an outcome for each: how it ended, or the error that kept it open.
        """
        if run is None:
            deletions = await self._store.read(
                lambda db: runs.list_deletions(db, only_open=True)
            )
            creations = await self._store.read(runs.open_creations)
            todo = [("creation", row.id) for row in creations]
            todo += [("deletion", row.id) for row in deletions]
        else:
            todo = [await self._find(run)]
        outcomes: list[Deletion | Creation | BackfoldError] = []
        for machine, found in todo:
            try:
                if machine == "creation":
                    outcomes.append(await self._recovered_creation(found, on_event))
                else:
                    outcomes.append(await self._recovered(found, roll_back, on_event))
            except BackfoldError as error:
                outcomes.append(error)
        return outcomes

    async def cancel(self, run: str, *, on_event: OnEvent | None = None) -> Deletion:
        """Ask for an open deletion to be given up, and wait until it is.

        The engine that works on it honours the request within a second; without one
        it is rolled back here. Raises `AlreadyDecided` after the decision.
        """
        found = await self._deletion_id(run)
        row = await self._row(found)
        if row.finished is not None:
            return Deletion.of(row)
        _refuse_decided(row)
        await self._store.write(lambda db: runs.request_cancel(db, found, self._author))
        while True:
            try:
                return await self._recovered(found, True, on_event, patience=0)
            except Busy:
                row = await self._row(found)
                if row.finished is not None:
                    return Deletion.of(row)
                _refuse_decided(row)
            await self._clock.sleep(0.2)

    async def release_hold(self, run: str) -> None:
        """End a hold that a dead engine left behind; the guard's whole task.

        Before the decision the votes are released, after it the pivot is finished;
        the rest of the run is left for `recover`.
        """
        row = await self._row(run)
        with await self._locked(row, patience=5.0):
            runner = await self._claimed(row, None)
            if runner.ctx.row.hold is not None:
                began = runner.state
                await self._drive(runner, lambda: runner.run(lambda s: s != began))

    async def deletion(self, run: str) -> Deletion:
        """One deletion, by its id or an unambiguous prefix. Raises `UsageError`."""
        return Deletion.of(await self._row(await self._deletion_id(run)))

    async def deletions(self, *, only_open: bool = False) -> list[Deletion]:
        """Deletions, the newest first."""
        rows = await self._store.read(
            lambda db: runs.list_deletions(db, only_open=only_open)
        )
        return [Deletion.of(row) for row in rows]

    async def log(self, run: str) -> list[TransitionRow]:
        """Everything that happened in a run, in order. Raises `UsageError`."""
        _, found = await self._find(run)
        return await self._store.read(lambda db: list(runs.history(db, found)))

    # Inside

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise UsageError("The engine is not open; use `async with Engine(...)`.")
        return self._opened

    @property
    def _author(self) -> Author:
        return Author(self._who, self._clock.now())

    @property
    def _reader(self) -> Reader:
        return Reader(
            self._store,
            self._hypervisor,
            self._images,
            self._managed,
            self._clock.boot_id,
        )

    @property
    def _planner(self) -> FoldPlanner:
        return FoldPlanner(self._reader)

    async def _find(self, prefix: str) -> tuple[str, str]:
        return await self._store.read(lambda db: runs.find(db, prefix))

    async def _deletion_id(self, prefix: str) -> str:
        machine, found = await self._find(prefix)
        if machine != "deletion":
            raise UsageError(f"{found} is a creation, not a deletion.")
        return found

    async def _row(self, run: str) -> DeletionRow:
        return await self._store.read(lambda db: runs.deletion(db, run))

    def _identities(self, paths: Collection[str]) -> list[FileId]:
        found = [self._images.identify(path) for path in paths]
        return [file for file in found if file is not None]

    async def _locked(self, row: DeletionRow, patience: float) -> Locks:
        """The locks of an open deletion; waits, since a guard may be finishing."""
        domain = await self.catalog.domain(row.domain)
        files = set(self._identities([disk.source for disk in domain.disks]))
        for fold in row.plan.folds if row.plan is not None else ():
            fence = self._images.fence_name(fold.top.path, row.id)
            files |= set(self._identities([fold.base.path, fence]))
        locks = Locks(self._locks)
        end = self._clock.monotonic() + patience
        while True:
            try:
                locks.acquire(files)
                return locks
            except Busy:
                if self._clock.monotonic() >= end:
                    raise
            await self._clock.sleep(0.05)

    async def _claimed(self, row: DeletionRow, on_event: OnEvent | None) -> DeletionRun:
        key = await self._store.write(
            lambda db: runs.claim(db, "deletion", row.id, self._author)
        )
        return await self._deletion_run(key, on_event)

    async def _deletion_run(self, key: RunKey, on_event: OnEvent | None) -> DeletionRun:
        row = await self._row(key.id)
        domain = await self.catalog.domain(row.domain)
        runner = DeletionRun(
            key, self._store, self._clock, self._probe, self._who, on_event
        )
        runner.ctx = Context(
            key=key,
            row=row,
            options=Options(**row.options),
            monitor=domain.monitor,
            hypervisor=self._hypervisor,
            images=self._images,
            clock=self._clock,
            definitions=CatalogDefinitions(),
            planner=self._planner,
            guard=self._guard or GuardProcess(self.journal),
            effects=runner,
            read=self._store.read,
            who=self._who,
            interrupted=lambda: False,
        )
        await runner.refresh()
        return runner

    async def _recovered(
        self,
        prefix: str,
        roll_back: bool,
        on_event: OnEvent | None,
        patience: float = 5.0,
    ) -> Deletion:
        run = await self._deletion_id(prefix)
        row = await self._row(run)
        if row.finished is not None:
            return Deletion.of(row)
        with await self._locked(row, patience):
            row = await self._row(run)
            if row.finished is not None:
                return Deletion.of(row)
            if roll_back:
                _refuse_decided(row)
            runner = await self._claimed(row, on_event)
            asked = "roll back was asked for"
            return await self._drive(
                runner,
                (lambda: runner.give_up(asked)) if roll_back else runner.run,
            )

    async def _drive(self, runner: DeletionRun, work: Callable[[], Any]) -> Deletion:
        """Run to an end, or to a safe stop when the caller's await is cancelled."""
        leaving = asyncio.Event()
        runner.ctx.interrupted = leaving.is_set
        task = asyncio.ensure_future(work())
        try:
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                if task.cancelled():
                    raise
                leaving.set()
                await task
        except LeaveOpen:
            raise await self._interrupted(
                runner,
                "The caller went away; the run was left at a safe point.",
                "The guest runs as before; nothing is lost.",
                "",
            ) from None
        except Stuck as error:
            raise await self._interrupted(
                runner, error.what, error.data, error.remedy
            ) from error
        except JournalError as error:
            raise await self._interrupted(
                runner, error.what, error.data, error.remedy
            ) from error
        finally:
            await runner.ctx.disconnect()
            await runner.ctx.guard.dismiss()
        if runner.refusal is not None and runner.state == "refused":
            raise runner.refusal
        return Deletion.of(await self._row(runner.key.id))

    async def _interrupted(
        self, runner: DeletionRun, what: str, data: str, remedy: str
    ) -> Interrupted:
        try:
            row = await self._row(runner.key.id)
        except BackfoldError:
            row = runner.ctx.row
        return Interrupted(
            Deletion.of(row),
            what,
            data=data,
            remedy=remedy or f"Run `backfold recover {row.id}`.",
        )

    async def _recovered_creation(self, run: str, on_event: OnEvent | None) -> Creation:
        row = await self._store.read(lambda db: runs.creation(db, run))
        if row.finished is not None:
            return Creation.of(row)
        with Locks(self._locks) as locks:
            locks.acquire(self._identities([o.frozen.path for o in row.plan.overlays]))
            key = await self._store.write(
                lambda db: runs.claim(db, "creation", run, self._author)
            )
            return await self._finish_creation(key, True, on_event)

    async def _finish_creation(
        self, key: RunKey, resumed: bool, on_event: OnEvent | None
    ) -> Creation:
        row: CreationRow = await self._store.read(lambda db: runs.creation(db, key.id))
        domain = await self.catalog.domain(row.domain)
        runner = CreationRun(
            key, self._store, self._clock, self._probe, self._who, on_event
        )
        runner.ctx = CreationContext(
            key=key,
            row=row,
            monitor=domain.monitor,
            hypervisor=self._hypervisor,
            images=self._images,
            clock=self._clock,
            effects=runner,
            read=self._store.read,
            resumed=resumed,
        )
        task = asyncio.ensure_future(runner.run())
        try:
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                await task
                raise
        except Stuck as error:
            raise Interrupted(
                Creation.of(runner.ctx.row),
                error.what,
                data=error.data,
                remedy=error.remedy,
            ) from error
        finally:
            if runner.ctx.session is not None:
                await runner.ctx.session.close()
        return Creation.of(runner.ctx.row)


def _refuse_decided(row: DeletionRow) -> None:
    if row.state not in UNDECIDED:
        raise AlreadyDecided(
            f"The deletion {row.id} is past its decision ({row.state}).",
            data="The data is in the base images; going back would lose what the guest"
            " has written since.",
            remedy=f"`backfold recover {row.id}` finishes it.",
        )


def _judged(deletion: Deletion) -> Deletion:
    """Return a completed deletion; raise what another end means."""
    if deletion.state == "rolled_back":
        raise RolledBack(
            deletion,
            f"The deletion {deletion.id} was rolled back: {deletion.reason}.",
            data="The domain runs as before; no write is lost.",
            remedy=f"`backfold snapshot show {deletion.domain} {deletion.snapshot}`"
            " tells whether the snapshot is still valid; delete it again when the cause"
            " is mended.",
        )
    return deletion
