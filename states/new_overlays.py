"""Which images the guest went on in while a snapshot was being taken."""

from __future__ import annotations

from dataclasses import replace
from enum import Enum

from ..journal.model import CreationPlan, FileId, OverlayPlan
from .ports import Images


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
    the old images, so that only the order of the two times counts; from then on the
    recorded stamps do.
    """
    written = changed = False
    for overlay in plan.overlays:
        there = images.identify(overlay.overlay) is not None
        written |= there and not await images.is_empty(overlay.overlay, "qcow2")
        changed |= _changed(overlay, images, plan.is_stamped)
    if written:
        return Taken.BOTH if changed else Taken.OVERLAYS
    return Taken.OLD_IMAGES if changed else Taken.EITHER


def _changed(plan: OverlayPlan, images: Images, is_stamped: bool) -> bool:
    old = images.stamp(plan.frozen.path)
    if is_stamped:
        return old != plan.frozen_stamp
    new = images.stamp(plan.overlay)
    return old is not None and new is not None and old.mtime_ns > new.mtime_ns


def stamped(plan: CreationPlan, images: Images) -> CreationPlan:
    """The plan with the old images as they are after the switch.

    The caller has synced them, so that a power cut does not take their times back.
    """
    overlays = tuple(
        replace(one, frozen_stamp=images.stamp(one.frozen.path) or one.frozen_stamp)
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

    def again(one: OverlayPlan) -> OverlayPlan:
        found = images.identify(one.frozen.path)
        if found is None or found.inode != one.frozen.file.inode:
            return one
        file = FileId(found.device, found.inode)
        return replace(one, frozen=replace(one.frozen, file=file))

    overlays = tuple(again(one) for one in plan.overlays)
    return replace(plan, boot_id=boot_id, overlays=overlays)
