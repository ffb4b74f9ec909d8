"""states/frozen_images.py: valid by proof only, and never by the lack of a trace."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backfold.journal.model import DEVICE_STAMP, FileId, FileStamp, FoldPlan, Image
from backfold.journal.runs import TransitionRow
from backfold.states.context import Context
from backfold.states.frozen_images import (
    TICK_NS,
    WHOLE_SECONDS_NS,
    Start,
    invalid_reason,
    nanoseconds,
    settle,
    settles_at,
    why_not_unwritten,
)

BOOT = "this boot"
FILE = FileId(1, 2)
NOW = 1_700_000_000_000_000_000
STAMP = FileStamp(4096, NOW - 3_600_000_000_001)


def fold(stamp: FileStamp = STAMP, target: str = "vda") -> FoldPlan:
    image = Image("/base", "qcow2", FILE, 1 << 20)
    top = Image("/top", "qcow2", FileId(1, 3), 1 << 20)
    return FoldPlan(
        target=target,
        job="job",
        strategy="commit",
        chain=(top, image),
        first=0,
        last=1,
        link=None,
        copy_bytes=0,
        space_bytes=0,
        base_stamp=stamp,
    )


def start(at_ns: int = NOW, boot: str | None = BOOT, disk: str = "vda") -> Start:
    return Start(disk, at_ns, boot)


def why(
    *starts: Start,
    first: FileStamp = STAMP,
    now: FileStamp | None = STAMP,
    file: FileId | None = FILE,
) -> str | None:
    return why_not_unwritten(fold(first), (file, now), starts, BOOT)


def test_no_job_and_the_same_stamp() -> None:
    assert why() is None


def test_job_that_wrote_nothing() -> None:
    """Announced, and killed before it began; or there was nothing to copy."""
    assert why(start()) is None


@pytest.mark.parametrize(
    "now",
    [
        FileStamp(STAMP.size, STAMP.mtime_ns + 1),
        FileStamp(STAMP.size + 1, STAMP.mtime_ns),
        FileStamp(STAMP.size, STAMP.mtime_ns - 1),
    ],
)
@pytest.mark.parametrize("starts", [(), (start(),)])
def test_any_other_stamp(now: FileStamp, starts: tuple[Start, ...]) -> None:
    """Whoever wrote: the point in time is gone."""
    assert why(*starts, now=now) == "it was written into"


def test_image_that_is_gone_or_replaced() -> None:
    """The same size and times prove nothing about another file."""
    assert "not there" in str(why(file=None, now=None))
    assert "another file" in str(why(file=FileId(1, 9)))


@pytest.mark.parametrize("boot", ["an earlier boot", None])
def test_job_of_another_boot(boot: str | None) -> None:
    """A power cut may keep what was written and lose the time of it."""
    assert "restarted" in str(why(start(boot=boot)))
    assert "restarted" in str(why(start(boot=boot), start()))


def test_job_in_the_tick_of_the_last_write() -> None:
    """The kernel's clock had not moved yet: a write would not show."""
    settled = settles_at(STAMP)

    assert settled == STAMP.mtime_ns + TICK_NS
    assert why(start(settled)) is None
    assert "instant" in str(why(start(settled - 1)))
    assert "instant" in str(why(start(), start(settled - 1)))


def test_file_system_that_keeps_whole_seconds() -> None:
    whole = FileStamp(4096, NOW)

    assert settles_at(whole) == NOW + WHOLE_SECONDS_NS
    assert "instant" in str(why(start(NOW + TICK_NS), first=whole, now=whole))
    assert why(start(NOW + WHOLE_SECONDS_NS), first=whole, now=whole) is None


def test_block_device() -> None:
    """Its stamp has no size, and no time that a write changes."""
    device = DEVICE_STAMP

    assert why(first=device, now=device) is None
    assert "device" in str(why(start(), first=device, now=device))


def test_job_of_another_disk() -> None:
    assert why(start(boot="an earlier boot", disk="vdb")) is None


def test_start_is_read_from_its_row() -> None:
    at = "2023-11-14T22:13:20.000001+00:00"
    row = TransitionRow(
        *("deletion", "commit_per_disk", "start_job", "commit_per_disk", "announce"),
        *("me", 1, {"disk": "vda", "job": "j"}, at),
    )

    assert nanoseconds(at) == NOW + 1000
    assert Start.of(row) == Start("vda", NOW + 1000, None)


def test_reason_names_what_was_written_and_the_first_one_stays() -> None:
    assert invalid_reason("id", None, {}) is None
    assert invalid_reason("id", "long ago", {}) == "long ago"
    assert invalid_reason("id", "long ago", {"/a": "written"}) == "long ago"
    assert "/a: written; /b: gone" in str(
        invalid_reason("id", None, {"/a": "written", "/b": "gone"})
    )


@dataclass
class SlowClock:
    """A clock that shows one time and keeps what it was asked to sleep."""

    slept: list[float] = field(default_factory=list)

    def now(self) -> str:
        return "2023-11-14T22:13:20.000000+00:00"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@pytest.mark.parametrize(
    ("mtime_ns", "slept"),
    [
        (NOW - TICK_NS, []),
        (NOW - 1, [(TICK_NS - 1) / 1e9]),
        (NOW - 1_000_000_000, [1.1]),
        (NOW + WHOLE_SECONDS_NS, []),
    ],
)
def test_settle_waits_for_the_next_tick(mtime_ns: int, slept: list[float]) -> None:
    """Never for long, and not for a time in the future."""
    clock = SlowClock()
    ctx: Any = SimpleNamespace(clock=clock)
    young, old = fold(FileStamp(1, mtime_ns)), fold(target="vdb")

    asyncio.run(settle(cast(Context, ctx), [old, young]))

    assert clock.slept == slept
