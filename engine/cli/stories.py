"""Stories for people: the header of a run, and its time line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from ...journal.times import seconds_between
from .text import brief, duration, instant, safe, size, wrapped

if TYPE_CHECKING:
    from ..story import Chapter, DiskStory, Entry, Story

#: How an entry is marked, without colours and with them.
_MARKS: Final = {
    "decision": ("*", "bold"),
    "takeover": ("!", "yellow"),
    "unfinished": ("!", "yellow"),
    "alarm": ("!", "bold red"),
    "left_open": ("!", "bold red"),
}
#: Text, and the style that it has on a terminal.
Line = tuple[str, str | None]


def header(story: Story, width: int | None) -> Iterator[Line]:
    """What a run was about, how it ended, and the numbers of it."""
    run = f"{story.machine} {story.run} of snapshot {story.snapshot} of {story.domain}"
    yield run, "bold"
    yield from field("state", f"{_words(story.state)}{_open(story)}", width)
    yield from field("outcome", story.outcome, width)
    yield from field("begun", f"{instant(story.started)} by {story.who}", width)
    if story.decided is not None:
        after = duration(_seconds(story.started, story.decided))
        yield from field("decided", f"{instant(story.decided)}, after {after}", width)
    if story.finished is not None and story.seconds is not None:
        ended = f"{instant(story.finished)}, after {duration(story.seconds)}"
        yield from field("ended", ended, width)
    if story.downtime_ms is not None:
        yield from field("downtime", f"{story.downtime_ms:.0f} ms", width)
    if story.bytes is not None:
        yield from field("copied", size(story.bytes), width)
    for disk in story.disks:
        yield from field(disk.target, _disk(disk), width)
        yield from field("", f"top   {disk.top}", width)
        yield from field("", f"base  {disk.base}", width)


def field(label: str, value: str, width: int | None) -> Iterator[Line]:
    """One line of a header; it may need several."""
    for line in wrapped(f"  {label:8}  ", value, width):
        yield line, None


def time_line(story: Story, width: int | None) -> Iterator[Line]:
    """The chapters, each with its entries; wrapped to ``width`` columns, if any."""
    day = story.started[:10]
    for chapter in story.chapters:
        yield "", None
        yield _heading(chapter, day), "bold"
        for entry in chapter.entries:
            mark, style = _MARKS.get(entry.kind, (" ", None))
            for line in wrapped(_prefix(entry) + mark + " ", _told(entry), width):
                yield line, style


def _disk(disk: DiskStory) -> str:
    said = f"{disk.strategy}, {_words(disk.state)}"
    if disk.copied_bytes is None or disk.seconds is None:
        return f"{said}; {size(disk.planned_bytes)} planned"
    rate = "" if disk.rate is None else f" at {size(disk.rate)}/s"
    return (
        f"{said}; {size(disk.copied_bytes)} copied, {size(disk.planned_bytes)} planned;"
        f" converged after {brief(disk.seconds)}{rate}"
    )


def _heading(chapter: Chapter, day: str) -> str:
    at = instant(chapter.at)
    clock = at if not chapter.at.startswith(day) else chapter.at[11:23]
    took = "" if chapter.took_seconds is None else f", {brief(chapter.took_seconds)}"
    return f"{safe(clock)}  {_words(chapter.state)}{took}"


def _prefix(entry: Entry) -> str:
    took = "" if entry.took_seconds is None else brief(entry.took_seconds)
    return f"{f'+{entry.since_seconds:.3f} s':>11} {took:>7}  "


def _told(entry: Entry) -> str:
    return entry.what if entry.times == 1 else f"{entry.what} ({entry.times} times)"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _open(story: Story) -> str:
    return "" if story.finished is not None else " (open)"


def _seconds(began: str, ended: str) -> float:
    return seconds_between(began, ended) or 0.0
