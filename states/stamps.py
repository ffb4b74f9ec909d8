"""Which of two images went on since the decision, told by size and mtime."""

from __future__ import annotations

from enum import Enum

from ..journal.model import FileId, FileStamp, FoldPlan, Image
from ..journal.runs import FoldRow
from .ports import ImageHeader, Images


class WentOn(Enum):
    """What happened to overlay and base of a fold since its decision."""

    NOTHING = "nothing"
    BASE = "the base went on, as it should"
    OVERLAY = "the overlay went on: somebody cancelled"
    BOTH = "both changed: nobody can tell"
    UNTOLD = "the base is a block device, which does not tell"
    BASE_MISSING = "the base is missing"
    BASE_REPLACED = "the base was replaced or cut"
    OVERLAY_REPLACED = "the overlay was replaced or cut"


def went_on(fold: FoldPlan, row: FoldRow, images: Images, run: str) -> WentOn:
    """Compare the images of an active fold with the stamps of its decision.

    The overlay is looked for under the fence's name and its own. One that has its
    own name counts as having gone on even when it has not changed: somebody took the
    fence back by hand, and may boot from it any moment. Another file, or a shorter
    one than at the decision, is nobody's truth. Only reads.

    A block device as base does not tell whether it went on. While the overlay is
    fenced and unchanged it does not matter; else the guest may have written into
    either, and copying one over the other could lose that.
    """
    fence = images.fence_name(fold.top.path, run)
    base = stamp_of(fold.base, images)
    if base is None:
        return WentOn.BASE_MISSING
    if not _is_whole(fold.base.file, row.base_stamp, base, images, fold.base.path):
        return WentOn.BASE_REPLACED
    base_changed = base != row.base_stamp
    fenced = stamp_of(fold.top, images, fence)
    path = fold.top.path if fenced is None else fence
    top = stamp_of(fold.top, images, path)
    if top is None:  # Put away by somebody: it is superseded.
        return WentOn.BASE if base_changed else WentOn.NOTHING
    if not _is_whole(fold.top.file, row.top_stamp, top, images, path):
        return WentOn.BASE if base_changed else WentOn.OVERLAY_REPLACED
    if base.is_silent and (top != row.top_stamp or fenced is None):
        return WentOn.UNTOLD
    if top != row.top_stamp:
        return WentOn.BOTH if base_changed else WentOn.OVERLAY
    if base_changed:
        return WentOn.BASE
    return WentOn.NOTHING if fenced is not None else WentOn.OVERLAY


def stamp_of(
    image: Image | ImageHeader, images: Images, path: str | None = None
) -> FileStamp | None:
    """The stamp of an image, wherever its data is; None when something is missing.

    ``path`` is its name when it has another one than in the plan. With a data file, the
    later time of both counts and the sum of both sizes: a write may touch either.
    """
    found = images.stamp(path or image.path)
    if image.data is None or found is None:
        return found
    if images.identify(image.data.path) != image.data.file:
        return None
    data = images.stamp(image.data.path)
    if data is None:
        return None
    return FileStamp(found.size + data.size, max(found.mtime_ns, data.mtime_ns))


def _is_whole(
    file: FileId, then: FileStamp | None, now: FileStamp, images: Images, path: str
) -> bool:
    """Whether it is that very file and has not become shorter."""
    return images.identify(path) == file and (then is None or now.size >= then.size)
