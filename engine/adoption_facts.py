"""The chains of a domain and what is recorded of them, read once for an adoption.

Nothing here decides anything, and nothing here writes.
"""

from __future__ import annotations

import os.path
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..journal import adoptions, catalog, runs
from ..journal.errors import MonitorBusy, Reason
from ..journal.model import Disk, Domain, FileId, FileStamp, Snapshot
from ..states.ports import ImageHeader, ImageUser, LiveChain
from .facts import ChainFacts
from .reader import Reader


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """One image of a chain.

    ``path`` is the catalog's own name for it, if it has one. ``labels`` are the
    snapshots whose frozen image it is; ``others`` the images that are based on it
    besides the next one of the chain; ``source_of`` says whose active image it is.
    """

    path: str
    header: ImageHeader
    stamp: FileStamp | None
    labels: frozenset[str]
    kept: bool
    others: tuple[str, ...]
    source_of: str | None
    users: tuple[ImageUser, ...]


@dataclass(frozen=True, slots=True)
class DiskChain:
    """The chain of one disk, the active image first."""

    disk: Disk
    images: tuple[ImageFacts, ...]
    broken: tuple[str, str] | None
    live: LiveChain | None


@dataclass(frozen=True, slots=True)
class AdoptionFacts:
    """Everything that an adoption depends on.

    ``lineages`` has the files of the chains below the frozen images of each known
    snapshot, its own frozen images included.
    """

    domain: Domain
    snapshots: tuple[Snapshot, ...]
    open_runs: tuple[Reason, ...]
    monitor_busy: bool
    run_state: str | None
    jobs: tuple[str, ...]
    disks: tuple[DiskChain, ...]
    lineages: Mapping[str, frozenset[FileId]]
    managed: Mapping[FileId, str]
    insist: bool
    now: str

    def files(self) -> set[FileId]:
        """Every image of every chain."""
        return {i.header.file for disk in self.disks for i in disk.images}


async def read_adoption(
    reader: Reader, name: str, now: str, insist: bool, image_folders: Sequence[str]
) -> AdoptionFacts:
    """Read everything once. Raises `Refused` for an unknown domain.

    ``image_folders`` are searched for other overlays, besides those of the catalog.
    """
    domain = await reader.store.read(lambda db: catalog.domain(db, name))
    snapshots = await reader.store.read(lambda db: catalog.snapshots(db, name))
    open_runs = await reader.store.read(lambda db: runs.open_run_reasons(db, name))
    known = await reader.store.read(catalog.image_paths)
    kept = await reader.store.read(lambda db: adoptions.kept_images(db, name))
    sources = await reader.store.read(adoptions.active_images)
    identify = reader.images.identify
    names = {identify(path): path for path in known}
    kept_files = {identify(path) for path in kept}
    source_of = {identify(path): what for path, what in sources}
    busy, run_state, jobs = False, None, tuple[str, ...]()
    live: tuple[LiveChain, ...] = ()
    try:
        session = domain.monitor and await reader.hypervisor.attach(domain.monitor)
        if session:
            try:
                run_state = await session.run_state()
                jobs = tuple(sorted(await session.jobs()))
                live = await session.chains({})
            finally:
                await session.close()
    except MonitorBusy:
        busy = True
    chains = [await reader.chain(disk.source, disk.format) for disk in domain.disks]
    folders = sorted({*_folders(known, chains), *image_folders})
    dependents = await reader.images.dependents(folders)
    disks = []
    for disk, chain in zip(domain.disks, chains, strict=True):
        images = []
        for depth, header in enumerate(chain.images):
            above = chain.images[depth - 1].file if depth else None
            based = dependents.get(header.file, ())
            others = tuple(path for path in based if identify(path) != above)
            # A shared base is open wherever its other overlays are.
            is_private = run_state is None and not busy and not others
            users = await reader.images.users(header.path) if is_private else ()
            images.append(
                ImageFacts(
                    path=names.get(header.file) or header.path,
                    header=header,
                    stamp=reader.images.stamp(header.path),
                    labels=_labels(snapshots, disk.target, header.file, reader),
                    kept=header.file in kept_files,
                    others=others,
                    source_of=source_of.get(header.file),
                    users=tuple(users),
                )
            )
        disks.append(DiskChain(disk, tuple(images), chain.broken, _live(live, chain)))
    return AdoptionFacts(
        domain=domain,
        snapshots=tuple(snapshots),
        open_runs=open_runs,
        monitor_busy=busy,
        run_state=run_state,
        jobs=jobs,
        disks=tuple(disks),
        lineages={s.name: await _lineage(reader, s) for s in snapshots},
        managed=reader.managed(),
        insist=insist,
        now=now,
    )


def _folders(known: Sequence[str], chains: Sequence[ChainFacts]) -> list[str]:
    """Where an overlay may lie that is based on one of these images."""
    paths = {*known, *(image.path for chain in chains for image in chain.images)}
    real = {os.path.realpath(path) for path in paths}
    return sorted({os.path.dirname(path) for path in paths | real})


def _labels(
    snapshots: Sequence[Snapshot], target: str, file: FileId, reader: Reader
) -> frozenset[str]:
    entries = [(s.name, s.disk(target)) for s in snapshots]
    return frozenset(
        name
        for name, entry in entries
        if entry is not None and reader.images.identify(entry.frozen) == file
    )


def _live(live: Sequence[LiveChain], chain: ChainFacts) -> LiveChain | None:
    active = chain.images[0].file if chain.images else None
    found = (c for c in live if c.images and c.images[0].file == active)
    return next(found, None)


async def _lineage(reader: Reader, snapshot: Snapshot) -> frozenset[FileId]:
    chains = [await reader.chain(d.frozen, d.format) for d in snapshot.disks]
    return frozenset(image.file for chain in chains for image in chain.images)
