"""Which way the images of a fold become one: the cheaper, the safer when near. Pure.

One pass over all layers is never dearer than several: what a pass copies is what its
layers hold together, and each further pass copies some of that again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..states.bitmaps import Fate
from .facts import FoldFacts
from .sizes import FoldSizes, commit_sizes, stream_sizes

#: How much more a stream may copy than a commit and still be preferred: it needs no
#: pivot, and leaves the base untouched until the end, so that roll back is complete.
NEAR: Final = 1.25


@dataclass(frozen=True, slots=True)
class Choice:
    """A strategy, and why."""

    strategy: str
    because: str


@dataclass(frozen=True, slots=True)
class Costs:
    """Bytes to copy by each way, and what stands against one of them.

    ``no_commit`` and ``no_stream`` are the reasons why a way is impossible;
    ``against_stream`` why it should not be taken unless it is asked for.
    """

    commit: int
    stream: int
    no_commit: str | None = None
    no_stream: str | None = None
    against_stream: str | None = None


def chosen(costs: Costs, wanted: str) -> Choice:
    """The strategy for a fold; ``wanted`` is ``auto``, ``commit`` or ``stream``.

    An impossible way is returned when it is the one that was asked for, or the only
    one left: the checks refuse it.
    """
    if wanted != "auto":
        return Choice(wanted, "it was asked for")
    if costs.no_commit is not None:
        return Choice("stream", costs.no_commit)
    for reason in (costs.no_stream, costs.against_stream):
        if reason is not None:
            return Choice("commit", reason)
    if costs.stream <= costs.commit:
        return Choice("stream", "it copies no more, needs no pivot, and can be undone")
    if costs.stream <= costs.commit * NEAR:
        return Choice("stream", "it copies hardly more, and can be undone completely")
    return Choice("commit", "it copies less")


def leak(fold: FoldFacts, strategy: str) -> str | None:
    """Why a fold would store in the open what is encrypted; None when it would not."""
    survivor = fold.top if strategy == "stream" else fold.base
    hidden = [image.path for image in fold.layers if image.encrypted]
    if survivor.encrypted or not hidden:
        return None
    return f"{', '.join(hidden)} is encrypted, and {survivor.path} is not"


def strategy_of(fold: FoldFacts, wanted: str) -> tuple[Choice, FoldSizes]:
    """How a fold is done, and what it copies and needs that way."""
    commit, stream = commit_sizes(fold.extents), stream_sizes(fold.extents)
    others = ", ".join(fold.top_users)
    lost_down, lost_up = (
        ", ".join(lost_bitmaps(fold, s)) for s in ("commit", "stream")
    )
    no_commit = f"{others} needs {fold.top.path} too" if others else None
    if lost_down and not lost_up and no_commit is None:
        no_commit = f"{fold.base.path} cannot hold the dirty bitmap {lost_down}"
    no_stream = f"a stream would lose the dirty bitmap {lost_up}" if lost_up else None
    no_commit = no_commit or leak(fold, "commit")
    no_stream = no_stream or leak(fold, "stream")
    if fold.top.format != "qcow2":
        no_stream = f"{fold.top.path} is no qcow2 image"
    choice = chosen(
        Costs(
            commit.copy_bytes,
            stream.copy_bytes,
            no_commit=no_commit,
            no_stream=no_stream,
            against_stream=(
                None
                if fold.is_ours
                else f"no snapshot made {fold.base.path}, so that it would be left over"
            ),
        ),
        wanted,
    )
    return choice, stream if choice.strategy == "stream" else commit


def lost_bitmaps(fold: FoldFacts, strategy: str) -> tuple[str, ...]:
    """The names of dirty bitmaps that would be lost this way."""
    after = fold.bitmaps_after(strategy)
    return tuple(one.name for one in after if one.fate is Fate.LOST)
