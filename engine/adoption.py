"""Adopting: a chain that nobody recorded becomes snapshots.

Every image below the active one that has no label yet becomes the frozen image of a
snapshot. Only labels are made: no image is written, renamed or removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from graphlib import CycleError
from typing import Final

from ..journal.adoptions import AdoptedImage, Adoption
from ..journal.errors import Reason, Refused
from ..journal.model import FileId, Snapshot, SnapshotDisk
from .adoption_facts import AdoptionFacts, DiskChain, ImageFacts
from .adoption_names import free_name, name_of
from .adoption_order import merged
from .checks import SAFE_RUN_STATES

_COMPARE: Final = "Compare `backfold domain show` with `qemu-img info --backing-chain`."
_REMEDY: Final = {
    "missing_image": "Bring the image back to that path.",
    "corrupt_image": "Restore it from a backup, or try `qemu-img check -r all` on a"
    " copy.",
    "unsupported_image": "Name each backing image by path and format"
    " (`qemu-img rebase -u -F FORMAT`).",
}


@dataclass
class _Group:
    """New frozen images of one name: one snapshot. ``at_ns`` is the newest mtime."""

    name: str
    disks: list[SnapshotDisk] = field(default_factory=list)
    files: set[FileId] = field(default_factory=set)
    at_ns: int = 0


def plan_adoption(facts: AdoptionFacts) -> Adoption:
    """What an adoption would record; pure. Raises `Refused` with all reasons."""
    if reasons := list(_reasons(facts)):
        raise Refused(reasons)
    groups, sequences = _groups(facts)
    line = _line(facts)
    before = _by_name(facts)
    ages = {name: (_nanoseconds(s.created), name) for name, s in before.items()}
    ages |= {group.name: (group.at_ns, group.name) for group in groups.values()}
    known = set(line)
    wanted = [line] + [
        [name for name in names if name in known or name in groups]
        for names in sequences
    ]
    try:
        order = merged(wanted, ages)
    except CycleError as error:
        between = " and ".join(sorted({str(name) for name in error.args[1]}))
        raise Refused(
            [
                Reason(
                    "chain_differs",
                    f"The disks do not have {between} in the same order, so that they"
                    " are no points in time of the whole domain.",
                    "Look which overlays belong together; give those that do not"
                    " another name (with the domain off, and `qemu-img rebase -u` for"
                    " the image above).",
                )
            ]
        ) from None
    parents = dict(zip(order, [None, *order], strict=False))
    return Adoption(
        domain=facts.domain,
        before=facts.snapshots,
        power=_power(facts),
        snapshots=tuple(
            _snapshot(facts, groups[name], parents[name], name == order[-1])
            for name in order
            if name in groups
        ),
        parents=tuple(_new_parents(facts, groups, order, parents)),
        current=_current(before, order, groups),
        images=tuple(_images(facts)),
    )


def _reasons(facts: AdoptionFacts) -> Iterator[Reason]:
    yield from facts.open_runs
    if facts.monitor_busy:
        yield Reason(
            "monitor_busy",
            f"The monitor {facts.domain.monitor} is in use by another client.",
            "Close the other connection, or give the domain a second monitor.",
        )
    if facts.run_state is not None and facts.run_state not in SAFE_RUN_STATES:
        yield Reason(
            "unsafe_run_state",
            f"QEMU is in the run state {facts.run_state!r}.",
            "Wait until the migration or restore is over.",
        )
    for job in facts.jobs:
        yield Reason(
            "foreign_job",
            f"QEMU runs a block job, {job}, which may change a chain.",
            "Wait until it ends, or cancel and dismiss it.",
        )
    for disk in facts.disks:
        yield from _disk_reasons(facts, disk)


def _disk_reasons(facts: AdoptionFacts, disk: DiskChain) -> Iterator[Reason]:
    target = disk.disk.target
    if disk.broken is not None:
        code, message = disk.broken
        yield Reason(code, message, _REMEDY[code], target)
    elif facts.run_state is not None and not facts.monitor_busy:
        yield from _live_reasons(disk)
    for depth, image in enumerate(disk.images):
        if image.header.corrupt:
            message = f"{image.path} is marked corrupt."
            yield Reason("corrupt_image", message, _REMEDY["corrupt_image"], target)
        for user in image.users:
            yield Reason(
                "image_in_use",
                f"{image.path} is in use: {user.what}.",
                "If the domain runs, record its monitor (`domain add --monitor`);"
                " otherwise wait until that process ends.",
                target,
            )
        if depth and image.source_of is not None:
            yield Reason(
                "foreign_user_of_base",
                f"{image.path} is the {image.source_of}, which writes into it.",
                "Only one of the two disks can be right; mend or remove the other.",
                target,
            )
        name = facts.managed.get(image.header.file)
        if name is not None and not facts.insist:
            yield Reason(
                "managed_by_libvirt",
                f"{image.path} belongs to libvirt's {name}.",
                "Leave its snapshots to libvirt, or insist with --ignore-libvirt.",
                target,
            )
    if disk.broken is None:
        there = {label for image in disk.images for label in image.labels}
        for snapshot in _ancestors(facts, _current_name(facts)):
            entry = snapshot.disk(target)
            if entry is not None and snapshot.name not in there:
                yield Reason(
                    "chain_differs",
                    f"{entry.frozen} of snapshot {snapshot.name} is not in the chain"
                    f" of {target}.",
                    _COMPARE,
                    target,
                )


def _live_reasons(disk: DiskChain) -> Iterator[Reason]:
    if disk.live is None:
        message = f"QEMU has {disk.disk.source} as the active image of no device."
    elif [i.file for i in disk.live.images] != [i.header.file for i in disk.images]:
        names = " → ".join(i.filename for i in disk.live.images)
        message = f"QEMU has {disk.disk.target} on another chain: {names}."
    else:
        return
    yield Reason("chain_differs", message, _COMPARE, disk.disk.target)


def _groups(facts: AdoptionFacts) -> tuple[Mapping[str, _Group], list[list[str]]]:
    """New snapshots by name, and for each disk the order of all labels, oldest first.

    A name that a chain has twice, or a known snapshot has already, gets a number.
    """
    raw: list[list[tuple[str, int | None]]] = []
    for disk in facts.disks:
        names: list[tuple[str, int | None]] = []
        mine: set[str] = set()
        for depth in range(len(disk.images) - 1, 0, -1):
            image = disk.images[depth]
            if image.labels or image.kept:
                names += [
                    (snapshot.name, None)
                    for snapshot in facts.snapshots
                    if snapshot.name in image.labels
                ]
                continue
            overlay = disk.images[depth - 1]
            name = free_name(name_of(overlay.header.path, image.header.path), mine)
            mine.add(name)
            names.append((name, depth))
        raw.append(names)
    taken = set(_by_name(facts))
    final: dict[str, str] = {}
    for name in dict.fromkeys(n for names in raw for n, depth in names if depth):
        others = taken | {
            n for names in raw for n, depth in names if depth and n != name
        }
        final[name] = free_name(name, others)
        taken.add(final[name])
    groups: dict[str, _Group] = {}
    sequences = []
    for disk, names in zip(facts.disks, raw, strict=True):
        sequence = []
        for name, place in names:
            if place is None:
                sequence.append(name)
                continue
            group = groups.setdefault(final[name], _Group(final[name]))
            image = disk.images[place]
            entry = SnapshotDisk(disk.disk.target, image.path, image.header.format)
            group.disks.append(entry)
            group.files.add(image.header.file)
            group.at_ns = max(group.at_ns, _written(image, facts.now))
            sequence.append(group.name)
        sequences.append(sequence)
    return groups, sequences


def _line(facts: AdoptionFacts) -> list[str]:
    """The known snapshots below the active images, the oldest first.

    Those up to the current one; without one, up to the newest that a chain has.
    """
    tip = _current_name(facts)
    if tip is None:
        # The snapshots are sorted by their depth in the tree.
        there = {n for d in facts.disks for i in d.images for n in i.labels}
        tip = next((s.name for s in reversed(facts.snapshots) if s.name in there), None)
    return [snapshot.name for snapshot in _ancestors(facts, tip)]


def _ancestors(facts: AdoptionFacts, tip: str | None) -> Sequence[Snapshot]:
    """A snapshot with all its ancestors, the oldest first."""
    by_name, found = _by_name(facts), list[Snapshot]()
    while tip is not None:
        found.insert(0, by_name[tip])
        tip = by_name[tip].parent
    return found


def _new_parents(
    facts: AdoptionFacts,
    groups: Mapping[str, _Group],
    order: Sequence[str],
    parents: Mapping[str, str | None],
) -> Iterator[tuple[str, str]]:
    """Known snapshots that get a new one as their parent.

    One beside the line is a child of the newest snapshot that its images lie above.
    """
    for snapshot in facts.snapshots:
        parent = snapshot.parent
        if snapshot.name in order:
            parent = parents[snapshot.name]
        elif parent is None or parent in order:
            above = order.index(parent) + 1 if parent is not None else 0
            for name in order[above:]:
                if name not in groups:
                    break
                if groups[name].files & facts.lineages[snapshot.name]:
                    parent = name
        if parent is not None and parent != snapshot.parent:
            yield snapshot.name, parent


def _images(facts: AdoptionFacts) -> Iterator[AdoptedImage]:
    """The new frozen images, and the overlays above them.

    An overlay is ours from now on unless somebody else's image is based on it; the
    lowest image of a chain never is.
    """
    for disk in facts.disks:
        new = {
            depth
            for depth, image in enumerate(disk.images)
            if depth and not image.labels and not image.kept
        }
        for depth in sorted(new | {depth - 1 for depth in new}):
            image = disk.images[depth]
            ours = depth + 1 in new and not image.others
            yield AdoptedImage(image.path, image.header.format, ours, image.others)


def _snapshot(
    facts: AdoptionFacts, group: _Group, parent: str | None, current: bool
) -> Snapshot:
    """``created`` is when the frozen images were last written, but not the future."""
    created = min(_instant(group.at_ns), facts.now)
    return Snapshot(
        domain=facts.domain.name,
        name=group.name,
        parent=parent,
        created=created,
        status="valid",
        reason=None,
        current=current,
        disks=tuple(group.disks),
    )


def _current(
    before: Mapping[str, Snapshot], order: Sequence[str], groups: Mapping[str, _Group]
) -> str | None:
    """The last of the line; what was current stays so when nothing is new."""
    if groups:
        return order[-1]
    return next((s.name for s in before.values() if s.current), None)


def _current_name(facts: AdoptionFacts) -> str | None:
    return next((s.name for s in facts.snapshots if s.current), None)


def _by_name(facts: AdoptionFacts) -> dict[str, Snapshot]:
    return {snapshot.name: snapshot for snapshot in facts.snapshots}


def _power(facts: AdoptionFacts) -> str:
    if facts.run_state is None:
        return "off"
    return "running" if facts.run_state == "running" else "paused"


def _written(image: ImageFacts, now: str) -> int:
    """When an image was last written, in ns; now when nobody can tell (a device)."""
    if image.stamp is None or image.stamp.is_silent:
        return _nanoseconds(now)
    return image.stamp.mtime_ns


def _instant(nanoseconds: int) -> str:
    seconds = nanoseconds / 1e9
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _nanoseconds(instant: str) -> int:
    return int(datetime.fromisoformat(instant).timestamp() * 1e6) * 1000
