"""Why a deletion must not begin: each check is a pure predicate over the facts.

Every check looks at everything and yields each reason it finds, so that an operator
sees all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ..journal.errors import Reason
from .facts import DiskFacts, Facts, unsupported
from .sizes import fold_sizes

#: Run states in which QEMU holds its image locks. In a migration it holds none.
SAFE_RUN_STATES: Final = frozenset(
    {"running", "paused", "prelaunch", "shutdown", "io-error"}
)

Check = Callable[[Facts], Iterator[Reason]]


def all_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Every reason to refuse, in the order of the checks."""
    return tuple(reason for check in CHECKS for reason in check(facts))


def no_other_run(facts: Facts) -> Iterator[Reason]:
    """One open run per domain."""
    yield from facts.open_runs


def monitor_answers(facts: Facts) -> Iterator[Reason]:
    """A monitor that accepts but does not greet is busy, never off."""
    if facts.monitor_busy:
        yield Reason(
            "monitor_busy",
            f"The monitor {facts.domain.monitor} is in use by another client.",
            "Close the other connection, or give the domain a second monitor.",
        )


def run_state_is_safe(facts: Facts) -> Iterator[Reason]:
    """A QEMU in migration holds no lock at all."""
    if facts.run_state is not None and facts.run_state not in SAFE_RUN_STATES:
        yield Reason(
            "unsafe_run_state",
            f"QEMU is in the run state {facts.run_state!r}.",
            "Wait until the migration or restore is over.",
        )


def disks_are_there(facts: Facts) -> Iterator[Reason]:
    """Every disk of the snapshot is a disk of the domain."""
    for disk in facts.disks:
        if not disk.in_domain:
            yield Reason(
                "chain_differs",
                f"The snapshot includes {disk.target}, which the domain lacks.",
                "Add the disk again with the image that it had.",
                disk.target,
            )


def images_are_readable(facts: Facts) -> Iterator[Reason]:
    """Every image of every chain is there and can be read."""
    for disk in facts.disks:
        if disk.chain.broken is not None:
            code, message = disk.chain.broken
            yield Reason(code, message, _REMEDY[code], disk.target)
        for image in disk.chain.images:
            if image.corrupt:
                yield Reason(
                    "corrupt_image",
                    f"{image.path} is marked corrupt.",
                    _REMEDY["corrupt_image"],
                    disk.target,
                )


def images_are_supported(facts: Facts) -> Iterator[Reason]:
    """Nothing in the way that this version would lose or misread."""
    for disk in facts.disks:
        if not disk.has_fold:
            continue
        for image in (disk.top, disk.base):
            if image.internal_snapshots:
                yield Reason(
                    "internal_snapshot",
                    f"{image.path} holds internal snapshots"
                    f" ({', '.join(image.internal_snapshots)}).",
                    "Delete them with `qemu-img snapshot -d` while the domain is off.",
                    disk.target,
                )
            if image.bitmaps:
                names = ", ".join(bitmap.name for bitmap in image.bitmaps)
                yield Reason(
                    "dirty_bitmaps",
                    f"{image.path} holds persistent dirty bitmaps ({names}), which"
                    " would not be carried over.",
                    "Remove them with `qemu-img bitmap --remove`; the next backup must"
                    " then be a full one.",
                    disk.target,
                )
        for image in disk.opened:
            if (why := unsupported(image)) is not None:
                yield Reason("unsupported_image", *why, disk.target)
        if disk.above is None and disk.base.virtual_size > disk.top.virtual_size:
            yield Reason(
                "size_differs",
                f"{disk.base.path} is larger than {disk.top.path}: the guest would see"
                " its disk grow.",
                "Resize the overlay to the size of the image below it first.",
                disk.target,
            )


def chain_is_as_recorded(facts: Facts) -> Iterator[Reason]:
    """Catalog, headers and a living QEMU agree on every chain."""
    for disk in facts.disks:
        if not disk.in_domain or disk.chain.broken is not None:
            continue
        if disk.depth is None:
            message = f"{disk.frozen} is not in the chain of {disk.target}."
        elif disk.depth == 0:
            message = f"{disk.frozen} is the active image of {disk.target}."
        elif disk.top.file not in disk.expected_tops:
            message = f"The catalog does not know {disk.top.path} above {disk.frozen}."
        elif facts.is_alive and disk.live is None:
            message = f"QEMU has {disk.chain.images[0].path} on none of its devices."
        elif disk.live is not None and [(i.file, i.data) for i in disk.live.images] != [
            (i.file, i.data and i.data.file) for i in disk.chain.images
        ]:
            names = " → ".join(i.filename for i in disk.live.images)
            message = f"QEMU has {disk.target} on another chain: {names}."
        else:
            continue
        yield Reason(
            "chain_differs",
            message,
            "Compare `backfold domain show` with `qemu-img info --backing-chain`.",
            disk.target,
        )


def nobody_uses_images(facts: Facts) -> Iterator[Reason]:
    """Off means: no lock, no open file, no command line."""
    if facts.monitor_busy:
        return  # That very QEMU has them.
    for disk in facts.disks:
        for path, user in disk.users:
            yield Reason(
                "image_in_use",
                f"{path} is in use: {user.what}.",
                "If the domain runs, record its monitor (`domain add --monitor`);"
                " otherwise wait until that process ends.",
                disk.target,
            )


def nothing_foreign_in_qemu(facts: Facts) -> Iterator[Reason]:
    """No job, filter or export of somebody else is in the way."""
    ours = f"backfold-{facts.run}-"
    for job in facts.jobs.values():
        if not job.id.startswith(ours):
            yield Reason(
                "foreign_job",
                f"QEMU runs another block job, {job.id} ({job.type}, {job.status}).",
                "Wait until it ends, or cancel and dismiss it.",
            )
    for disk in facts.disks:
        if disk.live is None:
            continue
        nodes = {image.node for image in disk.live.images} | {disk.live.root}
        for node in sorted(nodes & facts.exports):
            yield Reason(
                "foreign_job",
                f"The node {node} of {disk.target} is exported.",
                "End the export (block-export-del) first.",
                disk.target,
            )


def base_belongs_to_chain(facts: Facts) -> Iterator[Reason]:
    """Top and base have exactly one dependent: the next image of the chain."""
    for disk in facts.disks:
        for image, strangers in disk.strangers:
            for path in strangers:
                yield Reason(
                    "foreign_user_of_base",
                    f"{path} is also based on {image}; folding would corrupt it.",
                    "Rebase or remove that image first.",
                    disk.target,
                )


def bases_have_space(facts: Facts) -> Iterator[Reason]:
    """What the bases lack fits on their file systems and devices."""
    needed: dict[int, int] = {}
    for disk in facts.disks:
        if disk.has_fold:
            space = _growth(disk)
            needed[disk.free_device] = needed.get(disk.free_device, 0) + space
    for disk in facts.disks:
        if disk.has_fold and needed[disk.free_device] > disk.free_bytes:
            place = "device" if disk.base.file.is_block_device else "file system"
            yield Reason(
                "no_space",
                f"{disk.base.path} may grow, and its {place} has {disk.free_bytes}"
                f" bytes free of {needed[disk.free_device]} needed.",
                f"Make room on that {place}, or enlarge it.",
                disk.target,
            )


def _growth(disk: DiskFacts) -> int:
    """Bytes by which the base may grow. A raw one on a device has its full size."""
    if disk.base.format == "raw" and disk.base.file.is_block_device:
        return max(0, disk.top.virtual_size - disk.base.virtual_size)
    return fold_sizes(disk.top_extents, disk.base_extents).space_bytes


def storage_is_trusted(facts: Facts) -> Iterator[Reason]:
    """No image to be written into could not be flushed since the host was started."""
    for disk in facts.disks:
        if not disk.has_fold:
            continue
        for image in (disk.base, disk.above):
            if image is not None and image.path in facts.failed_flushes:
                yield Reason(
                    "flush_failed",
                    f"{image.path} could not be flushed at"
                    f" {facts.failed_flushes[image.path]}: what is stored may differ"
                    " from what the kernel holds.",
                    "Look at the storage, restart the host, and run `qemu-img check`.",
                    disk.target,
                )


def fence_is_possible(facts: Facts) -> Iterator[Reason]:
    """A superseded active image can be renamed."""
    for disk in facts.disks:
        if disk.fence_obstacle is not None:
            yield Reason(
                "fence_impossible",
                f"{disk.top.path} cannot be fenced: {disk.fence_obstacle}.",
                "Without the fence, a crash could boot the domain from old data."
                " Remove the obstacle.",
                disk.target,
            )


def not_managed_by_libvirt(facts: Facts) -> Iterator[Reason]:
    """Libvirt would go on naming an image that is gone."""
    if facts.insist:
        return
    for disk in facts.disks:
        for image in disk.chain.images:
            beside = image.data and facts.managed.get(image.data.file)
            if name := facts.managed.get(image.file) or beside:
                yield Reason(
                    "managed_by_libvirt",
                    f"{image.path} belongs to libvirt's {name}.",
                    "Delete the snapshot with libvirt, or insist with"
                    " --ignore-libvirt and change its definition yourself.",
                    disk.target,
                )


CHECKS: Final[tuple[Check, ...]] = (
    no_other_run,
    monitor_answers,
    run_state_is_safe,
    disks_are_there,
    images_are_readable,
    images_are_supported,
    chain_is_as_recorded,
    nobody_uses_images,
    nothing_foreign_in_qemu,
    base_belongs_to_chain,
    bases_have_space,
    storage_is_trusted,
    fence_is_possible,
    not_managed_by_libvirt,
)

_REMEDY: Final = {
    "missing_image": "Bring the image back to that path.",
    "corrupt_image": "Restore it from a backup, or try `qemu-img check -r all` on a"
    " copy.",
    "unsupported_image": "Name backing images by path and format (`qemu-img rebase -u"
    " -F FORMAT`).",
}
