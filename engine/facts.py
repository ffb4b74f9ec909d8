"""The world, read once: what the checks judge and the planner plans from.

Nothing here decides anything, and nothing here writes.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from ..journal import catalog, runs
from ..journal.errors import CommandFailed, MonitorBusy, Reason
from ..journal.model import Domain, FileId, FileStamp, Snapshot
from ..journal.store import Store
from ..states.ports import (
    Extent,
    Hypervisor,
    ImageHeader,
    Images,
    ImageUser,
    Job,
    LiveChain,
    Session,
)
from ..states.stamps import stamp_of

#: A chain that is longer than this is taken for a mistake, or an attack.
DEPTH_LIMIT: Final = 256


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """The images of a disk by their headers, the active image first.

    ``broken`` says why the chain could not be read to its end, with the reason code.
    """

    images: tuple[ImageHeader, ...]
    broken: tuple[str, str] | None = None

    def index(self, file: FileId | None) -> int | None:
        """How deep an image lies (0 is the active one); None when it is not here."""
        for depth, image in enumerate(self.images):
            if image.file == file:
                return depth
        return None


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """One disk of the snapshot that is to be deleted.

    ``depth`` is where the frozen image lies; the top of the fold is right above it.
    ``expected_tops`` are the images that the catalog knows above the frozen one.
    """

    target: str
    frozen: str
    in_domain: bool
    chain: ChainFacts
    depth: int | None
    expected_tops: frozenset[FileId]
    live: LiveChain | None
    top_extents: Sequence[Extent] = ()
    base_extents: Sequence[Extent] = ()
    base_stamp: FileStamp | None = None
    free_bytes: int = 0
    free_device: int = 0
    users: Sequence[tuple[str, ImageUser]] = ()
    fence_obstacle: str | None = None
    #: Images that are based on base or top, other than the next of the chain.
    strangers: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def has_fold(self) -> bool:
        """Whether an image lies above the frozen one."""
        return self.depth is not None and self.depth > 0

    @property
    def base(self) -> ImageHeader:
        """The frozen image."""
        assert self.depth is not None
        return self.chain.images[self.depth]

    @property
    def top(self) -> ImageHeader:
        """The image right above the frozen one."""
        assert self.depth is not None
        return self.chain.images[self.depth - 1]

    @property
    def opened(self) -> tuple[ImageHeader, ...]:
        """The images that a QEMU opens for the fold, down to the last one."""
        assert self.depth is not None
        return self.chain.images[max(0, self.depth - 2) :]

    @property
    def above(self) -> ImageHeader | None:
        """The image above the top; None when the top is the active image."""
        assert self.depth is not None
        return self.chain.images[self.depth - 2] if self.depth > 1 else None


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a plan for one snapshot depends on."""

    run: str
    domain: Domain
    snapshot: Snapshot
    disks: tuple[DiskFacts, ...]
    open_runs: tuple[Reason, ...]
    monitor_busy: bool
    run_state: str | None
    jobs: Mapping[str, Job]
    exports: frozenset[str]
    managed: Mapping[FileId, str]
    insist: bool
    boot_id: str
    #: Files that could not be flushed in this boot, and when.
    failed_flushes: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_alive(self) -> bool:
        """Whether the domain's QEMU answered."""
        return self.run_state is not None


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the facts through the ports."""

    store: Store
    hypervisor: Hypervisor
    images: Images
    managed: Callable[[], Mapping[FileId, str]]
    boot_id: Callable[[], str]

    async def read(self, run: str, name: str, snapshot: str, insist: bool) -> Facts:
        """Read everything once. Raises `Refused` for an unknown domain or snapshot."""
        domain = await self.store.read(lambda db: catalog.domain(db, name))
        wanted = await self.store.read(lambda db: catalog.snapshot(db, name, snapshot))
        others = await self.store.read(lambda db: catalog.snapshots(db, name))
        open_runs = await self.store.read(
            lambda db: runs.open_run_reasons(db, name, but=run)
        )
        failed = await self.store.read(
            lambda db: runs.failed_flushes(db, self.boot_id())
        )
        busy = False
        session: Session | None = None
        try:
            if domain.monitor is not None:
                session = await self.hypervisor.attach(domain.monitor)
        except MonitorBusy:
            busy = True
        try:
            run_state = None if session is None else await session.run_state()
            jobs = {} if session is None else await session.jobs()
            exports = frozenset() if session is None else await session.exports()
            aliases = {
                self.images.fence_name(disk.source, run): disk.source
                for disk in domain.disks
            }
            live = () if session is None else await session.chains(aliases)
        finally:
            if session is not None:
                await session.close()
        disks = [
            await self._disk(run, domain, wanted, others, entry.target, live)
            for entry in wanted.disks
        ]
        return Facts(
            run=run,
            domain=domain,
            snapshot=wanted,
            disks=tuple(disks),
            open_runs=open_runs,
            monitor_busy=busy,
            run_state=run_state,
            jobs=jobs,
            exports=exports,
            managed=self.managed(),
            insist=insist,
            boot_id=self.boot_id(),
            failed_flushes=failed,
        )

    async def chain(self, path: str, format: str) -> ChainFacts:
        """Follow the headers from an active image down, never probing a format."""
        images: list[ImageHeader] = []
        seen: set[FileId] = set()
        while True:
            file = self.images.identify(path)
            if file is None:
                return ChainFacts(
                    tuple(images), ("missing_image", f"{path} is missing.")
                )
            if file in seen or len(images) == DEPTH_LIMIT:
                return ChainFacts(
                    tuple(images), ("corrupt_image", f"The chain loops at {path}.")
                )
            seen.add(file)
            plain = os.path.normpath(path)
            path = plain if self.images.identify(plain) == file else path
            try:
                header = await self.images.header(path, format)
            except CommandFailed as error:
                return ChainFacts(tuple(images), ("corrupt_image", error.what))
            images.append(header)
            if header.backing is None:
                return ChainFacts(tuple(images))
            if header.backing_path is None or header.backing_format is None:
                return ChainFacts(
                    tuple(images),
                    (
                        "unsupported_image",
                        f"{path} names its backing image as {header.backing!r}, without"
                        " a plain path or without a format.",
                    ),
                )
            path, format = header.backing_path, header.backing_format

    async def _disk(
        self,
        run: str,
        domain: Domain,
        snapshot: Snapshot,
        others: Sequence[Snapshot],
        target: str,
        live: tuple[LiveChain, ...],
    ) -> DiskFacts:
        entry = snapshot.disk(target)
        disk = domain.disk(target)
        assert entry is not None
        if disk is None:
            return DiskFacts(
                target, entry.frozen, False, ChainFacts(()), None, frozenset(), None
            )
        chain = await self.chain(disk.source, disk.format)
        frozen = self.images.identify(entry.frozen)
        depth = None if frozen is None else chain.index(frozen)
        known = {disk.source}
        for other in others:
            same = other.disk(target)
            if other.name != snapshot.name and same is not None:
                known.add(same.frozen)
        tops = {self.images.identify(path) for path in known}
        facts = DiskFacts(
            target=target,
            frozen=entry.frozen,
            in_domain=True,
            chain=chain,
            depth=depth,
            expected_tops=frozenset(file for file in tops if file is not None),
            live=_live_chain(live, chain, frozen),
        )
        if chain.broken is not None or not facts.has_fold:
            return facts
        if any(unsupported(image) for image in facts.opened):
            return facts  # Refused for that, and never opened.
        try:
            return await self._measured(run, facts, alive=bool(live))
        except CommandFailed as error:
            broken = ChainFacts(chain.images, ("corrupt_image", error.what))
            return replace(facts, chain=broken, depth=None)

    async def _measured(self, run: str, facts: DiskFacts, alive: bool) -> DiskFacts:
        """The same facts, with what is measured only for a disk that has a fold."""
        base, top = facts.base, facts.top
        free, device = await self.images.free_bytes(base.path, base.format)
        folders = sorted({os.path.dirname(image.path) for image in facts.chain.images})
        strangers_by_image = []
        for image, above in ((base, top), (top, facts.above)):
            based = await self.images.dependents(image.file, folders)
            strangers = [
                path
                for path in based
                if above is None or self.images.identify(path) != above.file
            ]
            if image.data is not None:
                shared = await self.images.dependents(image.data.file, folders)
                strangers += [
                    path for path in shared if self.images.identify(path) != image.file
                ]
            strangers_by_image.append((image.path, tuple(strangers)))
        users: list[tuple[str, ImageUser]] = []
        if not alive:
            for image in facts.chain.images[: (facts.depth or 0) + 1]:
                for path in (image.path, *([image.data.path] if image.data else [])):
                    found = await self.images.users(path)
                    users.extend((path, user) for user in found)
        return replace(
            facts,
            top_extents=await self.images.extents(top.path, top.format),
            base_extents=await self.images.extents(base.path, base.format),
            base_stamp=stamp_of(base, self.images),
            free_bytes=free,
            free_device=device,
            users=tuple(users),
            fence_obstacle=(
                self.images.fence_obstacle(top.path, run)
                if facts.above is None
                else None
            ),
            strangers=tuple(strangers_by_image),
        )


def unsupported(image: ImageHeader) -> tuple[str, str] | None:
    """Why an image is never opened, and what helps; None when it may be."""
    if image.encrypted:
        return f"{image.path} is encrypted.", "Decrypt it with `qemu-img convert`."
    if image.data_file is not None and image.data is None:
        return (
            f"{image.path} has the data file {image.data_file!r}, which is not another"
            " file of the same owner beside it, named by an absolute path.",
            "Move it there; `qemu-img amend -o data_file=PATH` changes the name.",
        )
    return None


def _live_chain(
    live: tuple[LiveChain, ...], chain: ChainFacts, frozen: FileId | None
) -> LiveChain | None:
    """The device that has this disk: by its active image, else by the frozen one."""
    active = chain.images[0].file if chain.images else None
    for wanted in (active, frozen):
        for candidate in live:
            if wanted is not None and candidate.index(wanted) is not None:
                return candidate
    return None
