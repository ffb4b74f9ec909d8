"""What the owner of a definition hears of new overlays: of snapshots and of reverts."""

from __future__ import annotations

from collections.abc import Sequence

from ..journal.model import Disk, OverlayPlan
from .context import Stuck
from .owner import Owner, OwnerFailed, ask, mend_hook, tell


def overlays_of(plans: Sequence[OverlayPlan]) -> dict[str, Disk]:
    """The new overlays as the images to boot from, by target."""
    return {plan.target: Disk(plan.target, plan.overlay, "qcow2") for plan in plans}


async def ask_owner(owner: Owner, plans: Sequence[OverlayPlan]) -> str | None:
    """Whether the owner could be given these overlays: None, or why not."""
    try:
        if plans:
            await ask(owner, overlays_of(plans))
    except OwnerFailed as error:
        return error.because
    return None


async def told_or_stuck(owner: Owner, plans: Sequence[OverlayPlan], data: str) -> None:
    """Tell the owner of these overlays, or of none of them: the catalog's images.

    Raises `Stuck`, with what that means for the ``data``.
    """
    try:
        await tell(owner, overlays_of(plans))
    except OwnerFailed as error:
        domain = owner.domain.name
        raise Stuck(
            f"The owner of the definition of {domain} could not be told which images"
            f" its disks have. {error.what}",
            data,
            f"{error.remedy or mend_hook(domain)} Then run `backfold recover"
            f" {owner.key.id}`.",
        ) from error
