"""What must be true in every state, and what at the end.

Nothing here asks the engine how it feels: contents are read back from the files.
"""

from __future__ import annotations

from collections.abc import Iterator

from backfold.journal import catalog, runs

from .bitmaps import Dirt
from .play import Play
from .scenes import DOMAIN
from .world import BITMAP, Content, World


class Violation(AssertionError):
    """An invariant does not hold."""


def judge(play: Play, meddled: bool = False) -> None:
    """Invariants 1 and 2, in a state with no engine at work.

    Every acknowledged write is in the image that is the truth: what a living guest
    sees, else what the journal names, and what the rule without a journal names.
    """
    world = play.world
    play.settle_reversion()
    if _is_unproved(play):
        return
    _nothing_unnoted(play)
    if not meddled and (wrong := list(_others(play))):
        raise Violation("; ".join(wrong))
    if world.domain is not None:
        for target in world.domain.devices:
            _complete(world, target, world.seen_by_guest(target), "the running guest")
        return
    for disk in play.sources():
        if disk.broken is not None and (meddled or _is_in_doubt(play)):
            return
        if disk.broken is not None:
            raise Violation(f"{disk.target} cannot be booted: {disk.broken}")
        _complete(world, disk.target, world.content(disk.source), disk.source)
    _one_truth(play)
    for target, path in () if meddled or world.fence_is_void else _by_hand(play):
        _complete(world, target, world.content(path), f"{path}, by hand")


def _one_truth(play: Play) -> None:
    """Whoever boots by the definition boots all that was written, or nothing."""
    definition = play.definition or {}
    found = {t: play.world.content(path) for t, (path, _) in definition.items()}
    if None not in found.values():
        for target, content in found.items():
            where = f"{definition[target][0]}, by its definition"
            _complete(play.world, target, content, where)


def judge_end(play: Play, excused: bool, meddled: bool = False) -> None:
    """At rest: everything is finished, nothing is left over, snapshots are exact.

    ``excused``: an operator's meddling may keep a run open. ``meddled``: names of
    files were changed by hand.
    """
    world = play.world
    if play.open_runs():
        if not excused and not _is_in_doubt(play):
            raise Violation(f"open at the end: {_states(play)}")
        judge(play, meddled)
        return
    if world.domain is None and world.wanted != "off":
        if (why := play.boot()) is not None and not meddled:
            raise Violation(f"the domain does not start: {why}")
    judge(play, meddled)
    problems = list(_snapshots(play, meddled))
    if not excused:
        problems += [*_left_overs(play, meddled), *_unfolded(play), *_guest(world)]
    if problems:
        raise Violation("; ".join(problems))


def _is_unproved(play: Play) -> bool:
    """Whether nothing proves any more that an operator has completed a job by hand.

    The guest wrote into its base then, without a decision; once that QEMU is gone the
    journal names the overlay. The guide forbids it, and internals.md tells of it.
    """
    world = play.world
    domain = world.domain
    if world.completed_in is not None and (
        domain is None or domain.pid != world.completed_in
    ):
        world.unproved = True
    return world.unproved


def _is_in_doubt(play: Play) -> bool:
    """Whether nobody can tell which images are wanted, so that both are kept.

    A power cut may have taken the times by which a creation tells its images, as
    they are not durable before an fsync. Or the domain was started between a revert's
    last look, that it is off, and its record.
    """
    db = play.journal.db
    if play.world.on_former:
        return any(r.state == "recorded" for r in runs.open_reversions(db))
    creations = runs.open_creations(db)
    return play.world.boot > 1 and any(c.state == "overlays_made" for c in creations)


def _complete(world: World, target: str, found: Content | None, where: str) -> None:
    wanted = world.acknowledged[target]
    if found is None:
        raise Violation(f"{target} cannot be read from {where}")
    lost = {c: (found[c], v) for c, v in wanted.items() if found[c] != v}
    if lost:
        raise Violation(f"{target}: {len(lost)} writes are not in {where}: {lost}")


def _nothing_unnoted(play: Play) -> None:
    """A bitmap that looks sound has everything that was written since it was made.

    One that is not there, or inconsistent, is a loss that backups notice.
    """
    world = play.world
    if world.noted is None:
        return
    found: dict[str, Dirt | None] = {}
    if world.domain is not None:
        for target, root in world.domain.devices.items():
            found[target] = world.domain.nodes[root].bitmaps.get(BITMAP)
    else:
        for disk in play.sources():
            if (file := world.files.file(disk.source)) is not None:
                found[disk.target] = file.bitmaps.get(BITMAP)
    for target, dirt in found.items():
        if dirt is None or dirt.inconsistent:
            continue
        if missing := world.noted[target] - dirt.clusters:
            raise Violation(f"{target}: writes to {sorted(missing)} are not noted")
        if not dirt.recording:
            raise Violation(f"{target}: writes are not noted any more")


def _by_hand(play: Play) -> Iterator[tuple[str, str]]:
    """The rule of invariant 2 for whoever has no journal.

    An overlay that is not fenced is the truth; beside a fenced one the base is.
    """
    db = play.journal.db
    sources = {d.target: d.source for d in catalog.domain(db, DOMAIN).disks}
    for row in runs.list_deletions(db, only_open=True):
        for fold in row.plan.folds if row.plan is not None else ():
            if not fold.is_active or sources[fold.target] != fold.top.path:
                continue
            names = play.world.files.names
            if fold.top.path in names:
                yield fold.target, fold.top.path
            elif f"{fold.top.path}.backfold-{row.id}" in names:
                yield fold.target, fold.base.path


def _others(play: Play) -> Iterator[str]:
    """Snapshots that stay are exact at every moment, whatever becomes of others.

    One whose image a decided fold has set aside already is read by that name, until
    the catalog names the base.
    """
    world, db = play.world, play.journal.db
    opened = [row.id for row in runs.list_deletions(db, only_open=True)]
    for snapshot in catalog.snapshots(db, DOMAIN):
        expected = world.frozen.get(snapshot.name, {})
        for disk in snapshot.disks if snapshot.status == "valid" else ():
            names = [disk.frozen, *(f"{disk.frozen}.backfold-{id}" for id in opened)]
            path = next((n for n in names if n in world.files.names), disk.frozen)
            found = world.content(path)
            if found != expected.get(disk.target, found):
                yield f"{snapshot.name} of {disk.target} is not in {path}: {found}"


def _states(play: Play) -> str:
    db = play.journal.db
    rows = runs.list_deletions(db, only_open=True)
    said = [f"deletion in {row.state} ({row.reason})" for row in rows]
    said += [f"creation in {row.state}" for row in runs.open_creations(db)]
    said += [f"reversion in {row.state}" for row in runs.open_reversions(db)]
    return ", ".join(said)


def _left_overs(play: Play, meddled: bool) -> Iterator[str]:
    """``meddled``: an operator may have given a superseded image its name back."""
    world, db = play.world, play.journal.db
    alarms = db.query("select detail from transitions where trigger = 'alarm'")
    told_writable = "".join(str(row["detail"]) for row in alarms)
    for qemu in world.qemus.values():
        if qemu.is_helper:
            yield f"a helper is left (pid {qemu.pid})"
        if qemu.tasks:
            yield f"jobs are left: {sorted(qemu.tasks)}"
        used = {n.name for root in qemu.devices.values() for n in qemu.chain(root)}
        if left := sorted(qemu.nodes.keys() - used):
            yield f"nodes are left: {left}"
        for root in qemu.devices.values():
            for node in list(qemu.chain(root))[1:]:
                if not node.read_only and f"{node.filename} stays" not in told_writable:
                    yield f"{node.filename} is still writable"
    needed = _needed(play)
    # What a power cut left of a new overlay may be no image: that is never removed.
    images = {
        n for n in world.files.names if world.files.inodes[world.files.names[n]].header
    }
    told = db.query(
        "select value from transitions, json_each(detail, '$.left')"
        " where machine in ('creation', 'reversion') and trigger = 'undo'"
    )
    extra = images - needed - {str(row["value"]) for row in told} - _not_ours(play)
    if extra and not meddled:
        yield f"files are left: {sorted(extra)}"
    if world.guarded is not None:
        yield "a guard is left"


def _needed(play: Play) -> set[str]:
    """Every image that a disk or a snapshot is made of."""
    db = play.journal.db
    heads = [disk.source for disk in catalog.domain(db, DOMAIN).disks]
    for snapshot in catalog.snapshots(db, DOMAIN):
        heads += [disk.frozen for disk in snapshot.disks]
    return {path for head in heads for path in _chain(play.world, head)}


def _not_ours(play: Play) -> set[str]:
    """Images that no snapshot made: they are left where they are."""
    return {f"/images/{target}.qcow2" for target in play.world.acknowledged}


def _unfolded(play: Play) -> Iterator[str]:
    """Images that are neither active nor a snapshot's, and that only one needs.

    Not after a deletion that told why it left them: by the scope that was asked for,
    or by the edge that finishes early.
    """
    db = play.journal.db
    early = db.execute(
        "select 1 from transitions where kind = 'edge' and trigger = 'finish'"
        " and json_extract(detail, '$.because') is not 'nothing is left to fold'"
    ).fetchone()
    last = [row.state for row in runs.list_deletions(db, only_open=False)][:1]
    asked = play.scene.bare or play.scene.more.get("metadata_only")
    if early or last != ["completed"] or asked:
        return
    named = {disk.source for disk in catalog.domain(db, DOMAIN).disks}
    for snapshot in catalog.snapshots(db, DOMAIN):
        named |= {disk.frozen for disk in snapshot.disks}
    needed = _needed(play)
    below = [list(_chain(play.world, path))[1:2] for path in needed]
    for path in sorted(needed - named - _not_ours(play)):
        if below.count([path]) < 2:
            yield f"{path} could be folded"


def _snapshots(play: Play, meddled: bool) -> Iterator[str]:
    """``meddled``: an operator may have moved an image away while it was fenced."""
    world, db = play.world, play.journal.db
    for snapshot in catalog.snapshots(db, DOMAIN):
        if snapshot.status == "deleting":
            yield f"{snapshot.name} is still being deleted"
        if snapshot.status == "invalid" and not snapshot.reason:
            yield f"{snapshot.name} is invalid without a reason"
        expected = world.frozen.get(snapshot.name) or _taken(play, snapshot.name)
        for disk in snapshot.disks:
            found = world.content(disk.frozen)
            if found is None:
                if not meddled:
                    yield f"{snapshot.name} of {disk.target} cannot be read"
                continue
            wanted = expected.get(disk.target, found)
            if snapshot.status == "valid" and found != wanted:
                yield f"{snapshot.name} of {disk.target} is not what was frozen"


def _taken(play: Play, snapshot: str) -> dict[str, Content]:
    """What a snapshot holds that this history took; empty if nobody noted it.

    With the domain off nothing is switched, and it holds all that was written before.
    """
    for creation in play.journal.db.execute(
        "select json_extract(plan, '$.power') from creations where snapshot = ?",
        (snapshot,),
    ):
        if creation[0] != "off":
            return play.world.switched
    return play.world.acknowledged if play.world.wanted == "off" else {}


def _guest(world: World) -> Iterator[str]:
    domain = world.domain
    state = "off" if domain is None else domain.run_state
    if state == "prelaunch":
        state = "paused"
    if state == "paused" and world.may_stand:
        return
    if state != world.wanted:
        yield f"the domain is {state}, not {world.wanted}"


def _chain(world: World, path: str | None) -> Iterator[str]:
    while path is not None and (file := world.files.file(path)) is not None:
        yield path
        assert file.header is not None
        path = world.backing_path(path, file.header)
