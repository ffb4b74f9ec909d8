"""Whether frozen images still hold their point in time when a deletion is undone.

A snapshot becomes valid again only by a positive proof that nothing was written into
its frozen images since the first plan of the run. Size and modification time prove it
under conditions that are checked here, and a job that was announced counts as having
written when they are not met: when in doubt the snapshot is invalid, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from ..journal import runs
from ..journal.model import FileId, FileStamp, FoldPlan
from ..journal.runs import TransitionRow
from .context import Context
from .stamps import stamp_of

#: The kernel's clock for modification times moves in ticks of 1 to 10 ms: a write in
#: the tick of the last one does not change the time. Some ticks more, nanoseconds.
TICK_NS: Final = 50_000_000
#: File systems that keep whole seconds (or two, as FAT does), nanoseconds.
WHOLE_SECONDS_NS: Final = 2_100_000_000
_SECOND_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Start:
    """A job that was announced: its disk, when (ns since the epoch), in which boot.

    ``boot_id`` is None for rows of a version that did not write it.
    """

    disk: str
    at_ns: int
    boot_id: str | None

    @classmethod
    def of(cls, row: TransitionRow) -> Start:
        """Read the row that announced it."""
        return cls(row.detail["disk"], nanoseconds(row.at), row.detail.get("boot"))


def nanoseconds(time: str) -> int:
    """Nanoseconds since the epoch of a time of the journal (UTC, ISO 8601)."""
    return int(datetime.fromisoformat(time).timestamp() * 1e6) * 1000


def settles_at(stamp: FileStamp) -> int:
    """From when on every write changes this stamp, in ns since the epoch."""
    if stamp.mtime_ns % _SECOND_NS == 0:
        return stamp.mtime_ns + WHOLE_SECONDS_NS
    return stamp.mtime_ns + TICK_NS


def why_not_unwritten(
    fold: FoldPlan,
    now: tuple[FileId | None, FileStamp | None],
    starts: Sequence[Start],
    boot_id: str,
) -> str | None:
    """Why it is not proved that a frozen image was left alone; None when it is.

    Args:
        fold: With the stamp of the first plan. Its image was synced before that plan
            was stored, so that a power cut does not change its times.
        now: What is found under the image's name, and its stamp.
        starts: Every job that this run has announced, in this boot or before.
        boot_id: This boot of the host.
    """
    file, stamp = now
    mine = [start for start in starts if start.disk == fold.target]
    if file is None or stamp is None:
        return "the image is not there"
    if file != fold.base.file:
        return "another file has its name"
    if stamp != fold.base_stamp:
        return "it was written into"
    if not mine:
        return None
    if stamp.is_silent:
        return "a job was started, and the times of a device do not tell of writes"
    if any(start.boot_id != boot_id for start in mine):
        # QEMU flushes by fdatasync: what it wrote may have survived a power cut that
        # took the new modification time.
        return "a job was started, and the host was restarted since"
    if any(start.at_ns < settles_at(stamp) for start in mine):
        return "a job was started in the instant of the last write before it"
    return None


async def settle(ctx: Context, folds: Sequence[FoldPlan]) -> None:
    """Wait until a write must change the stamp of each frozen image.

    Milliseconds on most file systems, and nothing when the image is not brand new. A
    time in the future is not waited for: then a job that starts leaves a doubt.
    """
    now = nanoseconds(ctx.clock.now())
    left = max((settles_at(fold.base_stamp) - now for fold in folds), default=0)
    if 0 < left <= WHOLE_SECONDS_NS:
        await ctx.clock.sleep(left / 1e9)


async def written_images(ctx: Context) -> Mapping[str, str]:
    """Frozen images of this run that may have been written into, with the reason.

    Looks when nobody can write any more: jobs and helper have ended. Only reads.
    """
    rows = await ctx.read(lambda db: runs.announced(db, ctx.id, "start_job"))
    starts = [Start.of(row) for row in rows]
    found: dict[str, str] = {}
    for fold in ctx.plan.folds:
        if fold.is_stream:
            continue  # It writes into the image above, and changes nothing there.
        path = fold.base.path
        now = (ctx.images.identify(path), stamp_of(fold.base, ctx.images))
        why = why_not_unwritten(fold, now, starts, ctx.clock.boot_id())
        if why is not None:
            found[path] = why
    return found


def invalid_reason(
    run: str, former: str | None, written: Mapping[str, str]
) -> str | None:
    """Why a snapshot is invalid after a roll back; None when it is valid.

    What made it invalid first stays: its point in time was lost then.
    """
    if former is not None or not written:
        return former
    images = "; ".join(f"{path}: {why}" for path, why in written.items())
    return f"deletion {run} was given up after it had begun ({images})"
