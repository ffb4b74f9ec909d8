"""Dirty bitmaps over QMP: read them, merge them, let them go on in an overlay.

Measured on QEMU 7.2: bitmaps of different granularity merge; a read-only image takes
bitmaps that are not persistent, and gives what it has; what an active or intermediate
commit copies is noted by the base's bitmaps, what a stream copies is not noted by
those of the image above; all of it works while a job is PENDING.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ...states.ports import Bitmap, MergedBitmap

Action = dict[str, Any]


def read_bitmaps(node: Mapping[str, Any]) -> tuple[Bitmap, ...]:
    """The bitmaps in one entry of `query-named-block-nodes`.

    Jobs have bitmaps without a name, which are nobody else's business.
    """
    return tuple(
        Bitmap(
            name=found["name"],
            granularity=int(found["granularity"]),
            recording=bool(found["recording"]),
            persistent=bool(found["persistent"]),
            inconsistent=bool(found.get("inconsistent", False)),
            busy=bool(found["busy"]),
            dirty=int(found["count"]),
        )
        for found in node.get("dirty-bitmaps", ())
        if "name" in found
    )


def merging(wanted: MergedBitmap, present: Sequence[Bitmap]) -> Iterator[Action]:
    """The actions that make one bitmap what it is to be; ``present`` are its image's.

    A new one begins to record in the same transaction that gives it its content.
    """
    node, name = wanted.image.node, wanted.name
    found = next((one for one in present if one.name == name), None)
    if found is None:
        yield _add(node, name, wanted.granularity, wanted.persistent)
    elif wanted.anew:
        yield _action("clear", node=node, name=name)
    if wanted.parts:
        parts = [{"node": image.node, "name": part} for image, part in wanted.parts]
        yield _action("merge", node=node, target=name, bitmaps=parts)
    if wanted.recording != (found is not None and found.recording):
        change = "enable" if wanted.recording else "disable"
        yield _action(change, node=node, name=name)


def going_on(below: str, overlay: str, present: Iterable[Bitmap]) -> Iterator[Action]:
    """The actions that let the bitmaps of a node go on in the overlay on top of it.

    Each has all that was noted so far, so that a backup that looks at the active
    image alone misses nothing.
    """
    for bitmap in present:
        if bitmap.recording and not bitmap.inconsistent:
            name = bitmap.name
            yield _add(overlay, name, bitmap.granularity, bitmap.persistent)
            parts = [{"node": below, "name": name}]
            yield _action("merge", node=overlay, target=name, bitmaps=parts)
            yield _action("enable", node=overlay, name=name)


def _add(node: str, name: str, granularity: int, persistent: bool) -> Action:
    return _action(
        "add",
        node=node,
        name=name,
        granularity=granularity,
        persistent=persistent,
        disabled=True,
    )


def _action(verb: str, **data: Any) -> Action:
    return {"type": f"block-dirty-bitmap-{verb}", "data": data}
