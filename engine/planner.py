"""Facts into plans."""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..journal.errors import Refused
from ..journal.model import (
    BitmapPlan,
    FileId,
    FileStamp,
    FoldPlan,
    Image,
    KeptImage,
    Plan,
    RetiredImage,
    TreeImage,
)
from ..states.options import Options
from ..states.ports import ImageHeader
from .checks import all_reasons
from .facts import Facts, FoldFacts
from .reader import Reader
from .strategy import strategy_of


class FoldPlanner:
    """Plans deletions: reads the facts, runs every check, and plans."""

    def __init__(self, reader: Reader) -> None:
        """Read through ``reader``."""
        self._reader = reader

    async def plan(
        self,
        run: str,
        domain: str,
        snapshot: str,
        options: Options,
        earlier: int | None = None,
    ) -> Plan:
        """Plan one pass; changes nothing. Raises `Refused` with all reasons."""
        facts = await self._reader.read(run, domain, snapshot, options, earlier)
        if reasons := all_reasons(facts):
            raise Refused(reasons)
        return plan_from(facts, self._reader.images.identify)


def plan_from(facts: Facts, identify: Callable[[str], FileId | None]) -> Plan:
    """What a pass of a deletion will do, from facts that passed every check."""
    power = "off"
    if facts.run_state is not None:
        power = "running" if facts.run_state == "running" else "paused"
    folds = tuple(
        _fold(facts, number, disk.target, fold, identify)
        for number, (disk, fold) in enumerate(facts.folds, facts.earlier or 0)
    )
    later = {
        disk.target: disk.fold
        for disk in facts.disks
        if disk.fold is not None and (disk, disk.fold) not in facts.folds
    }
    plan = Plan(
        domain=facts.domain.name,
        snapshot=facts.named,
        snapshots=tuple(snapshot.name for snapshot in facts.snapshots),
        parent=facts.snapshots[0].parent if facts.snapshots else None,
        power=power,
        place=facts.place,
        boot_id=facts.boot_id,
        folds=folds,
        kept=tuple(
            KeptImage(disk.target, path, dependents)
            for disk in facts.disks
            for path, dependents in (*disk.kept, *_postponed(later.get(disk.target)))
        ),
        retired=tuple(
            RetiredImage(disk.target, _image(each.image), each.is_ours)
            for disk in facts.disks
            for each in disk.retired
        ),
        memories=tuple(each.memory for each in facts.memories),
        invalid_before={
            snapshot.name: snapshot.reason
            for snapshot in facts.snapshots
            if snapshot.reason is not None
        },
        has_more=facts.has_more,
        images=_images(facts, folds),
        searched=tuple(sorted({f for disk in facts.disks for f in disk.searched})),
    )
    return replace(plan, risks=tuple(_risks(facts, plan)))


def _images(facts: Facts, folds: Sequence[FoldPlan]) -> tuple[TreeImage, ...]:
    """The images of every disk, with what becomes of each in this pass."""
    becomes: dict[tuple[str, str], str] = {}
    for fold in folds:
        becomes[fold.target, fold.survivor.path] = "survivor"
        for image in fold.superseded:
            becomes[fold.target, image.path] = "superseded"
    for disk in facts.disks:
        for each in disk.retired:
            becomes[disk.target, each.image.path] = "retired"
        for path, _ in disk.kept:
            becomes[disk.target, path] = "kept"
    return tuple(
        replace(image, becomes=becomes.get((image.target, image.path), "same"))
        for disk in facts.disks
        for image in disk.images
    )


def _postponed(fold: FoldFacts | None) -> list[tuple[str, tuple[str, ...]]]:
    """Images whose fold comes in a later pass stay without a name until then."""
    if fold is None:
        return []
    pairs = zip(fold.layers[1:], fold.layers, strict=False)
    return [(image.path, (above.path,)) for image, above in pairs]


def _fold(
    facts: Facts,
    number: int,
    target: str,
    fold: FoldFacts,
    identify: Callable[[str], FileId | None],
) -> FoldPlan:
    choice, sizes = strategy_of(fold, facts.options.strategy)
    stamp = fold.base_stamp
    assert isinstance(stamp, FileStamp)
    changed: tuple[ImageHeader | None, ImageHeader | None] = (fold.above, fold.base)
    if choice.strategy == "stream":
        changed = (fold.top, fold.below)
    return FoldPlan(
        target=target,
        job=f"backfold-{facts.run}-{number}",
        strategy=choice.strategy,
        chain=tuple(_image(image, fold.key(image)) for image in fold.chain.images),
        first=fold.first,
        last=fold.last,
        link=(
            None
            if changed[0] is None or changed[1] is None
            else link(changed[0], changed[1], identify)
        ),
        copy_bytes=sizes.copy_bytes,
        space_bytes=sizes.space_bytes,
        base_stamp=stamp,
        because=choice.because,
        is_named=fold.is_named,
        snapshots=fold.snapshots,
        free_bytes=(
            fold.free_above if choice.strategy == "stream" else fold.free_below
        )[0],
        bitmaps=tuple(
            BitmapPlan(one.name, one.fate.value, one.recording)
            for one in fold.bitmaps_after(choice.strategy)
        ),
        stale=fold.stale,
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


def _image(header: ImageHeader, secret: str | None = None) -> Image:
    return Image(
        header.path,
        header.format,
        header.file,
        header.virtual_size,
        header.data,
        secret,
    )


def _risks(facts: Facts, plan: Plan) -> list[str]:
    risks = []
    pivots = any(plan.switches(fold) for fold in plan.folds)
    if pivots:
        risks.append(
            "The disk's image name changes: whoever starts the domain must use the new"
            " one (`backfold domain args` prints it)."
        )
    if any(not fold.is_stream for fold in plan.folds):
        which = "snapshot" if len(facts.snapshots) == 1 else "snapshots"
        risks.append(
            f"Once copying has begun, the {which} cannot be reverted to any more, even"
            " if the deletion is rolled back."
        )
    if plan.power == "running" and pivots:
        risks.append("The guest stands still for the pivot, within --max-downtime.")
    risks += [
        f"The memory file {each.memory.path} is missing already."
        for each in facts.memories
        if each.memory.file is None
    ]
    return [*risks, *_backup_risks(plan.folds)]


def _backup_risks(folds: Sequence[FoldPlan]) -> Iterator[str]:
    broken = {
        f"{bitmap.name} of {fold.target}"
        for fold in folds
        for bitmap in fold.bitmaps
        if bitmap.fate == "broken"
    }
    for name in sorted(broken):
        yield (
            f"The dirty bitmap {name} is inconsistent already: the next backup must be"
            " a full one."
        )
    if any(one.fate in ("stays", "carried") for fold in folds for one in fold.bitmaps):
        yield (
            "A QEMU that is killed meanwhile leaves the dirty bitmaps of images that it"
            " writes to inconsistent: the next backup must be a full one then."
        )
