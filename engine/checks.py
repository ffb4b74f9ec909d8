"""Why a deletion must not begin: each check is a pure predicate over the facts.

Every check looks at everything and yields each reason it finds, so that an operator
sees all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ..journal.errors import Reason
from ..states.ports import ImageHeader
from .facts import Facts, FoldFacts, secret_needed, unsupported
from .sizes import FoldSizes
from .strategy import leak, lost_bitmaps, strategy_of

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


def images_are_readable(facts: Facts) -> Iterator[Reason]:
    """Every image of every chain is there and can be read."""
    for disk in facts.disks:
        broken = [*disk.broken]
        if disk.chain.broken is not None:
            broken.insert(0, disk.chain.broken)
        for code, message in dict.fromkeys(broken):
            yield Reason(code, message, _REMEDY[code], disk.target)
        chains = disk.chain.images
        if disk.fold is not None:
            chains += disk.fold.chain.images
        for path in dict.fromkeys(image.path for image in chains if image.corrupt):
            yield Reason(
                "corrupt_image",
                f"{path} is marked corrupt.",
                _REMEDY["corrupt_image"],
                disk.target,
            )


def images_are_supported(facts: Facts) -> Iterator[Reason]:
    """Nothing in the way that this version would lose or misread."""
    for disk, fold in facts.folds:
        for image in fold.layers:
            if image.internal_snapshots:
                yield Reason(
                    "internal_snapshot",
                    f"{image.path} holds internal snapshots"
                    f" ({', '.join(image.internal_snapshots)}).",
                    "Delete them with `qemu-img snapshot -d` while the domain is off.",
                    disk.target,
                )
        for image in fold.opened:
            if (why := unsupported(image)) is not None:
                yield Reason("unsupported_image", *why, disk.target)
            if fold.lacks_secret(image):
                yield secret_needed(image.path, disk.target)
        if (leaks := leak(fold, _strategy(facts, fold))) is not None:
            yield Reason(
                "unsupported_image",
                f"{leaks}: the fold would store in the open what was encrypted.",
                "Fold the other way (--strategy), or copy the disk to a new encrypted"
                " image.",
                disk.target,
            )
        if (
            fold.above is None
            and fold.base.virtual_size > fold.top.virtual_size
            and _strategy(facts, fold) == "commit"
        ):
            yield Reason(
                "size_differs",
                f"{fold.base.path} is larger than {fold.top.path}: the guest would see"
                " its disk grow.",
                "Resize the overlay to the size of the image below it first, or use"
                " --strategy stream.",
                disk.target,
            )


def strategy_is_possible(facts: Facts) -> Iterator[Reason]:
    """A way that was asked for can be gone."""
    for disk, fold in facts.folds:
        if _strategy(facts, fold) == "stream" and fold.top.format != "qcow2":
            yield Reason(
                "strategy_impossible",
                f"{fold.top.path} is no qcow2 image: nothing can be streamed into it.",
                "Use --strategy commit.",
                disk.target,
            )


def bitmaps_survive(facts: Facts) -> Iterator[Reason]:
    """No dirty bitmap is lost silently, and none is in use."""
    for disk, fold in facts.folds:
        strategy = _strategy(facts, fold)
        if lost := lost_bitmaps(fold, strategy):
            other = "stream" if strategy == "commit" else "commit"
            instead = (
                f"Use --strategy {other}."
                if not lost_bitmaps(fold, other)
                else "Remove it with `qemu-img bitmap --remove` (in a running QEMU:"
                " block-dirty-bitmap-remove); the next backup must be a full one then."
            )
            yield Reason(
                "dirty_bitmaps",
                f"A {strategy} would lose the dirty bitmap {', '.join(lost)} of"
                f" {disk.target}.",
                instead,
                disk.target,
            )
        for image in fold.layers:
            for bitmap in fold.bitmaps.get(image.file, ()):
                if bitmap.busy:
                    yield Reason(
                        "dirty_bitmaps",
                        f"A backup is using the dirty bitmap {bitmap.name} of"
                        f" {image.path}.",
                        "Wait for its end.",
                        disk.target,
                    )


def chain_is_as_recorded(facts: Facts) -> Iterator[Reason]:
    """Catalog, headers and a living QEMU agree on every chain."""
    for disk in facts.disks:
        if disk.chain.broken is not None or disk.broken:
            continue
        message = None
        if disk.misplaced:
            _, path, why = disk.misplaced[0]
            message = f"{path} {why}."
        elif disk.fold is not None and not disk.fold.is_known:
            fold = disk.fold
            below = fold.layers[1].path
            message = f"The catalog does not know {fold.top.path} above {below}."
        elif facts.is_alive and disk.chain.images and disk.live is None:
            message = f"QEMU has {disk.chain.images[0].path} on none of its devices."
        elif (
            disk.chain.images
            and disk.live is not None
            and [(i.file, i.data) for i in disk.live.images]
            != [(i.file, i.data and i.data.file) for i in disk.chain.images]
        ):
            names = " → ".join(i.filename for i in disk.live.images)
            message = f"QEMU has {disk.target} on another chain: {names}."
        if message is not None:
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
        used = [(each.image.path, user) for each in disk.retired for user in each.users]
        if disk.fold is not None:
            used += disk.fold.users
        for path, user in used:
            yield Reason(
                "image_in_use",
                f"{path} is in use: {user.what}.",
                "If the domain runs, record its monitor (`domain add --monitor`);"
                " otherwise wait until that process ends.",
                disk.target,
            )


def nobody_uses_memory(facts: Facts) -> Iterator[Reason]:
    """A memory file that is to go is not open: nothing is restored from it."""
    for each in facts.memories:
        for user in each.users:
            yield Reason(
                "memory_file",
                f"The memory file {each.memory.path} is in use: {user.what}.",
                "Wait until that process has closed it.",
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
    """What is written into or removed has no dependent but the next of the chain."""
    for disk in facts.disks:
        found: list[tuple[str, tuple[str, ...]]] = [
            (each.image.path, each.strangers) for each in disk.retired
        ]
        if disk.fold is not None:
            found += disk.fold.strangers
            if _strategy(facts, disk.fold) == "commit":
                found.append((disk.fold.top.path, disk.fold.top_users))
        for image, strangers in found:
            for path in strangers:
                yield Reason(
                    "foreign_user_of_base",
                    f"{path} is also based on {image}; folding would corrupt it.",
                    "Rebase or remove that image first.",
                    disk.target,
                )


def survivors_have_space(facts: Facts) -> Iterator[Reason]:
    """What the survivors lack fits on their file systems and devices."""
    needed: dict[int, int] = {}
    survivors = []
    for disk, fold in facts.folds:
        choice, sizes = strategy_of(fold, facts.options.strategy)
        is_stream = choice.strategy == "stream"
        free, device = fold.free_above if is_stream else fold.free_below
        image = fold.top if is_stream else fold.base
        survivors.append((disk.target, image, free, device))
        needed[device] = needed.get(device, 0) + _growth(fold, image, sizes)
    for target, image, free, device in survivors:
        if needed[device] > free:
            place = "device" if image.file.is_block_device else "file system"
            yield Reason(
                "no_space",
                f"{image.path} may grow, and its {place} has {free} bytes free of"
                f" {needed[device]} needed.",
                f"Make room on that {place}, or enlarge it.",
                target,
            )


def _growth(fold: FoldFacts, survivor: ImageHeader, sizes: FoldSizes) -> int:
    """Bytes by which a survivor may grow. A raw device has its full size."""
    if survivor.format == "raw" and survivor.file.is_block_device:
        return max(0, fold.top.virtual_size - survivor.virtual_size)
    return sizes.space_bytes


def storage_is_trusted(facts: Facts) -> Iterator[Reason]:
    """No image to be written into could not be flushed since the host was started."""
    for disk, fold in facts.folds:
        images = (
            (fold.top,)
            if _strategy(facts, fold) == "stream"
            else (fold.base, fold.above)
        )
        for image in images:
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
    for disk, fold in facts.folds:
        if fold.fence_obstacle is not None and _strategy(facts, fold) == "commit":
            yield Reason(
                "fence_impossible",
                f"{fold.top.path} cannot be fenced: {fold.fence_obstacle}.",
                "Without the fence, a crash could boot the domain from old data."
                " Remove the obstacle, or use --strategy stream.",
                disk.target,
            )


def owner_can_be_told(facts: Facts) -> Iterator[Reason]:
    """A hook that is to hear of a new active image can be called."""
    for disk, fold in facts.folds:
        active = disk.chain.images[:1]
        if (
            active
            and active[0].file == fold.top.file
            and _strategy(facts, fold) == "commit"
        ):
            yield from facts.hook
            return


def not_managed_by_libvirt(facts: Facts) -> Iterator[Reason]:
    """Libvirt would go on naming an image that is gone."""
    if facts.options.insist:
        return
    for disk in facts.disks:
        images = {image.file: image for image in disk.chain.images}
        if disk.fold is not None:
            images |= {image.file: image for image in disk.fold.chain.images}
        images |= {each.image.file: each.image for each in disk.retired}
        for file, image in images.items():
            beside = image.data and facts.managed.get(image.data.file)
            if name := facts.managed.get(file) or beside:
                yield Reason(
                    "managed_by_libvirt",
                    f"{image.path} belongs to libvirt's {name}.",
                    "Delete the snapshot with libvirt, or insist with"
                    " --ignore-libvirt and change its definition yourself.",
                    disk.target,
                )


def _strategy(facts: Facts, fold: FoldFacts) -> str:
    return strategy_of(fold, facts.options.strategy)[0].strategy


CHECKS: Final[tuple[Check, ...]] = (
    no_other_run,
    monitor_answers,
    run_state_is_safe,
    images_are_readable,
    images_are_supported,
    strategy_is_possible,
    bitmaps_survive,
    chain_is_as_recorded,
    nobody_uses_images,
    nobody_uses_memory,
    nothing_foreign_in_qemu,
    base_belongs_to_chain,
    survivors_have_space,
    storage_is_trusted,
    fence_is_possible,
    owner_can_be_told,
    not_managed_by_libvirt,
)

_REMEDY: Final = {
    "missing_image": "Bring the image back to that path.",
    "corrupt_image": "Restore it from a backup, or try `qemu-img check -r all` on a"
    " copy.",
    "secret_refused": "Give the right key, in a file of mode 0600 that holds nothing"
    " else, not even a line's end.",
    "unsupported_image": "Name backing images by path and format (`qemu-img rebase -u"
    " -F FORMAT`).",
}
