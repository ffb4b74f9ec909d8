"""Which image to boot each disk from, at any moment."""

from __future__ import annotations

from ..journal.model import Disk, Domain
from ..journal.runs import DeletionRow
from ..states.ports import Images

#: Fold states in which the base is the truth; before them it is the overlay.
ON_BASE = frozenset({"voted", "switched", "retired"})


def boot_sources(
    domain: Domain, deletion: DeletionRow | None, images: Images
) -> tuple[Disk, ...]:
    """The images to boot from, with an open deletion of this domain (invariant 2).

    No decision: the overlay, under its fence's name if it is fenced (`recover`
    takes the fence back). Decision: the base.
    """
    if deletion is None or deletion.plan is None:
        return domain.disks
    states = {fold.target: fold.state for fold in deletion.folds}
    sources = []
    for disk in domain.disks:
        fold = next((f for f in deletion.plan.folds if f.target == disk.target), None)
        if fold is None or not fold.is_active:
            sources.append(disk)
        elif states[disk.target] in ON_BASE:
            sources.append(Disk(disk.target, fold.base.path, fold.base.format))
        else:
            fence = images.fence_name(fold.top.path, deletion.id)
            fenced = images.identify(fence) == fold.top.file
            source = fence if fenced else disk.source
            sources.append(Disk(disk.target, source, disk.format))
    return tuple(sources)
