"""One short name for each state of world and journal, times and counters left out.

Two states that differ in nothing that anybody compares are one state: values that the
guest wrote are ranked by cluster, modification times are ranked over all files and
all stamps in the journal, pids and times of day are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final

from .bitmaps import Dirts
from .engine import Journal
from .world import World

_QUERIES: Final = (
    "select snapshot, state, plan, passes, helper, hold, cancel_requested,"
    " reason is null,"
    " finished is null from deletions order by started",
    "select target, state, top_stamp, base_stamp from folds order by deletion, target",
    "select snapshot, state, plan, finished is null from creations order by started",
    "select snapshot, state, plan, finished is null from reversions order by started",
    "select target, source from disks order by target",
    "select name, parent, status, current from snapshots order by name",
    "select snapshot, target, frozen from snapshot_disks order by 1, 2",
    "select path, made_by is null from images order by path",
    "select path from kept_images order by path",
    "select distinct machine, trigger from transitions where kind = 'announce'"
    " order by 1, 2",
)
#: Modification times have 19 digits; nothing else in a journal has.
_MTIME: Final = re.compile(r"\b\d{19}\b")
_NOISE: Final = re.compile(
    r'"(?:at|pid|start_time|since|boot_id|process|socket|stamp)":'
    r' (?:"[^"]*"|[\d.]+|null)'
    r"|boot-\d+(?::\d+@[\d.]+)?|/run/backfold/[^\"]*"
)


def journal_text(journal: Journal) -> str:
    """What the journal says, without times, pids and paths of sockets."""
    rows: list[Any] = [journal.db.execute(q).fetchall() for q in _QUERIES]
    return _NOISE.sub("", json.dumps(rows))


def canonical(world: World, journal_said: str) -> str:
    """The name of a state; ``journal_said`` is from `journal_text`."""
    files = world.files
    rank = _ranks(world)
    mtimes = {int(found) for found in _MTIME.findall(journal_said)}
    for file in files.inodes.values():
        mtimes |= {file.mtime, file.safe_mtime}
    order = {mtime: number for number, mtime in enumerate(sorted(mtimes))}
    lines: list[Any] = [
        _MTIME.sub(lambda found: f"t{order[int(found[0])]}", journal_said),
        sorted(files.names.items()),
        files._changes,
        [
            (
                file.inode,
                file.header,
                file.safe_header,
                rank(file.clusters),
                rank(file.safe_clusters),
                order[file.mtime],
                order[file.safe_mtime],
                *_noted(file.bitmaps),
            )
            for file in files.inodes.values()
        ],
        (
            world.wanted,
            world.may_stand,
            world.wants_back,
            world.back_to,
            world.on_former,
            world.restarted,
            world.fence_is_void,
            world.completed_in is None,
            world.unproved,
            world.full,
            world.broken,
            world.definition,
            world.owner_is_broken,
            world.meddled,
            world.guarded is None,
        ),
        [(target, rank(content)) for target, content in world.acknowledged.items()],
    ]
    for qemu in world.qemus.values():
        nodes = [
            (
                *(n.name, n.filename, n.below, n.read_only, rank(n.memory)),
                *_noted(n.bitmaps),
            )
            for n in qemu.nodes.values()
        ]
        tasks = [
            (
                *(t.id[-2:], t.status, sorted(t.todo), t.completing),
                *(t.soft_cancelled, t.error, t.stuck, t.was_read_only),
            )
            for t in qemu.tasks.values()
        ]
        lines.append((qemu.is_helper, qemu.run_state, nodes, qemu.devices, tasks))
    return hashlib.blake2b(repr(lines).encode(), digest_size=12).hexdigest()


def _noted(bitmaps: Dirts) -> tuple[Any, ...]:
    return tuple(
        (name, dirt.recording, dirt.inconsistent, sorted(dirt.clusters))
        for name, dirt in bitmaps.items()
    )


def _ranks(world: World) -> Any:
    """Values of a cluster by their age: only which of them is newer matters."""
    values: set[int] = set()
    for file in world.files.inodes.values():
        values.update(file.clusters.values())
        values.update(file.safe_clusters.values())
    for qemu in world.qemus.values():
        for node in qemu.nodes.values():
            values.update(node.memory.values())
    for content in world.acknowledged.values():
        values.update(content.values())
    order = {value: number for number, value in enumerate(sorted(values))}

    def rank(content: dict[int, int]) -> list[tuple[int, int]]:
        return sorted((cluster, order[value]) for cluster, value in content.items())

    return rank
