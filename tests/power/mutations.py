"""The engine without one of its flushes: recordings of it must show losses.

A mutation is applied to the recorded process only, so that the method is proved: a
check that stays green without a flush would not have noticed that it is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backfold.engine import files
from backfold.engine.images import QemuImages
from backfold.journal import store
from backfold.states import pivot, vote


@dataclass(frozen=True, slots=True)
class Mutation:
    """What is left out, and the run (order, power, snapshot, disks) that shows it."""

    what: str
    apply: Callable[[], None]
    order: str = "delete"
    power: str = "running"
    snapshot: str = "s3"


async def _nothing(*_: object) -> None:
    """Instead of something that flushes."""


def _without_flush_in_pending() -> None:
    for module in (vote, pivot):
        setattr(module, "flush_copied", _nothing)  # noqa: B010


def _without_folder_sync() -> None:
    files.sync_folders = lambda path, *folders: None


def _without_sync(passes_over: Callable[[str], bool]) -> Callable[[], None]:
    def apply() -> None:
        sync = QemuImages.sync

        async def some(self: QemuImages, paths: Sequence[str]) -> None:
            await sync(self, [path for path in paths if not passes_over(path)])

        QemuImages.sync = some  # type: ignore[method-assign]

    return apply


def _journal(synchronous: str) -> Callable[[], None]:
    def apply() -> None:
        connect: Callable[..., Any] = store._connect

        def weaker(*arguments: Any) -> Any:
            db = connect(*arguments)
            db.execute(f"PRAGMA synchronous = {synchronous}")
            return db

        store._connect = weaker  # type: ignore[assignment]

    return apply


MUTATIONS: Final = {
    "flush-pending": Mutation(
        "the flush in PENDING of what an intermediate fold copied",
        _without_flush_in_pending,
        snapshot="s2",
    ),
    "fence-fsync": Mutation(
        "the fsync of directories after a fence, its release and a removal",
        _without_folder_sync,
    ),
    "header-fsync": Mutation(
        "the fsync of a header whose link has changed, and of what was copied",
        _without_sync(lambda path: True),
        power="paused",
        snapshot="s2",
    ),
    "hold-fsync": Mutation(
        "the fsync in the hold of overlays and bases",
        _without_sync(lambda path: True),
    ),
    "overlay-name": Mutation(
        "the fsync of the directory of a new overlay",
        _without_folder_sync,
        order="create",
        snapshot="s4",
    ),
    "journal-off": Mutation("every flush of the journal", _journal("OFF")),
    "journal-normal": Mutation(
        "the flush of the journal at each commit", _journal("NORMAL")
    ),
}
