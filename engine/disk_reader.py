"""The images of each disk of a domain, and what of them a deletion is about.

Decides nothing about what is allowed, and writes nothing.
"""

from __future__ import annotations

import os.path
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..journal import catalog
from ..journal.errors import CommandFailed
from ..journal.model import Domain, FileId, Snapshot, TreeImage
from ..journal.store import Store
from ..states.options import Options
from ..states.ports import Bitmap, ImageHeader, Images, LiveChain
from ..states.stamps import stamp_of
from .facts import ChainFacts, DiskFacts, FoldFacts, RetiredFacts, unsupported
from .secret_files import SecretRefused
from .tree import DiskTree, Outcome, Segment

Headers = dict[FileId, ImageHeader]


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a domain already; ``gone`` are the snapshots that go."""

    domain: Domain
    snapshots: tuple[Snapshot, ...]
    gone: tuple[Snapshot, ...]
    live: tuple[LiveChain, ...]
    is_alive: bool
    bitmaps: Mapping[FileId, tuple[Bitmap, ...]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        """The names of the snapshots that go."""
        return frozenset(snapshot.name for snapshot in self.gone)

    def line(self) -> frozenset[str]:
        """The current snapshot and its ancestors."""
        by_name = {snapshot.name: snapshot for snapshot in self.snapshots}
        found = set()
        at = next((s.name for s in self.snapshots if s.current), None)
        while at is not None:
            found.add(at)
            at = by_name[at].parent
        return frozenset(found)


@dataclass(slots=True)
class _Disk:
    """One disk while it is read."""

    target: str
    chain: ChainFacts
    headers: Headers
    labels: dict[FileId, set[str]] = field(default_factory=dict)
    kept: set[FileId] = field(default_factory=set)
    misplaced: list[tuple[str, str, str]] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)

    @property
    def active(self) -> FileId | None:
        return self.chain.images[0].file if self.chain.images else None


@dataclass(frozen=True, slots=True)
class DiskReader:
    """Reads the disks that a deletion is about."""

    store: Store
    images: Images
    chain: Callable[[str, str, Headers], Awaitable[ChainFacts]]
    run: str
    options: Options
    seen: Seen
    #: What lies in each folder that was searched; one look is enough for a plan.
    searched: dict[str, Mapping[FileId, Sequence[str]]] = field(default_factory=dict)

    async def read(self) -> tuple[DiskFacts, ...]:
        """Every disk of the snapshots that go, and those with images to fold."""
        name = self.seen.domain.name
        kept = await self.store.read(lambda db: catalog.kept_images(db, name))
        folders = await self.store.read(catalog.image_folders)
        targets = [disk.target for disk in self.seen.domain.disks]
        mine = {entry.target for gone in self.seen.gone for entry in gone.disks}
        mine |= {target for target, _ in kept}
        targets += sorted(mine - set(targets))
        return tuple(
            [
                await self._disk(
                    target,
                    [path for each, path in kept if each == target],
                    sorted({*folders, *self.options.image_folders}),
                )
                for target in targets
                if target in mine
            ]
        )

    async def _disk(
        self, target: str, kept: Sequence[str], folders: Sequence[str]
    ) -> DiskFacts:
        disk = await self._tree(target, kept, folders)
        live = _live_chain(self.seen.live, disk.chain)
        facts = DiskFacts(
            target, disk.chain, live, tuple(disk.misplaced), tuple(disk.broken)
        )
        if disk.chain.broken is not None or disk.broken or disk.misplaced:
            return facts
        tree, made = await self._as_tree(disk)
        outcome = tree.without(self.seen.names)
        picked = self._pick(outcome, disk)
        retired: list[RetiredFacts] = []
        lent: list[FileId] = []
        for image in outcome.retired:
            found = await self._retired(
                disk.headers[image],
                outcome,
                lambda file: bool(made.get(disk.headers[file].path)),
                folders,
            )
            on_lent = any(above in lent for above in tree.dependents(image))
            # What a disk that was taken away is based on is the operator's by now.
            if disk.active is None and (found.strangers or on_lent):
                lent.append(image)
            else:
                retired.append(found)
        stays = [image for each in outcome.segments for image in each.lower]
        if picked is not None:
            stays = [image for image in stays if image not in picked.lower]
        paths = {file: disk.headers[file].path for file in disk.headers}
        facts = replace(
            facts,
            retired=tuple(retired),
            kept=tuple(
                (
                    paths[image],
                    tuple(
                        paths[above]
                        for above in tree.dependents(image)
                        if above not in outcome.retired
                    ),
                )
                for image in (*stays, *outcome.shared, *lent)
            ),
            has_more=len(outcome.segments) > (picked is not None),
            images=_tree_images(disk, tree),
            searched=tuple(folders),
        )
        if picked is None:
            return facts
        try:
            fold = await self._fold(picked, tree, disk, made, live, folders)
        except CommandFailed as error:
            is_key = isinstance(error, SecretRefused)
            code = "secret_refused" if is_key else "corrupt_image"
            return replace(facts, broken=((code, error.what),))
        return replace(facts, fold=fold)

    async def _tree(
        self, target: str, kept: Sequence[str], folders: Sequence[str]
    ) -> _Disk:
        """The chains of the active image, of every snapshot, and of what was kept."""
        headers: Headers = {}
        active = self.seen.domain.disk(target)
        chain = ChainFacts(())
        if active is not None:
            chain = await self.chain(active.source, active.format, headers)
        disk = _Disk(target, chain, headers)
        line = self.seen.line()
        for snapshot in self.seen.snapshots:
            entry = snapshot.disk(target)
            if entry is None:
                continue
            goes = snapshot.name in self.seen.names
            file = await self._look(disk, entry.frozen, entry.format, goes)
            if file is None:
                continue
            disk.labels.setdefault(file, set()).add(snapshot.name)
            if not goes or active is None:
                continue
            if file == disk.active:
                why = f"is the active image of {target}"
            elif snapshot.name in line and chain.index(file) is None:
                why = f"is not in the chain of {target}"
            else:
                continue
            disk.misplaced.append((snapshot.name, entry.frozen, why))
        spare = [
            await self._look(disk, path, "qcow2", is_needed=False) for path in kept
        ]
        for file in spare:
            # What somebody else needs stays, and is no reason to refuse anything.
            if file in disk.headers and not await self._strangers(
                disk.headers[file], set(disk.headers), folders
            ):
                disk.kept.add(file)
        return disk

    async def _look(
        self, disk: _Disk, path: str, format: str, is_needed: bool
    ) -> FileId | None:
        """An image's file, with its chain read; its catalog's name is the one used."""
        file = self.images.identify(path)
        if file is None:
            if is_needed:
                disk.broken.append(("missing_image", f"{path} is missing."))
            return None
        if file not in disk.headers:
            found = await self.chain(path, format, disk.headers)
            if found.broken is not None and (
                is_needed or found.broken[0] != "missing_image"
            ):
                disk.broken.append(found.broken)
        if file in disk.headers:
            disk.headers[file] = replace(disk.headers[file], path=path)
        return file

    async def _as_tree(self, disk: _Disk) -> tuple[DiskTree, dict[str, str | None]]:
        headers = disk.headers
        paths = [header.path for header in headers.values()]
        made = await self.store.read(lambda db: catalog.makers(db, paths))
        below: dict[FileId, FileId | None] = {}
        for file, header in headers.items():
            path = header.backing_path
            below[file] = None if path is None else self.images.identify(path)
        labels = {file: frozenset(names) for file, names in disk.labels.items()}
        return DiskTree(below, disk.active, labels, frozenset(disk.kept)), made

    def _pick(self, outcome: Outcome, disk: _Disk) -> Segment | None:
        """The segment of this pass: of a snapshot that goes, in the active chain."""
        ready = [each for each in outcome.segments if each.is_ready]
        if self.seen.gone:
            ready = [
                each
                for each in ready
                if any(disk.labels.get(image) for image in each.lower)
            ]
        ready.sort(key=lambda each: disk.chain.index(each.top) is None)
        return ready[0] if ready else None

    async def _fold(
        self,
        segment: Segment,
        tree: DiskTree,
        disk: _Disk,
        made: dict[str, str | None],
        live: LiveChain | None,
        folders: Sequence[str],
    ) -> FoldFacts:
        chain, first = _chain_of(segment, tree, disk)
        names = self.seen.names
        labels = [disk.labels.get(image, set()) for image in segment.lower]
        fold = FoldFacts(
            chain=chain,
            first=first,
            last=first + len(segment.lower),
            in_domain=live is not None and live.index(segment.top) is not None,
            is_ours=bool(made.get(disk.headers[segment.lower[-1]].path)),
            is_known=segment.top == disk.active
            or disk.headers[segment.top].path in made,
            is_named=segment.top == disk.active
            or bool(disk.labels.get(segment.top, set()) - names),
            snapshots=tuple(sorted(set[str]().union(*labels))),
            bitmaps=self.seen.bitmaps,
            secret=self.options.secrets.get(disk.target),
            stale=await self._stale(segment, disk),
        )
        if any(unsupported(i) or fold.lacks_secret(i) for i in fold.opened):
            # Refused for that, and never opened.
            return replace(fold, extents=((),) * len(fold.layers))
        return await self._measured(fold, folders)

    async def _stale(self, segment: Segment, disk: _Disk) -> int:
        """How many of the lowest layers were put away before the last revert.

        Told by the snapshots that froze them; of one without any, by who made it.
        """
        name = self.seen.domain.name
        reverted = await self.store.read(
            lambda db: catalog.last_revert(db, name, disk.target)
        )
        if reverted is None:
            return 0
        since, made = reverted
        created = {snapshot.name: snapshot.created for snapshot in self.seen.snapshots}
        for number, image in enumerate(segment.lower):
            times = [created[name] for name in disk.labels.get(image, ())]
            is_older = disk.headers[image].path not in made
            if max(times) < since if times else is_older:
                return len(segment.lower) - number
        return 0

    async def _measured(self, fold: FoldFacts, folders: Sequence[str]) -> FoldFacts:
        above = fold.above
        strangers = []
        expected = [*fold.layers]
        for image, over in zip(expected[1:], expected, strict=False):
            others = await self._strangers(image, {over.file}, folders)
            strangers.append((image.path, others))
        top_users = await self._strangers(fold.top, set(), folders)
        used = () if fold.in_domain else fold.chain.images[: fold.last + 1]
        paths = [path for image in used for path in paths_of(image)]
        found = [(path, await self.images.users(path)) for path in paths]
        return replace(
            fold,
            extents=tuple(
                [
                    await self.images.extents(image.path, image.format, fold.key(image))
                    for image in fold.layers
                ]
            ),
            base_stamp=stamp_of(fold.base, self.images),
            free_above=await self._free_bytes(fold, fold.top),
            free_below=await self._free_bytes(fold, fold.base),
            users=tuple((path, user) for path, users in found for user in users),
            fence_obstacle=(
                self.images.fence_obstacle(fold.top.path, self.run)
                if above is None
                else None
            ),
            strangers=tuple(strangers),
            top_users=tuple(
                path
                for path in top_users
                if above is None or self.images.identify(path) != above.file
            ),
        )

    async def _free_bytes(self, fold: FoldFacts, image: ImageHeader) -> tuple[int, int]:
        return await self.images.free_bytes(image.path, image.format, fold.key(image))

    async def _strangers(
        self, image: ImageHeader, known: set[FileId], folders: Iterable[str]
    ) -> tuple[str, ...]:
        """Images that are based on this one, other than those that may be."""
        where = sorted({*folders, os.path.dirname(image.path)})
        based = await self._dependents(image.file, where)
        found = [path for path in based if self.images.identify(path) not in known]
        if image.data is not None:
            shared = await self._dependents(image.data.file, where)
            found += [p for p in shared if self.images.identify(p) != image.file]
        return tuple(found)

    async def _dependents(self, file: FileId, folders: Iterable[str]) -> list[str]:
        """The paths of images that name this file, each of them once."""
        found: dict[FileId | None, str] = {}
        for folder in folders:
            if folder not in self.searched:
                self.searched[folder] = await self.images.dependents([folder])
            for path in self.searched[folder].get(file, ()):
                found.setdefault(self.images.identify(path), path)
        return list(found.values())

    async def _retired(
        self,
        image: ImageHeader,
        outcome: Outcome,
        is_ours: Callable[[FileId], bool],
        folders: Sequence[str],
    ) -> RetiredFacts:
        if not is_ours(image.file):
            return RetiredFacts(image, (), (), is_ours=False)
        users = await self.images.users(image.path)
        removed = {file for file in outcome.retired if is_ours(file)}
        strangers = await self._strangers(image, removed, folders)
        return RetiredFacts(image, [u for u in users if u.holds], strangers)


def _tree_images(disk: _Disk, tree: DiskTree) -> tuple[TreeImage, ...]:
    """Every image of the disk, those that others are based on first."""

    def above(file: FileId | None) -> list[TreeImage]:
        found = []
        for each, below in tree.below.items():
            if below == file:
                header = disk.headers[each]
                found.append(
                    TreeImage(
                        disk.target,
                        header.path,
                        None if file is None else disk.headers[file].path,
                        tuple(sorted(disk.labels.get(each, ()))),
                        each == disk.active,
                    )
                )
                found += above(each)
        return found

    return tuple(above(None))


def paths_of(image: ImageHeader) -> tuple[str, ...]:
    """The files of an image: its own, and that of its data."""
    return (image.path,) if image.data is None else (image.path, image.data.path)


def _chain_of(segment: Segment, tree: DiskTree, disk: _Disk) -> tuple[ChainFacts, int]:
    """The chain that a segment lies in, and the depth of its top."""

    def down(file: FileId | None) -> list[ImageHeader]:
        found = []
        while file is not None:
            found.append(disk.headers[file])
            file = tree.below.get(file)
        return found

    depth = disk.chain.index(segment.top)
    if depth is not None:
        return ChainFacts(tuple(down(disk.active))), depth
    above = tree.dependents(segment.top)
    if len(above) == 1:
        return ChainFacts(tuple(down(above[0]))), 1
    return ChainFacts(tuple(down(segment.top))), 0


def _live_chain(live: tuple[LiveChain, ...], chain: ChainFacts) -> LiveChain | None:
    """The device that has this disk: by its active image, else by one below."""
    for image in chain.images:
        for candidate in live:
            if candidate.index(image.file) is not None:
                return candidate
    return None
