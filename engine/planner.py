"""Facts into plans."""

from __future__ import annotations

import os.path
from collections.abc import Callable

from ..journal.errors import Refused
from ..journal.model import FileId, FileStamp, FoldPlan, Image, Plan
from ..states.ports import ImageHeader
from .checks import all_reasons
from .facts import DiskFacts, Facts, Reader
from .sizes import fold_sizes


class FoldPlanner:
    """Plans deletions: reads the facts, runs every check, and plans."""

    def __init__(self, reader: Reader) -> None:
        """Read through ``reader``."""
        self._reader = reader

    async def plan(self, run: str, domain: str, snapshot: str, insist: bool) -> Plan:
        """Plan one deletion; changes nothing. Raises `Refused` with all reasons."""
        facts = await self._reader.read(run, domain, snapshot, insist)
        if reasons := all_reasons(facts):
            raise Refused(reasons)
        return plan_from(facts, self._reader.images.identify)


def plan_from(facts: Facts, identify: Callable[[str], FileId | None]) -> Plan:
    """What a deletion will do, from facts that passed every check."""
    power = "off"
    if facts.run_state is not None:
        power = "running" if facts.run_state == "running" else "paused"
    return Plan(
        domain=facts.domain.name,
        snapshot=facts.snapshot.name,
        parent=facts.snapshot.parent,
        power=power,
        boot_id=facts.boot_id,
        folds=tuple(
            _fold(facts.run, number, disk, identify)
            for number, disk in enumerate(facts.disks)
        ),
        invalid_before=facts.snapshot.reason,
        risks=tuple(_risks(facts, power)),
    )


def _fold(
    run: str, number: int, disk: DiskFacts, identify: Callable[[str], FileId | None]
) -> FoldPlan:
    sizes = fold_sizes(disk.top_extents, disk.base_extents)
    stamp = disk.base_stamp
    assert isinstance(stamp, FileStamp)
    return FoldPlan(
        target=disk.target,
        job=f"backfold-{run}-{number}",
        strategy="commit",
        top=_image(disk.top),
        base=_image(disk.base),
        above=None if disk.above is None else _image(disk.above),
        chain=tuple(_image(image) for image in disk.chain.images),
        link=None if disk.above is None else link(disk.above, disk.base, identify),
        copy_bytes=sizes.copy_bytes,
        space_bytes=sizes.space_bytes,
        base_stamp=stamp,
    )


def link(
    above: ImageHeader, base: ImageHeader, identify: Callable[[str], FileId | None]
) -> str:
    """The string that names ``base`` in the header of ``above``.

    Relative links stay relative: QEMU reads them from the directory of the name that
    the image was opened by. A relative name that does not lead to the base (through
    a symbolic link, say) is not used.
    """
    if above.backing is not None and not above.backing.startswith("/"):
        folder = os.path.dirname(above.path)
        relative = os.path.relpath(base.path, folder)
        if (
            ":" not in relative
            and identify(os.path.join(folder, relative)) == base.file
        ):
            return relative
    return base.path


def _image(header: ImageHeader) -> Image:
    return Image(
        header.path, header.format, header.file, header.virtual_size, header.data
    )


def _risks(facts: Facts, power: str) -> list[str]:
    risks = []
    if any(disk.above is None for disk in facts.disks):
        risks.append(
            "The disk's image name changes: whoever starts the domain must use the new"
            " one (`backfold domain args` prints it)."
        )
    if facts.disks:
        risks.append(
            "Once copying has begun, the snapshot cannot be reverted to any more, even"
            " if the deletion is rolled back."
        )
    if power == "running" and any(disk.above is None for disk in facts.disks):
        risks.append("The guest stands still for the pivot, within --max-downtime.")
    return risks
