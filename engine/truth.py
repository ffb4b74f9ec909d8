"""Which image to boot each disk from, at any moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..journal.errors import CommandFailed
from ..journal.model import Disk, Domain, FoldPlan
from ..journal.runs import CreationRow, DeletionRow, FoldRow, ReversionRow
from ..states.creation import CREATION
from ..states.new_overlays import Taken, which_went_on
from ..states.ports import Images
from ..states.revert import has_changed
from ..states.stamps import WentOn, went_on
from .results import ON_BASE


@dataclass(frozen=True, slots=True)
class BootSource:
    """A disk with the image to boot from; ``doubt`` says why nobody can tell."""

    disk: Disk
    doubt: str | None = None


def boot_sources(
    domain: Domain, deletion: DeletionRow | None, images: Images
) -> tuple[BootSource, ...]:
    """The images to boot from, with an open deletion of this domain (invariant 2).

    No decision: the overlay, under its fence's name if it is fenced (`recover`
    takes the fence back). Decision: the base, unless the overlay went on since.
    """
    if deletion is None or deletion.plan is None:
        return tuple(BootSource(disk) for disk in domain.disks)
    rows = {fold.target: fold for fold in deletion.folds}
    plan = deletion.plan
    folds = {fold.target: fold for fold in plan.folds if plan.switches(fold)}
    return tuple(
        _source(disk, folds[disk.target], rows[disk.target], images, deletion.id)
        if disk.target in folds
        and disk.source in (folds[disk.target].top.path, folds[disk.target].base.path)
        else BootSource(disk)
        for disk in domain.disks
    )


async def sources_in_creation(
    domain: Domain, creation: CreationRow, images: Images
) -> tuple[BootSource, ...]:
    """The images to boot from, with an open creation of this domain.

    The images that went on since are the truth. While nobody has written, old and
    new ones show the same, and the old ones are named, as the catalog does: whoever
    boots them keeps them. Until the overlays are durable nothing is switched,
    whatever a power cut left of them.
    """
    if creation.state == CREATION.initial:
        return tuple(BootSource(disk) for disk in domain.disks)
    try:
        found = await which_went_on(creation.plan, images)
    except CommandFailed as error:
        found, why = Taken.BOTH, error.what
    else:
        why = "the new overlay holds data, and the image below it changed since"
    overlays = {plan.target: plan.overlay for plan in creation.plan.overlays}

    def source(disk: Disk) -> BootSource:
        if disk.target not in overlays or found in (Taken.EITHER, Taken.OLD_IMAGES):
            return BootSource(disk)
        if found is Taken.BOTH:
            return BootSource(disk, why)
        return BootSource(Disk(disk.target, overlays[disk.target], "qcow2"))

    return tuple(source(disk) for disk in domain.disks)


def doubts_of_reversion(
    sources: Sequence[BootSource], reversion: ReversionRow, images: Images
) -> tuple[BootSource, ...]:
    """The catalog's images, with an open reversion of this domain.

    The catalog names the former images until the record is durable and the new
    overlays from then on. A former image that was written into after that makes it
    doubtful: somebody booted from it.
    """
    if reversion.state != "recorded":
        return tuple(sources)
    changed = {
        disk.target: disk.former.path
        for disk in reversion.plan.disks
        if disk.stays is None and has_changed(disk, images, reversion.id)
    }
    return tuple(
        replace(
            source,
            doubt=f"{changed[source.disk.target]}, which the revert"
            f" {reversion.id} replaced, was written into since",
        )
        if source.disk.target in changed
        else source
        for source in sources
    )


def _source(
    disk: Disk, fold: FoldPlan, row: FoldRow, images: Images, run: str
) -> BootSource:
    base = BootSource(Disk(disk.target, fold.base.path, fold.base.format))
    if row.state in ON_BASE:
        found = WentOn.BASE
        if row.state == "voted":
            found = went_on(fold, row, images, run)
        if found is WentOn.BOTH:
            return BootSource(base.disk, f"{fold.top.path} and the base both changed")
        if found in (
            WentOn.BASE_REPLACED,
            WentOn.OVERLAY_REPLACED,
            WentOn.UNTOLD,
        ):
            return BootSource(base.disk, f"{fold.target}: {found.value}")
        if found is not WentOn.OVERLAY:
            return base
    fence = images.fence_name(fold.top.path, run)
    fenced = images.identify(fence) == fold.top.file
    source = fence if fenced else fold.top.path
    return BootSource(Disk(disk.target, source, fold.top.format))
