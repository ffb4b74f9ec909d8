"""The world, read once through the ports. Decides nothing, and writes nothing."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..journal import catalog, runs
from ..journal.errors import CommandFailed, MonitorBusy, Reason
from ..journal.model import Domain, FileId, MemoryFile
from ..journal.store import Store
from ..states.carry_bitmaps import without_notes
from ..states.options import Options
from ..states.ports import (
    Bitmap,
    DefinitionHook,
    Hypervisor,
    ImageHeader,
    Images,
    LiveChain,
    Session,
)
from .disk_reader import DiskReader, Seen
from .facts import ChainFacts, DiskFacts, Facts, MemoryFacts
from .hooks import hook_unusable
from .selection import selected

#: A chain that is longer than this is taken for a mistake, or an attack.
DEPTH_LIMIT: Final = 256


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the facts through the ports."""

    store: Store
    hypervisor: Hypervisor
    images: Images
    managed: Callable[[], Mapping[FileId, str]]
    boot_id: Callable[[], str]
    hook: DefinitionHook

    def hook_reasons(self, domain: Domain) -> tuple[Reason, ...]:
        """Why the hook of a domain could not be called, if it has one."""
        why = None if domain.hook is None else self.hook.obstacle(domain.hook)
        return () if why is None else (hook_unusable(domain.name, why),)

    async def read(
        self,
        run: str,
        name: str,
        snapshot: str,
        options: Options,
        earlier: int | None = None,
    ) -> Facts:
        """Read everything once. Raises `Refused` for an unknown domain or snapshot."""
        domain = await self.store.read(lambda db: catalog.domain(db, name))
        others = await self.store.read(lambda db: catalog.snapshots(db, name))
        gone = () if earlier is not None else selected(name, others, snapshot, options)
        open_runs = await self.store.read(
            lambda db: runs.open_run_reasons(db, name, but=run)
        )
        failed = await self.store.read(
            lambda db: runs.failed_flushes(db, self.boot_id())
        )
        looks = not options.metadata_only
        busy = False
        session: Session | None = None
        try:
            if domain.monitor is not None and looks:
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
            bitmaps = {} if session is None else await _bitmaps(session, live)
        finally:
            if session is not None:
                await session.close()
        disks: tuple[DiskFacts, ...] = ()
        if looks:
            is_alive = session is not None
            seen = Seen(domain, tuple(others), gone, live, is_alive, bitmaps)
            disks = await DiskReader(
                self.store, self.images, self.chain, run, options, seen
            ).read()
        memories = [
            await self._memory(each.name, each.memory)
            for each in gone
            if looks and each.memory is not None
        ]
        return Facts(
            run=run,
            domain=domain,
            named=snapshot,
            snapshots=gone,
            disks=disks,
            open_runs=open_runs,
            monitor_busy=busy,
            run_state=run_state,
            jobs=jobs,
            exports=exports,
            managed=self.managed(),
            options=options,
            boot_id=self.boot_id(),
            failed_flushes=failed,
            earlier=earlier,
            memories=tuple(memories),
            hook=self.hook_reasons(domain),
        )

    async def _memory(self, snapshot: str, path: str) -> MemoryFacts:
        users = [user for user in await self.images.users(path) if user.holds]
        memory = MemoryFile(snapshot, path, self.images.identify(path))
        return MemoryFacts(memory, tuple(users))

    async def chain(
        self,
        path: str,
        format: str,
        known: dict[FileId, ImageHeader] | None = None,
    ) -> ChainFacts:
        """Follow the headers from an image down, never probing a format.

        ``known`` are headers that were read already; it learns the others.
        """
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
            header = None if known is None else known.get(file)
            if header is None:
                try:
                    header = await self.images.header(path, format)
                except CommandFailed as error:
                    return ChainFacts(tuple(images), ("corrupt_image", error.what))
            if known is not None:
                known[file] = header
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


async def _bitmaps(
    session: Session, live: Sequence[LiveChain]
) -> dict[FileId, tuple[Bitmap, ...]]:
    """The bitmaps of every image that has a name still; not our own notes."""
    images = [image for chain in live for image in chain.images]
    found = zip(images, await session.bitmaps(images), strict=True)
    return {
        image.file: without_notes(bitmaps)
        for image, bitmaps in found
        if image.file is not None
    }
