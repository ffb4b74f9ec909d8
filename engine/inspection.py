"""Catalog, headers and QEMU against each other: each check is a pure predicate.

Every check looks at everything and yields each finding, as `checks` does for
deletions. What lies beside the images is judged by `inspection_files`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Final

from ..journal.model import Disk, Snapshot, SnapshotDisk
from .facts import ChainFacts, unsupported
from .inspection_facts import InspectionFacts
from .inspection_files import FILE_CHECKS
from .inspection_findings import Finding

Check = Callable[[InspectionFacts], Iterator[Finding]]


def judge(facts: InspectionFacts) -> tuple[Finding, ...]:
    """Every finding, in the order of the checks.

    While a run is open the catalog is not at rest: then only that is told.
    """
    checks = (runs_are_finished,) if facts.open_runs else CHECKS
    return tuple(finding for check in checks for finding in check(facts))


def runs_are_finished(facts: InspectionFacts) -> Iterator[Finding]:
    """No run of the domain is open."""
    for reason in facts.open_runs:
        yield Finding(
            reason.code,
            "warning",
            reason.message,
            "No write is lost; `backfold domain show` names the images to boot from."
            " The rest is not checked before it has ended.",
            reason.remedy,
        )


def monitor_answers(facts: InspectionFacts) -> Iterator[Finding]:
    """The graph of QEMU could be read."""
    if facts.monitor_busy:
        yield Finding(
            "monitor_busy",
            "warning",
            f"The monitor {facts.domain.monitor} is in use by another client.",
            "QEMU's own view of the images was not compared.",
            "Close the other connection, or give the domain a second monitor.",
        )


def chains_are_whole(facts: InspectionFacts) -> Iterator[Finding]:
    """Every chain of every disk and snapshot can be read to its end."""
    told: set[tuple[str, str]] = set()
    for path, target, snapshot in _starts(facts):
        chain = facts.chains[path]
        if chain.broken is None:
            continue
        code, message = chain.broken
        last = chain.images[-1] if chain.images else None
        image = path if last is None else last.backing_path or last.path
        if (code, image) in told:
            continue
        told.add((code, image))
        is_needed = any(path == disk.source for disk in facts.domain.disks)
        snapshot = next((s for p, _, s in _starts(facts) if p == image), snapshot)
        yield Finding(
            code,
            "error",
            message,
            f"What is based on it cannot be opened. {_LOST[is_needed]}",
            _BROKEN[code],
            target,
            snapshot,
            image,
        )


def images_are_sound(facts: InspectionFacts) -> Iterator[Finding]:
    """No image is marked corrupt or fails `qemu-img check`."""
    for image in facts.images.values():
        if not image.header.corrupt and image.problem is None:
            continue
        what = image.problem or "its header says so"
        yield Finding(
            "corrupt_image",
            "error",
            f"{image.path} is corrupt: {what.splitlines()[0]}",
            "What a guest reads from it may be wrong. Nobody should write into it.",
            f"Restore it from a backup, or copy it and try `qemu-img check -r all -f"
            f" {image.header.format} COPY`.",
            image=image.path,
        )


def images_are_supported(facts: InspectionFacts) -> Iterator[Finding]:
    """Backfold could open every image, with its data file."""
    for image in facts.images.values():
        if (reason := unsupported(image.header)) is not None:
            message, remedy = reason
            yield Finding(
                "unsupported_image",
                "warning",
                message,
                "A deletion that has to open it is refused. An image without its data"
                " file holds nothing.",
                remedy,
                image=image.path,
            )


def links_are_as_recorded(facts: InspectionFacts) -> Iterator[Finding]:
    """Each chain leads to the frozen image that the catalog has below its start."""
    current = next((s.name for s in facts.snapshots if s.current), None)
    for disk in facts.domain.disks:
        if disk.source in facts.not_ours and not _has_labels(facts, disk):
            continue  # A disk that was attached later, under a former one's target.
        yield from _link(facts, disk.source, disk.target, current, None)
    for snapshot in facts.snapshots:
        for entry in snapshot.disks:
            yield from _link(
                facts, entry.frozen, entry.target, snapshot.parent, snapshot.name
            )


def _has_labels(facts: InspectionFacts, disk: Disk) -> bool:
    """Whether a frozen image is in the chain of a disk."""
    entries = [entry for s in facts.snapshots if (entry := s.disk(disk.target))]
    frozen = [facts.chains[entry.frozen].images[:1] for entry in entries]
    chain = facts.chains[disk.source]
    return any(chain.index(image.file) is not None for f in frozen for image in f)


def _link(
    facts: InspectionFacts,
    start: str,
    target: str,
    ancestor: str | None,
    snapshot: str | None,
) -> Iterator[Finding]:
    found = _nearest(facts, ancestor, target)
    chain = facts.chains[start]
    if found is None or chain.broken is not None or not chain.images:
        return
    parent, entry = found
    below = facts.chains[entry.frozen]
    if not below.images or chain.index(below.images[0].file) is not None:
        return
    if parent != ancestor and _leads_to_a_snapshot(facts, chain, target):
        return  # A revert to a snapshot without this disk has left it where it was.
    upper = chain.images[0]
    yield Finding(
        "wrong_link",
        "error",
        f"{start} is based on {upper.backing or 'nothing'}, and its chain does not"
        f" lead to {entry.frozen} of snapshot {parent}.",
        "Whoever opens it reads other data than was written there. If a guest was"
        " started from it since, its new data is mixed with that.",
        _rebase(facts, upper.path, target, entry),
        target,
        snapshot,
        start,
    )


def _leads_to_a_snapshot(
    facts: InspectionFacts, chain: ChainFacts, target: str
) -> bool:
    """Whether a frozen image of this disk lies below the first image of a chain."""
    entries = [entry for s in facts.snapshots if (entry := s.disk(target)) is not None]
    frozen = [facts.chains[entry.frozen].images[:1] for entry in entries]
    return any(chain.index(image.file) for images in frozen for image in images)


def _rebase(
    facts: InspectionFacts, image: str, target: str, below: SnapshotDisk
) -> str:
    """The command that puts a link back, with what else it may have named."""
    words = ["qemu-img", "rebase", "-u", "-f", "qcow2"]
    words += ["-b", below.frozen, "-F", below.format, image]
    others = [path for each, path, _ in facts.kept if each == target]
    others += [o.path for o in facts.orphans if o.based_on == below.frozen]
    doubt = f" It may have named {' or '.join(others)} instead." if others else ""
    return f"With the domain off: `{shlex.join(words)}`.{doubt}"


def _nearest(
    facts: InspectionFacts, name: str | None, target: str
) -> tuple[str, SnapshotDisk] | None:
    """The nearest snapshot from ``name`` on towards the root that has this disk."""
    by_name = {snapshot.name: snapshot for snapshot in facts.snapshots}
    while name is not None:
        entry = by_name[name].disk(target)
        if entry is not None:
            return name, entry
        name = by_name[name].parent
    return None


def qemu_has_the_same_chains(facts: InspectionFacts) -> Iterator[Finding]:
    """A living QEMU has each disk on the chain that its header names."""
    if facts.run_state is None:
        return
    for disk in facts.domain.disks:
        chain = facts.chains[disk.source]
        if chain.broken is None and chain.images:
            yield from _graph(facts, disk, chain)


def _graph(facts: InspectionFacts, disk: Disk, chain: ChainFacts) -> Iterator[Finding]:
    files = [image.file for image in chain.images]
    own = [c for c in facts.live if c.images and c.images[0].file == files[0]]
    if own and any([i.file for i in c.images] == files for c in own):
        return
    above = [c for c in facts.live if c.index(files[0])]
    if own:
        names = " → ".join(i.filename for i in own[0].images)
        message = f"QEMU has {disk.target} on another chain: {names}."
        remedy = (
            "`qemu-img info -U --backing-chain` shows what the headers say. QEMU is"
        )
        remedy += " right while it runs; mend the headers when it is off."
    elif above:
        newest = above[0].images[0]
        message = f"QEMU writes to {newest.filename}, above {disk.source}."
        words = ["backfold", "domain", "add", facts.domain.name]
        words += ["--disk", f"{disk.target}={newest.filename}"]
        words += ["--monitor", facts.domain.monitor or ""]
        remedy = f"`backfold domain remove {facts.domain.name}`, then"
        remedy += f" `{shlex.join(words)}` with all its disks, then"
        remedy += f" `backfold snapshot adopt {facts.domain.name}`."
    else:
        message = f"QEMU has {disk.source} as the active image of no device."
        remedy = f"`backfold domain show {facts.domain.name}` against QEMU's command"
        remedy += " line: one of them names the wrong image."
    yield Finding(
        "chain_differs",
        "error",
        message,
        "QEMU is right: what it writes to is the truth. Do not start the domain from"
        " what the catalog says.",
        remedy,
        disk.target,
        image=disk.source,
    )


def nobody_else_uses_images(facts: InspectionFacts) -> Iterator[Finding]:
    """A domain that is off has its active images to itself."""
    for disk in facts.domain.disks:
        chain = facts.chains[disk.source]
        active = facts.images.get(chain.images[0].file) if chain.images else None
        for user in active.users if active is not None else ():
            yield Finding(
                "image_in_use",
                "warning",
                f"{disk.source} is in use: {user.what}"
                + ("." if user.pid is None else f" (pid {user.pid})."),
                "Backfold refuses to work on the domain while it lasts.",
                "If it is the domain's QEMU, record its monitor (`backfold domain add"
                " --monitor`); otherwise wait until that process ends.",
                disk.target,
                image=disk.source,
            )


def bitmaps_are_usable(facts: InspectionFacts) -> Iterator[Finding]:
    """No dirty bitmap was left behind by a QEMU that was killed."""
    for image in facts.images.values():
        if image.live or image.users:
            continue  # Its flags are those of an image in use.
        for bitmap in image.header.bitmaps:
            if bitmap.inconsistent:
                words = ["qemu-img", "bitmap", "--remove", "-f", "qcow2"]
                words += [image.path, bitmap.name]
                yield Finding(
                    "inconsistent_bitmap",
                    "warning",
                    f"The dirty bitmap {bitmap.name} of {image.path} is inconsistent: a"
                    " QEMU that had it was killed.",
                    "The disk is not affected. An incremental backup by this bitmap"
                    " would miss writes; the next one must be a full one.",
                    f"`{shlex.join(words)}`.",
                    image=image.path,
                )


def snapshots_are_valid(facts: InspectionFacts) -> Iterator[Finding]:
    """Every snapshot holds its point in time."""
    for snapshot in facts.snapshots:
        if snapshot.status != "valid":
            yield _invalid(snapshot)


def _invalid(snapshot: Snapshot) -> Finding:
    return Finding(
        "invalid_snapshot",
        "warning",
        f"The snapshot {snapshot.name} is {snapshot.status}"
        + (f": {snapshot.reason}." if snapshot.reason else "."),
        "It cannot be reverted to. The disk as it is now is not affected.",
        f"`backfold delete {snapshot.domain} {snapshot.name}`.",
        snapshot=snapshot.name,
    )


def chains_are_recorded(facts: InspectionFacts) -> Iterator[Finding]:
    """Every image below an active one has a name."""
    labelled = {facts.chains[d.frozen] for s in facts.snapshots for d in s.disks}
    known = {chain.images[0].file for chain in labelled if chain.images}
    known |= {file for _, _, file in facts.kept if file is not None}
    for disk in facts.domain.disks:
        lower = facts.chains[disk.source].images[1:]
        nameless = [image.path for image in lower if image.file not in known]
        if nameless:
            yield Finding(
                "unrecorded_image",
                "note",
                f"No snapshot has {', '.join(nameless)}.",
                "They are templates, or snapshots that another tool has taken; Backfold"
                " does not touch them.",
                f"`backfold snapshot adopt {facts.domain.name} --dry-run` shows what"
                " they would become.",
                disk.target,
                image=nameless[0],
            )


def _starts(facts: InspectionFacts) -> Iterator[tuple[str, str, str | None]]:
    """Where a chain begins: path, target and snapshot."""
    for disk in facts.domain.disks:
        yield disk.source, disk.target, None
    for snapshot in facts.snapshots:
        for entry in snapshot.disks:
            yield entry.frozen, entry.target, snapshot.name
    for target, path, _ in facts.kept:
        yield path, target, None


CHECKS: Final[tuple[Check, ...]] = (
    monitor_answers,
    chains_are_whole,
    images_are_sound,
    images_are_supported,
    links_are_as_recorded,
    qemu_has_the_same_chains,
    nobody_else_uses_images,
    bitmaps_are_usable,
    snapshots_are_valid,
    chains_are_recorded,
    *FILE_CHECKS,
)

_LOST: Final = {
    True: "The domain cannot be started. Nothing says that data is lost.",
    False: "The disks as they are now are not affected.",
}
_BROKEN: Final = {
    "missing_image": "Bring the image back to that path; if it was renamed to a fence's"
    " name (`ls IMAGE.backfold-*`), the guide's chapter on rescue by hand applies.",
    "corrupt_image": "Restore it from a backup, or try `qemu-img check -r all` on a"
    " copy.",
    "unsupported_image": "Name each backing image by path and format"
    " (`qemu-img rebase -u -F FORMAT`).",
}
