"""New overlays: which images the guest went on in, and what nobody needs of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from ..journal.errors import CommandFailed
from ..journal.model import CreationPlan, FileId, OverlayPlan
from .identities import image_again
from .ports import Images
from .stamps import stamp_of


class Taken(Enum):
    """What the images say, with no QEMU to ask."""

    #: Nobody wrote since: old and new images show the same.
    EITHER = "either"
    #: The new overlays hold data: the disks were switched.
    OVERLAYS = "the overlays"
    #: The old images went on, and the overlays are empty.
    OLD_IMAGES = "the old images"
    #: Both changed; nobody can tell which one was written last.
    BOTH = "both"


async def which_went_on(plan: CreationPlan, images: Images) -> Taken:
    """Compare old images and new overlays. Only reads; `CommandFailed` if it cannot.

    A guest writes into overlays after the switch and into old images before it, so
    that an old image that changed after its overlay was written into went on by
    itself: somebody booted it. Until the switch is recorded, a running guest changes
    the old images, so that only the order of times counts: all disks are switched at
    one instant, so that the last write into any overlay comes after every write of
    that guest into any old image. From then on the recorded stamps count.
    """
    written = [
        one
        for one in plan.overlays
        if images.identify(one.overlay) is not None
        and not await images.is_empty(one.overlay, "qcow2", one.frozen.secret)
    ]
    if plan.is_stamped:
        changed = any(
            stamp_of(one.frozen, images) != one.frozen_stamp for one in plan.overlays
        )
    else:
        changed = any(_is_newer(one, written or [one], images) for one in plan.overlays)
    if written:
        return Taken.BOTH if changed else Taken.OVERLAYS
    return Taken.OLD_IMAGES if changed else Taken.EITHER


def _is_newer(
    plan: OverlayPlan, overlays: Sequence[OverlayPlan], images: Images
) -> bool:
    """Whether an old image was written into after all of these overlays."""
    old = stamp_of(plan.frozen, images)
    new = [stamp for one in overlays if (stamp := images.stamp(one.overlay))]
    if old is None or not new:
        return False
    return old.mtime_ns > max(stamp.mtime_ns for stamp in new)


def stamped(plan: CreationPlan, images: Images) -> CreationPlan:
    """The plan with the old images as they are after the switch.

    The caller has synced them, so that a power cut does not take their times back.
    """
    overlays = tuple(
        replace(one, frozen_stamp=stamp_of(one.frozen, images) or one.frozen_stamp)
        for one in plan.overlays
    )
    return replace(plan, overlays=overlays, is_stamped=True)


def identify_overlays_again(
    plan: CreationPlan, images: Images, boot_id: str
) -> CreationPlan:
    """A plan of an earlier boot, with this boot's device numbers.

    As `identify_again` does for a deletion: a file that was replaced keeps its old
    identity.
    """
    if plan.boot_id == boot_id:
        return plan
    overlays = tuple(
        replace(one, frozen=image_again(one.frozen, images)) for one in plan.overlays
    )
    return replace(plan, boot_id=boot_id, overlays=overlays)


async def remove_unused(
    overlays: Sequence[OverlayPlan], images: Images, run: str
) -> list[str]:
    """Remove the overlays that a run has made, by way of the fence's name.

    Only while they are empty and nobody has them open: an overlay with data is never
    removed, and one that a QEMU has may hold data that its file does not show yet.
    Returns those that had to be left. Safe to repeat, and to be killed in.
    """
    left = []
    for plan in overlays:
        fence = images.fence_name(plan.overlay, run)
        for path in (plan.overlay, fence):
            file: FileId | None = images.identify(path)
            if file is None:
                continue
            used = any(user.holds for user in await images.users(path))
            if used or not await _is_ours_and_empty(plan, images, path):
                left.append(path)
                continue
            if path != fence:
                await images.rename(path, fence, file)
            await images.unlink(fence, file)
            break
    return left


async def _is_ours_and_empty(plan: OverlayPlan, images: Images, path: str) -> bool:
    try:
        header = await images.header(path, "qcow2")
        secret = plan.frozen.secret
        is_ours = header.backing == plan.link
        return is_ours and await images.is_empty(path, "qcow2", secret)
    except CommandFailed:
        return False
