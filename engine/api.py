"""`Engine`: the public API. Everything that the command line does goes through it."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from ..journal import catalog as catalog_rows
from ..journal.adoptions import Adoption
from ..journal.catalog import Catalog
from ..journal.errors import (
    BackfoldError,
    Reason,
    Refused,
    RolledBack,
    UsageError,
)
from ..journal.location import default_journal as default_journal
from ..journal.locks import LOCK_DIRECTORY
from ..journal.meter import CommitTimes
from ..journal.model import Disk, Domain, FileId, Plan, ReversionPlan, Snapshot
from ..journal.runs import TransitionRow
from ..journal.store import Store
from ..states.options import Options
from ..states.outlook import Outlook
from ..states.ports import Clock, Guard, Hypervisor, Images, Probe
from ..states.watch import Watch
from . import adoption_run, begin, inspection_run, recovery
from .boot_disks import boot_disks
from .clock import SystemClock
from .disks import attach, detach
from .driver import Driver, World
from .event_stream import EventStream
from .events import Event, OnEvent
from .following import Following
from .guard import GuardProcess
from .helper import QemuHypervisor
from .history import History
from .hooks import ExecutableHook, ProgramHook, TellOwner, usable_hook
from .images import QemuImages
from .inspection_findings import Inspection
from .libvirt import managed_images
from .names import valid_name
from .release import Release
from .results import Creation, Deletion, DomainDisk, Reversion, Run
from .reversion_plan import not_valid, plan_reversion
from .seeds import SEEDS
from .selection import valid_options
from .story import Story

T = TypeVar("T")


class NoProbe:
    """Nobody watches the steps."""

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Do nothing."""


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
        hook: TellOwner | None = None,
        locks: Path = LOCK_DIRECTORY,
    ) -> None:
        """Use ``journal`` (see `default_journal`); the ports are for embedders.

        ``managed`` tells which images other managers on this host name. ``hook`` is
        called instead of the executables that are recorded with domains, for every
        domain; it must not use this engine for the same domain.
        """
        self.journal = Path(journal) if journal is not None else default_journal()
        self._world = World(
            hypervisor=hypervisor or QemuHypervisor(),
            images=images or QemuImages(),
            clock=clock or SystemClock(),
            probe=probe or NoProbe(),
            new_guard=lambda: guard or GuardProcess(self.journal, locks),
            managed=managed,
            hook=ExecutableHook() if hook is None else ProgramHook(hook),
            lock_directory=locks,
            who=f"{_user()}@{socket.gethostname()}:{os.getpid()}",
        )
        self._opened: Driver | None = None

    async def __aenter__(self) -> Engine:
        """Open the journal. Raises `JournalError`."""
        store = await Store.open(self.journal, SEEDS)
        self._opened = Driver(store, self._world)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the journal, and end every stream of events."""
        self._driver.broadcast.close()
        await self._driver.store.close()
        self._opened = None

    @property
    def catalog(self) -> Catalog:
        """Domains and snapshots, as the journal has them."""
        return Catalog(self._driver.store)

    def events(self) -> EventStream:
        """The events of all runs of this engine, from now on: an async iterator.

        Each call is a consumer of its own, and hears every state, downtime and alarm;
        progress that it is too slow for is replaced by newer progress. It ends when
        the engine is closed. See `EventStream`, also for what becomes of a consumer
        that does not consume. Runs of other engines on the journal are not heard.
        """
        return self._driver.broadcast.subscribe()

    @property
    def commit_times(self) -> CommitTimes:
        """What this engine's transactions took to become durable, since it is open."""
        if self._opened is None:
            return CommitTimes()
        return self._opened.store.meter.times

    # Domains and snapshots

    async def add_domain(
        self,
        name: str,
        disks: Sequence[Disk],
        monitor: str | None = None,
        *,
        hook: str | None = None,
    ) -> Domain:
        """Record a domain with its active images; the images below are not ours.

        ``hook`` is the executable that is told of new images; see `set_hook`. Raises
        `UsageError` for names and images that are taken or make no sense, `Refused`
        when an image is missing or cannot be read, or the hook cannot be one.
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
            chain = await self._driver.reader.chain(source, disk.format)
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
        hook = usable_hook(self._world.hook, name, hook)
        domain = Domain(name, socket_path, tuple(absolute), hook)
        created = self._world.clock.now()
        await self._driver.store.write(
            lambda db: catalog_rows.add_domain(db, domain, below, created)
        )
        return domain

    async def set_hook(self, domain: str, hook: str | None) -> Domain:
        """Record the executable that rewrites a domain's definition; None for none.

        It is called, journaled and repeated, whenever a disk's active image changes.
        It is not called now. Also while a run is open, which goes on with the new one:
        to remove a hook that cannot be mended is the way out. Raises `Refused` for an
        unknown domain, or a file that cannot be a hook (``hook_unusable``).
        """
        path = usable_hook(self._world.hook, domain, hook)
        return await self._driver.store.write(
            lambda db: catalog_rows.set_hook(db, domain, path)
        )

    async def attach_disk(self, domain: str, disk: Disk) -> Domain:
        """Record a disk that the domain has got; the machine is not touched.

        Earlier snapshots are without it. Raises `UsageError` for a target or an image
        that is taken, `Refused` when a run is open or the image cannot be read.
        """
        return await attach(self._driver, domain, disk)

    async def detach_disk(self, domain: str, target: str) -> Domain:
        """Record that the domain has lost a disk; machine and images are not touched.

        Snapshots keep what they have of it. Raises `UsageError` when the domain does
        not have the disk, or only that one, `Refused` when a run is open, or `Busy`.
        """
        return await detach(self._driver, domain, target)

    async def create_snapshot(
        self,
        domain: str,
        name: str,
        *,
        overlays: Mapping[str, str] | None = None,
        exclude: Collection[str] = (),
        memory: str | None = None,
        secrets: Mapping[str, str] | None = None,
        on_event: OnEvent | None = None,
    ) -> Snapshot:
        """Take a snapshot: every disk at one instant, or none.

        ``memory`` is an existing file that holds the guest's memory at that instant;
        it is recorded and goes with the snapshot. With it, every disk may be left
        out. ``secrets`` names, by target, the files with the keys of encrypted images;
        their overlays are encrypted with the same key. Raises `Refused`, `UsageError`,
        `Busy`; `RolledBack` when it failed and nothing has changed; `Interrupted` when
        it is open for `recover`.
        """
        await begin.creation(
            self._driver,
            domain,
            name,
            overlays=overlays or {},
            exclude=exclude,
            memory=memory,
            secrets=await self._secrets(domain, secrets),
            on_event=on_event,
        )
        return await self.catalog.snapshot(domain, name)

    async def plan_adoption(
        self,
        domain: str,
        *,
        image_folders: Sequence[str] = (),
        ignore_libvirt: bool = False,
    ) -> Adoption:
        """What `adopt` would record; no lock, no write. Raises `Refused`."""
        return await adoption_run.plan(
            self._driver,
            domain,
            insist=ignore_libvirt,
            image_folders=_absolute(image_folders),
        )

    async def adopt(
        self,
        domain: str,
        *,
        image_folders: Sequence[str] = (),
        ignore_libvirt: bool = False,
    ) -> Adoption:
        """Make snapshots of a chain that nobody recorded, named after the overlays.

        No image is touched. One transaction of the catalog, or none; with nothing to
        adopt the answer has no snapshots. ``image_folders`` are searched for other
        users of the images, which then are never ours. Raises `Refused`, `Busy`, and
        `UsageError` when somebody else changed the catalog meanwhile.
        """
        return await adoption_run.adopt(
            self._driver,
            domain,
            insist=ignore_libvirt,
            image_folders=_absolute(image_folders),
        )

    async def check(
        self, domain: str, *, fix: bool = False, image_folders: Sequence[str] = ()
    ) -> Inspection:
        """Compare the catalog with disk and QEMU, both ways.

        Reads only; `qemu-img check` locks each image that nobody has open while it
        reads it. With ``fix``, what is proved safe is mended under the domain's
        locks. ``image_folders`` are searched for images that are based on the
        domain's, too. Raises `Refused` for an unknown domain, with ``fix`` also
        `Busy`.
        """
        return await inspection_run.check(
            self._driver, domain, fix=fix, image_folders=_absolute(image_folders)
        )

    async def disks(self, domain: str) -> tuple[DomainDisk, ...]:
        """What to boot a domain from now, with the chain below each disk."""
        return await boot_disks(self._driver, domain)

    async def revert_images(self, domain: str, snapshot: str) -> tuple[Disk, ...]:
        """The frozen images that a revert would build new overlays on.

        Raises `Refused` (``invalid_snapshot``) when the snapshot is being deleted or
        was written into: its images do not hold its point in time any more.
        """
        found = await self.catalog.snapshot(domain, snapshot)
        if (reason := not_valid(found)) is not None:
            raise Refused([reason])
        return tuple(Disk(d.target, d.frozen, d.format) for d in found.disks)

    async def plan_revert(
        self,
        domain: str,
        snapshot: str,
        *,
        overlays: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        ignore_libvirt: bool = False,
        image_folders: Sequence[str] = (),
    ) -> ReversionPlan:
        """What `revert` would do, and which data it would discard (``held``, bytes).

        Takes no lock, writes nothing. Raises `Refused`, `UsageError`.
        """
        return await plan_reversion(
            self._driver.reader,
            domain,
            snapshot,
            overlays or {},
            await self._secrets(domain, secrets),
            insist=ignore_libvirt,
            image_folders=_absolute(image_folders),
        )

    async def revert(
        self,
        domain: str,
        snapshot: str,
        *,
        discard: bool = False,
        overlays: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        ignore_libvirt: bool = False,
        image_folders: Sequence[str] = (),
        on_event: OnEvent | None = None,
    ) -> Reversion:
        """Go back to a snapshot of a domain that is off: all disks or none.

        Each disk gets a new overlay on its frozen image, and the image that it was on
        is removed if a snapshot made it and nothing else needs it. What that image
        holds is lost: without ``discard`` only empty ones are given up.
        ``image_folders`` are searched for images that need it, too; ``secrets`` names,
        by target, the files with the keys of encrypted images. Raises
        `Refused` (``would_discard``, ``domain_running``, ...), `UsageError`, `Busy`;
        `RolledBack` when it failed and nothing has changed; `Interrupted` when it is
        open for `recover`.
        """
        keys = await self._secrets(domain, secrets)
        folders = _absolute(image_folders)

        async def plan() -> ReversionPlan:
            return await plan_reversion(
                self._driver.reader,
                domain,
                snapshot,
                overlays or {},
                keys,
                insist=ignore_libvirt,
                image_folders=folders,
            )

        return await begin.reversion(
            self._driver, domain, snapshot, plan, discard=discard, on_event=on_event
        )

    # Deletions

    async def plan(
        self,
        domain: str,
        snapshot: str,
        *,
        through: str | None = None,
        scope: str = "snapshot",
        metadata_only: bool = False,
        strategy: str = "auto",
        image_folders: Sequence[str] = (),
        ignore_libvirt: bool = False,
        secrets: Mapping[str, str] | None = None,
    ) -> Plan:
        """What `delete` would do first. Takes no lock, writes nothing.

        The arguments are those of `delete`. Raises `Refused`, and `UsageError` for
        arguments that contradict each other.
        """
        options = valid_options(
            Options(
                insist=ignore_libvirt,
                through=through,
                scope=scope,
                metadata_only=metadata_only,
                strategy=strategy,
                image_folders=_absolute(image_folders),
                secrets=await self._secrets(domain, secrets),
            )
        )
        return await self._driver.planner.plan("0" * 12, domain, snapshot, options)

    async def delete(
        self,
        domain: str,
        snapshot: str,
        *,
        through: str | None = None,
        scope: str = "snapshot",
        metadata_only: bool = False,
        strategy: str = "auto",
        image_folders: Sequence[str] = (),
        bandwidth: int | None = None,
        max_downtime_ms: int = 500,
        timeout: float | None = None,
        ignore_libvirt: bool = False,
        secrets: Mapping[str, str] | None = None,
        on_event: OnEvent | None = None,
    ) -> Deletion:
        """Delete snapshots; returns when they are gone and their images are retired.

        ``through`` is the last of a range that begins with ``snapshot``. ``scope`` is
        ``snapshot``, ``children`` (with its whole subtree) or ``children-only``; with
        ``metadata_only`` all images stay as they are. ``strategy`` is ``auto``,
        ``commit`` or ``stream``. ``image_folders`` are searched for other users of
        the images, besides those that images of this catalog are in. ``bandwidth``
        is in bytes per second, ``max_downtime_ms`` bounds how long the guest may
        stand still, ``timeout`` (seconds) gives the run up before the decision.
        ``secrets`` names, by target, the files with the keys of encrypted images; the
        journal keeps the paths, not the keys.

        Raises `Refused`, `Busy`, `RolledBack` or `Interrupted`. Cancelling the await
        before the decision releases the guest and raises `Interrupted`; after it the
        pivot is finished first, and what then is left to do is left to `recover`.
        """
        options = valid_options(
            Options(
                bandwidth=bandwidth,
                max_downtime_ms=max_downtime_ms,
                timeout=timeout,
                insist=ignore_libvirt,
                through=through,
                scope=scope,
                metadata_only=metadata_only,
                strategy=strategy,
                image_folders=_absolute(image_folders),
                secrets=await self._secrets(domain, secrets),
            )
        )
        return _judged(
            await begin.deletion(self._driver, domain, snapshot, options, on_event)
        )

    async def resume(self, run: str, *, on_event: OnEvent | None = None) -> Deletion:
        """Go on with an open deletion. Raises as `delete` does.

        A living job is attached to; no byte is copied twice.
        """
        found = await recovery.deletion_id(self._driver, run)
        return _judged(
            await recovery.recover_deletion(
                self._driver, found, roll_back=False, on_event=on_event
            )
        )

    async def roll_back(self, run: str, *, on_event: OnEvent | None = None) -> Deletion:
        """Give an open deletion up, before its decision.

        Returns the rolled-back deletion; one that is finished is returned as it is.
        Raises `AlreadyDecided` after the decision, `Busy` or `Interrupted`.
        """
        found = await recovery.deletion_id(self._driver, run)
        return await recovery.recover_deletion(
            self._driver, found, roll_back=True, on_event=on_event
        )

    async def recover(
        self,
        run: str | None = None,
        *,
        roll_back: bool = False,
        on_event: OnEvent | None = None,
    ) -> list[Run | BackfoldError]:
        """Finish what was interrupted: one run, or all open ones of this journal.

        Returns an outcome for each: how it ended, or the error that kept it open. When
        the await is cancelled, the run that goes on is left as `delete` leaves it,
        and no other is begun: their outcome is `Interrupted`.
        """
        return await recovery.recover_all(
            self._driver, run, roll_back=roll_back, on_event=on_event
        )

    async def cancel(self, run: str, *, on_event: OnEvent | None = None) -> Deletion:
        """Ask for an open deletion to be given up, and wait until it is.

        The engine that works on it honours the request within a second; without one
        it is rolled back here. Raises `AlreadyDecided` after the decision.
        """
        found = await recovery.deletion_id(self._driver, run)
        return await recovery.cancel(self._driver, found, on_event)

    def release(self, watch: Watch) -> Release:
        """What ends a hold that a dead engine left behind; the guard's whole task.

        The engine need not be open: a journal that cannot be had is opened afresh
        when the guest is free.
        """

        async def opened(afresh: bool) -> Driver:
            if afresh and self._opened is not None:
                with suppress(Exception):
                    await self.__aexit__(None, None, None)
            if self._opened is None:
                await self.__aenter__()
            return self._driver

        return Release(self._world, opened, watch)

    async def deletion(self, run: str) -> Deletion:
        """One deletion, by its id or an unambiguous prefix. Raises `UsageError`."""
        return await self._ask(lambda history: history.deletion(run))

    async def follow(self, run: str | None = None) -> AsyncIterator[Event]:
        """Events of a deletion that anybody on this host works on, from now on.

        Without a run, of all that are open or are begun meanwhile. The present state
        comes first. It reads the journal and what is told beside it: no lock is taken,
        nothing is written. Ends when each is finished, or nobody has worked on it for
        some seconds: then `recover` is what helps. Raises `UsageError` for an id that
        names no deletion.
        """
        found = None if run is None else await recovery.deletion_id(self._driver, run)
        async for event in Following(self._driver, found).events():
            yield event

    async def deletions(
        self, *, only_open: bool = False, limit: int | None = 50
    ) -> list[Deletion]:
        """Deletions, the newest first: ``limit`` of them, or all (None).

        Open ones are never left out with ``only_open``.
        """
        return await self._ask(
            lambda history: history.deletions(only_open=only_open, limit=limit)
        )

    async def creations(self) -> list[Creation]:
        """Open creations of snapshots."""
        return await self._ask(History.creations)

    async def reversions(self) -> list[Reversion]:
        """Open reverts."""
        return await self._ask(History.reversions)

    async def outlook(
        self, run: str | None = None, *, roll_back: bool = False
    ) -> list[Outlook]:
        """What `recover` would do about each open run, and why it is safe.

        Reads the journal only, and takes no lock. A run that is finished has no
        outlook. Raises `UsageError` for an id that names nothing.
        """
        return await recovery.outlook(self._driver, run, roll_back=roll_back)

    async def find(self, run: str) -> Run:
        """The run that an id or an unambiguous prefix names. Raises `UsageError`."""
        return await self._ask(lambda history: history.find(run))

    async def log(self, run: str) -> list[TransitionRow]:
        """Everything that happened in a run, in order. Raises `UsageError`."""
        return await self._ask(lambda history: history.log(run))

    async def _ask(self, question: Callable[[History], T]) -> T:
        return await self._driver.store.read(lambda db: question(History(db)))

    async def story(self, run: str) -> Story:
        """What happened in a run, for people: see `Story`. Raises `UsageError`."""
        return await self._ask(lambda history: history.story(run))

    async def report(self, run: str) -> str:
        """A deletion as one HTML page that needs nothing else; see docs/report.md.

        Read from the journal alone. Raises `UsageError` for an id that names nothing,
        or something else than a deletion.
        """
        from .report import facts, page

        found = await facts.read(self._driver, run, self._world.clock.now())
        return page.page(found)

    async def _secrets(
        self, domain: str, secrets: Mapping[str, str] | None
    ) -> Mapping[str, str]:
        """Absolute paths of secrets. Raises `UsageError` for unknown disks."""
        if not secrets:
            return {}
        found = await self.catalog.domain(domain)
        if unknown := sorted(set(secrets) - {disk.target for disk in found.disks}):
            raise UsageError(
                f"The domain {domain} has no disk {', '.join(unknown)}.",
                remedy=f"`backfold domain show {domain}` lists its disks.",
            )
        return {target: os.path.abspath(path) for target, path in secrets.items()}

    @property
    def _driver(self) -> Driver:
        if self._opened is None:
            raise UsageError("The engine is not open; use `async with Engine(...)`.")
        return self._opened


def _user() -> str:
    """The user's name, or number where the host does not know the name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _absolute(folders: Sequence[str]) -> tuple[str, ...]:
    """Folders by absolute paths. Raises `UsageError` for what is no folder."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise UsageError(
                f"{folder} is not a folder.",
                remedy="Name folders that hold images (--image-dir).",
            )
    return tuple(os.path.abspath(folder) for folder in folders)


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
