"""Disks that come and go: the catalog learns what was done to the machine."""

from __future__ import annotations

import os.path

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import Reason, Refused, UsageError
from ..journal.model import Disk, Domain, FileId
from .driver import Driver
from .names import valid_name


async def attach(driver: Driver, name: str, disk: Disk) -> Domain:
    """Record one more disk of a domain, in one transaction; touches no image.

    Raises `UsageError` for a target or an image that is taken, `Refused` when a run
    is open or the image cannot be read.
    """
    valid_name("disk", disk.target)
    await driver.store.read(lambda db: catalog.domain(db, name))
    source = os.path.abspath(disk.source)
    chain = await driver.reader.chain(source, disk.format)
    if chain.broken is not None:
        code, message = chain.broken
        remedy = "Name the image that the disk is on, with its format."
        raise Refused([Reason(code, message, remedy, disk.target)])
    below = [(image.path, image.format) for image in chain.images[1:]]
    new = Disk(disk.target, source, disk.format)
    file = chain.images[0].file

    def write(db: Database) -> Domain:
        _refuse_open(db, name)
        if catalog.domain(db, name).disk(new.target) is not None:
            raise UsageError(
                f"The domain {name} has a disk {new.target} already.",
                remedy=f"`backfold domain show {name}` lists its disks.",
            )
        if users := _users(db, driver, file):
            raise UsageError(
                f"The image {source} belongs to {users[0]} already.",
                remedy="Name the image that the disk is on.",
            )
        catalog.attach_disk(db, name, new, below)
        return catalog.domain(db, name)

    return await driver.store.write(write)


async def detach(driver: Driver, name: str, target: str) -> Domain:
    """Forget a disk of a domain, in one transaction; touches no image.

    Snapshots keep their entries of it. Locked against a snapshot that is being taken
    of that disk right now. Raises `Busy`, `Refused` when a run is open, `UsageError`
    when the domain does not have the disk, or no other one.
    """
    domain = await driver.store.read(lambda db: catalog.domain(db, name))
    disk = domain.disk(target)
    if disk is None:
        raise UsageError(
            f"The domain {name} has no disk {target}.",
            remedy=f"`backfold domain show {name}` lists its disks.",
        )

    def write(db: Database) -> Domain:
        _refuse_open(db, name)
        if len(catalog.domain(db, name).disks) == 1:
            raise UsageError(
                f"{target} is the only disk of the domain {name}.",
                remedy=f"`backfold domain remove {name}` forgets the domain.",
            )
        catalog.detach_disk(db, name, disk)
        return catalog.domain(db, name)

    with driver.new_locks() as locks:
        locks.acquire(driver.identities([disk.source]))
        return await driver.store.write(write)


def _refuse_open(db: Database, name: str) -> None:
    if reasons := runs.open_run_reasons(db, name):
        raise Refused(reasons)


def _users(db: Database, driver: Driver, file: FileId) -> list[str]:
    """What in the catalog refers to a file, by whatever name."""
    identify = driver.world.images.identify
    same = [path for path in catalog.image_paths(db) if identify(path) == file]
    return [user for path in same for user in catalog.users_of_image(db, path)]
