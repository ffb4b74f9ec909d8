"""What a power cut leaves, looked at by hand: journal, truth, and every guest write.

Nothing is recovered here. The journal is opened by SQLite as it is in the state; the
images are read by `qcow2`. Three questions are asked of each state:

- does the journal come back, and do its sources (design §2.2, `boot_sources`) name
  chains that hold every write that the guest was told is durable?
- without any journal: is an overlay of its own name complete, and beside a fenced or
  removed one the base?
- do the snapshots that the journal calls valid still hold their point in time?
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlite_utils import Database

from backfold.engine import files
from backfold.engine.truth import boot_sources, sources_in_creation
from backfold.journal import catalog, runs
from backfold.journal.errors import BackfoldError, CommandFailed
from backfold.journal.model import Disk, Domain, FileId, FileStamp, Snapshot
from backfold.journal.runs import CreationRow, DeletionRow

from .cuts import Content, State
from .guest_writes import Expected, frozen_content
from .qcow2 import Image, Unreadable, is_empty, open_image


class StateImages:
    """The part of the `Images` port that finds the truth, over a state."""

    def __init__(self, state: State, device: int) -> None:
        self._state = state
        self._device = device

    def identify(self, path: str) -> FileId | None:
        found = self._state.files.get(path)
        return None if found is None else FileId(self._device, found.inode.number)

    def stamp(self, path: str) -> FileStamp | None:
        found = self._state.files.get(path)
        return None if found is None else FileStamp(found.size, found.mtime)

    async def is_empty(self, path: str, format: str, secret: str | None = None) -> bool:
        try:
            return is_empty(self._state, path)
        except Unreadable as error:
            raise CommandFailed(str(error)) from error

    def fence_name(self, path: str, run: str) -> str:
        return path + files.FENCE + run


@dataclass(frozen=True, slots=True)
class Books:
    """What a journal says."""

    domain: Domain
    deletion: DeletionRow | None
    snapshots: tuple[Snapshot, ...]
    creation: CreationRow | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A superseded active image and its base, for whoever has no journal."""

    disk: int
    top: str
    base: str
    format: str


@dataclass
class ByHand:
    """Looks at the states of one recording."""

    journal: str
    device: int
    domain: str
    targets: list[str]
    expected: Expected
    scratch: Path
    #: What valid snapshots hold, by name and disk; filled from the first state.
    snapshots: dict[tuple[str, int], dict[int, bytes]] = field(default_factory=dict)
    pairs: tuple[Pair, ...] = ()
    #: Whether the last state was one that the engine reports without judging it.
    in_doubt: bool = False
    _books: dict[object, Books | str] = field(default_factory=dict)
    _frozen: set[object] = field(default_factory=set)

    def wrong(self, state: State) -> list[str]:
        """Everything that is wrong with a state; nothing when nothing is lost."""
        self.in_doubt = False
        books = self.books(state)
        if isinstance(books, str):
            return [books]
        return [
            *self._truth(state, books),
            *self._without_journal(state),
            *self._snapshots(state, books),
        ]

    def books(self, state: State) -> Books | str:
        """The journal of a state, opened by SQLite; or why it did not come back."""
        logs = [self.journal + end for end in ("", "-wal", "-journal")]
        contents = [state.files.get(path) for path in logs]
        key = tuple(content and content.key for content in contents)
        if key not in self._books:
            for path, content in zip(logs, contents, strict=True):
                copy = self.scratch / Path(path).name
                copy.unlink(missing_ok=True)
                if content is not None:
                    copy.write_bytes(content.bytes())
            self._books[key] = self._read(self.scratch / Path(self.journal).name)
        return self._books[key]

    def _read(self, path: Path) -> Books | str:
        connection = sqlite3.connect(path, isolation_level=None)
        db = Database(connection, strict=True, execute_plugins=False)
        try:
            answers = [row[0] for row in db.execute("pragma integrity_check")]
            if answers != ["ok"]:
                return f"journal: {answers[0]}"
            opened = [
                row
                for row in runs.list_deletions(db, only_open=True)
                if row.domain == self.domain
            ]
            creations = [
                row for row in runs.open_creations(db) if row.domain == self.domain
            ]
            return Books(
                catalog.domain(db, self.domain),
                opened[0] if opened else None,
                tuple(catalog.snapshots(db, self.domain)),
                creations[0] if creations else None,
            )
        except (sqlite3.Error, BackfoldError) as error:
            return f"journal: {error}"
        finally:
            db.close()
            for end in ("-wal", "-shm"):
                path.with_name(path.name + end).unlink(missing_ok=True)

    def _truth(self, state: State, books: Books) -> Iterator[str]:
        images = StateImages(state, self.device)
        if books.creation is not None:
            yield from self._truth_in_creation(state, books.domain, books.creation)
            return
        sources = boot_sources(books.domain, books.deletion, images)  # type: ignore[arg-type]
        for source in sources:
            if source.doubt is not None:
                yield f"{source.disk.target}: nobody can tell: {source.doubt}"
            yield from self._lost_in(state, source.disk, "journal")

    def _truth_in_creation(
        self, state: State, domain: Domain, creation: CreationRow
    ) -> Iterator[str]:
        """As `_truth`; a doubt is allowed as long as the overlays hold everything.

        Between the switch and the flush of the frozen images only times tell old and
        new images apart, and a power cut may take the overlay's time back.
        """
        images = StateImages(state, self.device)
        sources = asyncio.run(
            sources_in_creation(domain, creation, images)  # type: ignore[arg-type]
        )
        overlays = {one.target: one.overlay for one in creation.plan.overlays}
        for source in sources:
            disk = source.disk
            if source.doubt is not None:
                self.in_doubt = True
                disk = Disk(disk.target, overlays[disk.target], "qcow2")
            yield from self._lost_in(state, disk, "journal")

    def _lost_in(self, state: State, disk: Disk, source: str) -> Iterator[str]:
        number = self.targets.index(disk.target)
        yield from self._lost(state, number, disk.source, disk.format, source)

    def _without_journal(self, state: State) -> Iterator[str]:
        for pair in self.pairs:
            path, format = pair.top, "qcow2"
            if path not in state.files:
                path, format = pair.base, pair.format
            yield from self._lost(state, pair.disk, path, format, "no journal")

    def _lost(
        self, state: State, disk: int, path: str, format: str, source: str
    ) -> Iterator[str]:
        try:
            lost = self.expected.wrong(open_image(state, path, format), disk)
        except Unreadable as error:
            yield f"{self.targets[disk]}: {error} ({source})"
            return
        if lost:
            yield f"{self.targets[disk]}: {lost} writes lost in {path} ({source})"

    def _snapshots(self, state: State, books: Books) -> Iterator[str]:
        for snapshot in books.snapshots:
            if snapshot.status != "valid":
                continue
            for entry in snapshot.disks:
                disk = self.targets.index(entry.target)
                what = f"{entry.target}: snapshot {snapshot.name}"
                try:
                    image = open_image(state, entry.frozen, entry.format)
                except Unreadable as error:
                    yield f"{what}: {error}"
                    continue
                seen = (snapshot.name, disk, _chain_key(image))
                if seen in self._frozen:
                    continue
                found = frozen_content(image, self.expected, disk)
                if self.snapshots.setdefault((snapshot.name, disk), found) != found:
                    yield f"{what} has changed in {entry.frozen}"
                else:
                    self._frozen.add(seen)


def _chain_key(image: Image | None) -> tuple[object, ...]:
    if image is None:
        return ()
    content: Content = image.content
    return (content.key, *_chain_key(image.below))
