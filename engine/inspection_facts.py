"""A domain as catalog, disks and QEMU have it, read once for an inspection.

Nothing here decides anything, and nothing here writes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from ..journal import catalog, inspections, runs
from ..journal.errors import CommandFailed, MonitorBusy, Reason
from ..journal.inspections import FinishedOrOpen
from ..journal.model import Domain, FileId, Snapshot
from ..states.ports import ImageHeader, ImageUser, LiveChain
from .facts import ChainFacts, unsupported
from .helper import helper_behind, helper_sockets
from .inspection_folders import Stray, strays
from .reader import Reader


@dataclass(frozen=True, slots=True)
class Inspected:
    """One image of the domain.

    ``problem`` is what `qemu-img check` says; it was not asked while somebody has the
    image (``users``, or QEMU when it is ``live``).
    """

    path: str
    header: ImageHeader
    users: tuple[ImageUser, ...]
    live: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class Orphan:
    """An image that nothing in the catalog refers to, and what it is based on."""

    path: str
    file: FileId
    based_on: str


@dataclass(frozen=True, slots=True)
class LeftSocket:
    """The socket of a helper whose run has ended, and the helper if it is alive."""

    path: str
    run: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class InspectionFacts:
    """Everything that is judged.

    ``chains`` are by the path of their first image: active, frozen and kept images.
    ``dependents`` are by file. ``gone`` are entries of the catalog that nothing
    refers to, whose files are gone, and that no chain of any domain names.
    ``not_ours`` are active images that no snapshot made.
    """

    domain: Domain
    snapshots: tuple[Snapshot, ...]
    open_runs: tuple[Reason, ...]
    monitor_busy: bool
    run_state: str | None
    live: tuple[LiveChain, ...]
    chains: Mapping[str, ChainFacts]
    images: Mapping[FileId, Inspected]
    dependents: Mapping[FileId, tuple[str, ...]]
    kept: tuple[tuple[str, str, FileId | None], ...]
    orphans: tuple[Orphan, ...]
    strays: tuple[Stray, ...]
    sockets: tuple[LeftSocket, ...]
    runs: Mapping[str, FinishedOrOpen]
    finished_overlays: frozenset[str]
    gone: tuple[str, ...]
    not_ours: frozenset[str]

    @property
    def power(self) -> str:
        """``running``, ``paused`` or ``off``."""
        if self.run_state is None:
            return "off"
        return "running" if self.run_state == "running" else "paused"


async def read_inspection(
    reader: Reader, name: str, image_folders: Sequence[str]
) -> InspectionFacts:
    """Read everything once. Raises `Refused` for an unknown domain.

    Images that are based on the domain's are looked for where a deletion looks: in
    the folders of all images of the catalog, and in ``image_folders``.
    """
    return await _Reading(reader, name, image_folders).read()


@dataclass
class _Reading:
    reader: Reader
    name: str
    image_folders: Sequence[str]

    async def read(self) -> InspectionFacts:
        read, identify = self.reader.store.read, self.reader.images.identify
        self.domain = await read(lambda db: catalog.domain(db, self.name))
        self.snapshots = await read(lambda db: catalog.snapshots(db, self.name))
        open_runs = await read(lambda db: runs.open_run_reasons(db, self.name))
        kept = await read(lambda db: inspections.kept_images(db, self.name))
        busy = await self._ask_qemu()
        chains = await self._chains([(path, fmt) for _, path, fmt in kept])
        headers = {i.file: i for chain in chains.values() for i in chain.images}
        images = {
            file: await self._inspect(header, busy, bool(open_runs))
            for file, header in headers.items()
        }
        folders = _folders([*chains, *(header.path for header in headers.values())])
        found = tuple(strays(folders, [*chains]))
        others = [*self.image_folders, *await read(catalog.image_folders)]
        searched = sorted({*folders, *others})
        based = await self.reader.images.dependents(searched)
        dependents = {file: tuple(based.get(file, ())) for file in headers}
        orphans = await self._orphans(headers, based)
        sockets = tuple(helper_sockets())
        ids = [stray.run for stray in found if stray.run is not None]
        ids += [run for _, run in sockets]
        known = await read(lambda db: inspections.runs_of(db, ids))
        return InspectionFacts(
            domain=self.domain,
            snapshots=tuple(self.snapshots),
            open_runs=open_runs,
            monitor_busy=busy,
            run_state=self.run_state,
            live=self.live,
            chains=chains,
            images=images,
            dependents=dependents,
            kept=tuple((target, path, identify(path)) for target, path, _ in kept),
            orphans=tuple(orphans),
            strays=found,
            sockets=tuple(self._left(sockets, known)),
            runs=known,
            finished_overlays=frozenset(await read(inspections.finished_overlays)),
            gone=tuple(await self._gone(folders)),
            not_ours=await read(self._not_ours),
        )

    def _left(
        self,
        sockets: Sequence[tuple[str, str]],
        known: Mapping[str, FinishedOrOpen],
    ) -> Iterator[LeftSocket]:
        """The sockets of this domain's runs that have ended."""
        for path, run in sockets:
            row = known.get(run)
            if row is not None and row.domain == self.name and row.finished:
                yield LeftSocket(path, run, helper_behind(path))

    def _not_ours(self, db: Database) -> frozenset[str]:
        paths = [disk.source for disk in self.domain.disks]
        return frozenset(path for path in paths if not catalog.is_ours(db, path))

    async def _ask_qemu(self) -> bool:
        """Run state and chains of a living QEMU; returns whether it is busy."""
        self.run_state: str | None = None
        self.live: tuple[LiveChain, ...] = ()
        monitor = self.domain.monitor
        try:
            session = monitor and await self.reader.hypervisor.attach(monitor)
        except MonitorBusy:
            return True
        if session:
            try:
                self.run_state = await session.run_state()
                self.live = await session.chains({})
            finally:
                await session.close()
        return False

    async def _chains(self, kept: Sequence[tuple[str, str]]) -> dict[str, ChainFacts]:
        """The chains below all images that the catalog has for this domain."""
        starts = [(disk.source, disk.format) for disk in self.domain.disks]
        # Children first: most chains are parts of theirs.
        for snapshot in reversed(self.snapshots):
            starts += [(disk.frozen, disk.format) for disk in snapshot.disks]
        found: dict[str, ChainFacts] = {}
        for path, fmt in [*starts, *kept]:
            part = _part(found, self.reader.images.identify(path))
            found[path] = part or await self.reader.chain(path, fmt)
        return found

    async def _inspect(
        self, header: ImageHeader, busy: bool, is_open: bool
    ) -> Inspected:
        live = {i.file for chain in self.live for i in chain.images}
        images, path = self.reader.images, header.path
        if busy or is_open or header.file in live:
            return Inspected(path, header, (), header.file in live, None)
        users = tuple(await images.users(path))
        problem = None
        if not users and unsupported(header) is None:
            try:
                problem = await images.check(path, header.format)
            except CommandFailed as error:
                users = tuple(await images.users(path))
                problem = None if users else error.what
        return Inspected(path, header, users, False, problem)

    async def _orphans(
        self,
        headers: Mapping[FileId, ImageHeader],
        based: Mapping[FileId, Sequence[str]],
    ) -> list[Orphan]:
        """Images based on ours, and on these, that no chain of the catalog has."""
        identify = self.reader.images.identify
        waiting = [
            (path, headers[file].path)
            for file in headers
            for path in based.get(file, ())
        ]
        ours, found = set(headers), dict[FileId, Orphan]()
        referred: set[FileId] | None = None
        while waiting:
            path, below = waiting.pop(0)
            file = identify(path)
            if file is None or file in ours or file in found:
                continue
            if referred is None:
                referred = await self._referred()
            if file not in referred:
                found[file] = Orphan(path, file, below)
                waiting += [(other, path) for other in based.get(file, ())]
        return list(found.values())

    async def _referred(self) -> set[FileId]:
        """Every image of every chain that the catalog has, of all domains."""
        used = await self.reader.store.read(inspections.images_in_use)
        found: dict[str, ChainFacts] = {}
        for path, fmt in used:
            part = _part(found, self.reader.images.identify(path))
            found[path] = part or await self.reader.chain(path, fmt)
        return {i.file for chain in found.values() for i in chain.images}

    async def _gone(self, folders: Sequence[str]) -> list[str]:
        """Entries in these folders that are gone and needed by nobody."""
        read = self.reader.store.read
        if await read(inspections.anything_open):
            return []
        unused = [
            path
            for path in await read(inspections.unused_entries)
            if os.path.dirname(path) in folders and not os.path.lexists(path)
        ]
        if not unused:
            return []
        named: set[str] = set()
        for path, fmt in await read(inspections.images_in_use):
            chain = await self.reader.chain(path, fmt)
            named |= {i.backing_path for i in chain.images if i.backing_path}
        return [path for path in unused if path not in map(os.path.normpath, named)]


def _part(known: Mapping[str, ChainFacts], file: FileId | None) -> ChainFacts | None:
    """The chain below an image that a longer chain has."""
    for chain in known.values():
        depth = chain.index(file)
        if depth is not None:
            return ChainFacts(chain.images[depth:], chain.broken)
    return None


def _folders(paths: Sequence[str]) -> list[str]:
    real = [os.path.realpath(path) for path in paths]
    return sorted({os.path.dirname(path) for path in [*paths, *real]})
