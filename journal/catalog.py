"""The catalog: domains, their disks, their snapshots, and the images of both.

Plain functions on an open transaction, and `Catalog`, which calls them through a
`Store`. An image has ``made_by`` when a creation of ours made it; only such images
are ever removed.
"""

from __future__ import annotations

import os.path
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import Reason, Refused, UsageError
from .model import (
    CatalogChange,
    CreationPlan,
    Disk,
    DiskChange,
    Domain,
    ReversionPlan,
    Snapshot,
    SnapshotDisk,
)
from .runs import open_run_reasons

if TYPE_CHECKING:
    from sqlite_utils import Database

    from .rows import Rows
    from .store import Store


class Catalog:
    """Domains and snapshots of one journal; every change is one transaction."""

    def __init__(self, store: Store) -> None:
        """Use the catalog of an open journal."""
        self._store = store

    async def domains(self) -> list[Domain]:
        """Every domain, by name."""
        return await self._store.read(domains)

    async def domain(self, name: str) -> Domain:
        """One domain. Raises `Refused` (``unknown_domain``)."""
        return await self._store.read(lambda db: domain(db, name))

    async def snapshots(self, domain: str) -> list[Snapshot]:
        """A domain's snapshots, parents first. Raises `Refused`."""
        return await self._store.read(lambda db: snapshots(db, domain))

    async def snapshot(self, domain: str, name: str) -> Snapshot:
        """One snapshot. Raises `Refused` (``unknown_snapshot``)."""
        return await self._store.read(lambda db: snapshot(db, domain, name))

    async def image_format(self, path: str) -> str | None:
        """The recorded format of an image; None when the catalog does not know it."""
        return await self._store.read(lambda db: image_format(db, path))

    async def is_ours(self, path: str) -> bool:
        """Whether a creation of ours made this image."""
        return await self._store.read(lambda db: is_ours(db, path))

    async def users_of_image(self, path: str) -> list[str]:
        """What in the catalog refers to an image, in words."""
        return await self._store.read(lambda db: users_of_image(db, path))

    async def remove_domain(self, name: str) -> None:
        """Forget a domain; its images stay. Raises `Refused`."""
        await self._store.write(lambda db: remove_domain(db, name))


def unknown_domain(name: str) -> Refused:
    """The refusal for a domain that nobody added."""
    return Refused(
        [
            Reason(
                "unknown_domain",
                f"There is no domain {name!r}.",
                "`backfold domain list` shows the domains; `backfold domain add`"
                " adds one.",
            )
        ]
    )


def unknown_snapshot(domain: str, name: str) -> Refused:
    """The refusal for a snapshot that the domain does not have."""
    return Refused(
        [
            Reason(
                "unknown_snapshot",
                f"The domain {domain} has no snapshot {name!r}.",
                f"`backfold snapshot list {domain}` shows its snapshots.",
            )
        ]
    )


def domains(db: Rows) -> list[Domain]:
    """Every domain, by name."""
    names = db.execute("select name from domains order by name").fetchall()
    return [domain(db, name) for (name,) in names]


def domain(db: Rows, name: str) -> Domain:
    """One domain. Raises `Refused` (``unknown_domain``)."""
    row = db.execute(
        "select monitor, hook from domains where name = ?", (name,)
    ).fetchone()
    if row is None:
        raise unknown_domain(name)
    disks = db.execute(
        "select target, source, format from disks join images on path = source"
        " where domain = ? order by position",
        (name,),
    )
    found = tuple(Disk(*disk) for disk in disks.fetchall())
    return Domain(name, row[0], found, row[1])


def add_domain(
    db: Database,
    new: Domain,
    below: Sequence[tuple[str, str]],
    created: str,
) -> None:
    """Record a domain. ``below`` are the lower images (path, format): not ours.

    Raises `UsageError` when the name or an active image is taken.
    """
    if db.execute("select 1 from domains where name = ?", (new.name,)).fetchone():
        raise UsageError(
            f"The domain {new.name!r} exists already.",
            remedy=f"`backfold domain show {new.name}` shows it.",
        )
    for disk in new.disks:
        if users := users_of_image(db, disk.source):
            raise UsageError(
                f"The image {disk.source} belongs to {users[0]} already.",
                remedy="Name the image that this domain boots from.",
            )
    db.execute(
        "insert into domains (name, monitor, hook, created) values (?, ?, ?, ?)",
        (new.name, new.monitor, new.hook, created),
    )
    for path, format in [*((d.source, d.format) for d in new.disks), *below]:
        put_image(db, path, format, None)
    for position, disk in enumerate(new.disks):
        db.execute(
            "insert into disks (domain, target, source, position) values (?, ?, ?, ?)",
            (new.name, disk.target, disk.source, position),
        )


def set_hook(db: Database, name: str, hook: str | None) -> Domain:
    """Give a domain another hook, or none, also while a run is open.

    Raises `Refused` (``unknown_domain``).
    """
    db.execute("update domains set hook = ? where name = ?", (hook, name))
    return domain(db, name)


def attach_disk(
    db: Database, name: str, disk: Disk, below: Sequence[tuple[str, str]]
) -> None:
    """Record a disk, the last of its domain. ``below`` as in `add_domain`."""
    for path, format in [(disk.source, disk.format), *below]:
        put_image(db, path, format, None)
    db.execute(
        "insert into disks (domain, target, source, position)"
        " select ?, ?, ?, coalesce(max(position), -1) + 1 from disks where domain = ?",
        (name, disk.target, disk.source, name),
    )


def detach_disk(db: Database, name: str, disk: Disk) -> None:
    """Forget a disk; snapshots keep their entries of its target.

    Compare-and-set. Its active image is not ours any more, whoever made it: it may
    be the disk of another machine by now.
    """
    _changed_one(
        db,
        "delete from disks where domain = ? and target = ? and source = ?",
        (name, disk.target, disk.source),
    )
    if is_ours(db, disk.source) and not users_of_image(db, disk.source):
        forget_image(db, disk.source)


def remove_domain(db: Database, name: str) -> None:
    """Forget a domain, its snapshots, and the images that nothing refers to.

    Raises `Refused` when it is unknown or a run is open.
    """
    domain(db, name)
    if reasons := open_run_reasons(db, name):
        raise Refused(reasons)
    mine = "select source from disks where domain = :name"
    mine += " union select frozen from snapshot_disks where domain = :name"
    referred = db.execute(mine, {"name": name}).fetchall()
    db.execute("update snapshots set parent = null where domain = ?", (name,))
    db.execute("delete from domains where name = ?", (name,))
    for (path,) in referred:
        if is_ours(db, path) and not users_of_image(db, path):
            forget_image(db, path)


def snapshots(db: Rows, name: str) -> list[Snapshot]:
    """A domain's snapshots, parents before children. Raises `Refused`."""
    domain(db, name)
    names = db.execute(
        "with recursive tree (name, depth, created) as ("
        " select name, 0, created from snapshots where domain = ? and parent is null"
        " union all select s.name, depth + 1, s.created from snapshots s"
        " join tree t on s.parent = t.name where s.domain = ?)"
        " select name from tree order by depth, created, name",
        (name, name),
    ).fetchall()
    return [snapshot(db, name, row[0]) for row in names]


def snapshot(db: Rows, domain_name: str, name: str) -> Snapshot:
    """One snapshot. Raises `Refused` (``unknown_snapshot``)."""
    row = db.execute(
        "select parent, created, status, reason, current, memory from snapshots"
        " where domain = ? and name = ?",
        (domain_name, name),
    ).fetchone()
    if row is None:
        raise unknown_snapshot(domain_name, name)
    disks = db.execute(
        "select d.target, d.frozen, i.format from snapshot_disks d"
        " join images i on i.path = d.frozen"
        " left join disks o on o.domain = d.domain and o.target = d.target"
        " where d.domain = ? and d.snapshot = ?"
        " order by o.position is null, o.position, d.target",
        (domain_name, name),
    ).fetchall()
    parent, created, status, reason, current, memory = row
    return Snapshot(
        domain=domain_name,
        name=name,
        parent=parent,
        created=created,
        status=status,
        reason=reason,
        current=bool(current),
        disks=tuple(SnapshotDisk(*disk) for disk in disks),
        memory=memory,
    )


def record_snapshot(db: Database, plan: CreationPlan, run: str, created: str) -> None:
    """Record a snapshot that was taken: it is the current one now."""
    parent = db.execute(
        "select name from snapshots where domain = ? and current = 1", (plan.domain,)
    ).fetchone()
    db.execute("update snapshots set current = 0 where domain = ?", (plan.domain,))
    db.execute(
        "insert into snapshots"
        " (domain, name, parent, created, status, current, memory)"
        " values (?, ?, ?, ?, 'valid', 1, ?)",
        (plan.domain, plan.snapshot, parent and parent[0], created, plan.memory),
    )
    for overlay in plan.overlays:
        put_image(db, overlay.overlay, "qcow2", run)
        db.execute(
            "insert into snapshot_disks (domain, snapshot, target, frozen)"
            " select domain, ?, target, source from disks"
            " where domain = ? and target = ? and source = ?",
            (plan.snapshot, plan.domain, overlay.target, overlay.frozen.path),
        )
        _changed_one(
            db,
            "update disks set source = ? where domain = ? and target = ?"
            " and source = ?",
            (overlay.overlay, plan.domain, overlay.target, overlay.frozen.path),
        )


def record_reversion(db: Database, plan: ReversionPlan, run: str) -> None:
    """Record a revert: the disks are on their new overlays, the snapshot is current.

    Everything changes or nothing; the images that the disks were on stay known until
    they are removed.
    """
    db.execute("update snapshots set current = 0 where domain = ?", (plan.domain,))
    _changed_one(
        db,
        "update snapshots set current = 1 where domain = ? and name = ?"
        " and status = 'valid'",
        (plan.domain, plan.snapshot),
    )
    for disk in plan.disks:
        put_image(db, disk.overlay.overlay, "qcow2", run)
        _changed_one(
            db,
            "update disks set source = ? where domain = ? and target = ?"
            " and source = ?",
            (disk.overlay.overlay, plan.domain, disk.target, disk.former.path),
        )


def mark_snapshot(
    db: Database, domain_name: str, name: str, status: str, reason: str | None = None
) -> None:
    """Set a snapshot's status; ``reason`` belongs to ``invalid`` alone."""
    db.execute(
        "update snapshots set status = ?, reason = ? where domain = ? and name = ?",
        (status, reason, domain_name, name),
    )


def fold_snapshots(db: Database, change: CatalogChange) -> None:
    """Record that snapshots have been folded away. Safe to repeat.

    Disk sources, the frozen images of other snapshots, the children's parent and
    the current snapshot change with the snapshots' own rows, or not at all.
    """
    name = change.domain
    present = {row[0] for row in _rows(db, "select name from snapshots", name)}
    gone = [snapshot for snapshot in change.snapshots if snapshot in present]
    if change.snapshots and not gone:
        return
    for snapshot in gone:
        _reparent(db, name, snapshot)
    for disk in change.disks:
        put_image(db, disk.base, disk.format, None)
        _move_references(db, change, disk)
        db.execute(
            "delete from kept_images where path in (?, ?)", (disk.top, disk.base)
        )
    for target, path in change.kept:
        db.execute(
            "insert or ignore into kept_images (path, domain, target) values (?, ?, ?)",
            (path, name, target),
        )


def _reparent(db: Database, domain_name: str, gone: str) -> None:
    """Remove a snapshot; its children and the current mark go to its parent."""
    parent, current = db.execute(
        "select parent, current from snapshots where domain = ? and name = ?",
        (domain_name, gone),
    ).fetchone()
    db.execute(
        "update snapshots set parent = ? where domain = ? and parent = ?",
        (parent, domain_name, gone),
    )
    db.execute(
        "delete from snapshots where domain = ? and name = ?", (domain_name, gone)
    )
    if current and parent:
        db.execute(
            "update snapshots set current = 1 where domain = ? and name = ?",
            (domain_name, parent),
        )


def _move_references(db: Database, change: CatalogChange, disk: DiskChange) -> None:
    """Whoever named the top names the base now, compare-and-set.

    Where no snapshot goes with it, it may have happened already: nothing had named
    the base before.
    """
    where = (disk.base, change.domain, disk.target, disk.top)
    changed = 0
    for table, column in (("disks", "source"), ("snapshot_disks", "frozen")):
        changed += db.execute(
            f"update {table} set {column} = ? where domain = ? and target = ?"
            f" and {column} = ?",
            where,
        ).rowcount
    again = not change.snapshots and bool(users_of_image(db, disk.base))
    if disk.is_named and not changed and not again:
        raise _changed_by_somebody()


def kept_images(db: Database, domain_name: str) -> list[tuple[str, str]]:
    """Images that stay without a snapshot, as (target, path)."""
    rows = _rows(db, "select target, path from kept_images", domain_name)
    return [(str(target), str(path)) for target, path in rows]


def makers(db: Database, paths: Sequence[str]) -> dict[str, str | None]:
    """Of these images those that the catalog has, with the creation that made them."""
    marks = ", ".join("?" for _ in paths)
    rows = db.execute(
        f"select path, made_by from images where path in ({marks})", tuple(paths)
    ).fetchall()
    return {str(path): made_by for path, made_by in rows}


def last_revert(
    db: Database, domain_name: str, target: str
) -> tuple[str, frozenset[str]] | None:
    """When a disk was reverted last, and the images that were made since then.

    None when it never was.
    """
    row = db.execute(
        "select max(started) from reversions, json_each(plan, '$.disks')"
        " where domain = ? and state in ('recorded', 'reverted')"
        " and json_extract(value, '$.overlay.target') = ?",
        (domain_name, target),
    ).fetchone()
    if row[0] is None:
        return None
    paths = db.execute(
        "select path from images where made_by in"
        " (select id from creations where started >= :since"
        " union all select id from reversions where started >= :since)",
        {"since": row[0]},
    ).fetchall()
    return str(row[0]), frozenset(str(path) for (path,) in paths)


def image_folders(db: Database) -> list[str]:
    """Every folder that an image of this catalog is in."""
    paths = db.execute("select path from images").fetchall()
    return sorted({os.path.dirname(str(path)) for (path,) in paths})


def put_image(db: Database, path: str, format: str, made_by: str | None) -> None:
    """Record an image. One that is not ours takes what is told last."""
    db.execute(
        "insert into images (path, format, made_by) values (?, ?, ?)"
        " on conflict (path) do update set format = excluded.format,"
        " made_by = excluded.made_by where made_by is null",
        (path, format, made_by),
    )


def forget_image(db: Database, path: str) -> None:
    """Forget an image that is gone."""
    forget_kept(db, path)
    db.execute("delete from images where path = ?", (path,))


def forget_kept(db: Database, path: str) -> None:
    """An image that stayed without a snapshot is needed no more; its file may stay."""
    db.execute("delete from kept_images where path = ?", (path,))


def image_format(db: Database, path: str) -> str | None:
    """The recorded format of an image; None when the catalog does not know it."""
    row = db.execute("select format from images where path = ?", (path,)).fetchone()
    return None if row is None else str(row[0])


def is_ours(db: Database, path: str) -> bool:
    """Whether a creation of ours made this image."""
    row = db.execute("select made_by from images where path = ?", (path,)).fetchone()
    return row is not None and row[0] is not None


def users_of_image(db: Database, path: str) -> list[str]:
    """What in the catalog refers to an image, in words."""
    disks = db.execute(
        "select 'disk ' || target || ' of domain ' || domain from disks"
        " where source = ?",
        (path,),
    ).fetchall()
    frozen = db.execute(
        "select 'snapshot ' || snapshot || ' of domain ' || domain"
        " from snapshot_disks where frozen = ?",
        (path,),
    ).fetchall()
    return [str(row[0]) for row in [*disks, *frozen]]


def image_paths(db: Database) -> list[str]:
    """Every image that the catalog knows."""
    rows = db.execute("select path from images order by path").fetchall()
    return [str(row[0]) for row in rows]


def memories(db: Database) -> list[tuple[str, str]]:
    """Every memory file: which snapshot's, in words, and its path."""
    rows = db.execute(
        "select 'snapshot ' || name || ' of domain ' || domain, memory"
        " from snapshots where memory is not null order by domain, name"
    ).fetchall()
    return [(str(words), str(path)) for words, path in rows]


def _rows(db: Rows, select: str, domain_name: str) -> list[tuple[str, ...]]:
    rows = db.execute(f"{select} where domain = ?", (domain_name,)).fetchall()
    return [tuple(row) for row in rows]


def _changed_one(db: Database, sql: str, parameters: tuple[str, ...]) -> None:
    """Compare-and-set: the catalog must be as the plan saw it."""
    if db.execute(sql, parameters).rowcount != 1:
        raise _changed_by_somebody()


def _changed_by_somebody() -> UsageError:
    return UsageError(
        "The catalog was changed by somebody else while the run was open.",
        data="The images are as the run left them; the catalog is unchanged.",
        remedy="`backfold domain show` and `backfold log` show both sides.",
    )
