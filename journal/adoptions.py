"""Recording a chain that nobody recorded: new labels, and images that are ours now.

Plain functions on an open transaction, beside those of `catalog`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlite_utils import Database

from . import catalog
from .errors import UsageError
from .model import Domain, Snapshot
from .runs import refuse_open

#: What `images.made_by` says of an overlay that an adoption made ours.
ADOPTED: Final = "adopted"


@dataclass(frozen=True, slots=True)
class AdoptedImage:
    """An image of a chain; ``others`` are based on it besides the chain's next one.

    ``ours``: a later deletion may remove it.
    """

    path: str
    format: str
    ours: bool
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Adoption:
    """What an adoption records.

    Attributes:
        domain: The domain as it was seen.
        before: Its snapshots as they were seen.
        power: ``running``, ``paused`` or ``off``.
        snapshots: New snapshots, parents first.
        parents: Known snapshots that get another parent, with its name.
        current: The snapshot that the active images lie above from now on.
        images: The images below and above the new labels.
    """

    domain: Domain
    before: tuple[Snapshot, ...]
    power: str
    snapshots: tuple[Snapshot, ...]
    parents: tuple[tuple[str, str], ...]
    current: str | None
    images: tuple[AdoptedImage, ...]


def record(db: Database, adoption: Adoption) -> None:
    """Record an adoption, all of it or nothing.

    Raises `Refused` when a run is open by now, `UsageError` when the catalog is not
    as the adoption saw it.
    """
    name = adoption.domain.name
    refuse_open(db, name)
    seen = (adoption.domain, list(adoption.before))
    if (catalog.domain(db, name), catalog.snapshots(db, name)) != seen:
        raise UsageError(
            "The catalog was changed by somebody else meanwhile.",
            data="Images, QEMU and catalog are unchanged.",
            remedy="Adopt again.",
        )
    for image in adoption.images:
        catalog.put_image(db, image.path, image.format, ADOPTED if image.ours else None)
    for new in adoption.snapshots:
        db.execute(
            "insert into snapshots (domain, name, parent, created, status, current)"
            " values (?, ?, ?, ?, 'valid', 0)",
            (name, new.name, new.parent, new.created),
        )
        for disk in new.disks:
            db.execute(
                "insert into snapshot_disks (domain, snapshot, target, frozen)"
                " values (?, ?, ?, ?)",
                (name, new.name, disk.target, disk.frozen),
            )
    for child, parent in adoption.parents:
        db.execute(
            "update snapshots set parent = ? where domain = ? and name = ?",
            (parent, name, child),
        )
    db.execute("update snapshots set current = 0 where domain = ?", (name,))
    db.execute(
        "update snapshots set current = 1 where domain = ? and name = ?",
        (name, adoption.current),
    )


def kept_images(db: Database, domain: str) -> list[str]:
    """Images that stay as shared bases although their snapshot was deleted."""
    rows = db.execute("select path from kept_images where domain = ?", (domain,))
    return [str(path) for (path,) in rows.fetchall()]


def active_images(db: Database) -> list[tuple[str, str]]:
    """The active images of all domains: path, and whose it is in words."""
    rows = db.execute(
        "select source, 'disk ' || target || ' of domain ' || domain from disks"
    )
    return [(str(path), str(what)) for path, what in rows.fetchall()]
