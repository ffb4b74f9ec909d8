"""What a domain is to be booted from now, whatever is open."""

from __future__ import annotations

from dataclasses import replace

from ..journal import catalog, runs
from ..states.identities import identify_again
from ..states.revert import identify_reversion_again
from .driver import Driver
from .results import DomainDisk
from .truth import boot_sources, doubts_of_reversion, sources_in_creation


async def boot_disks(driver: Driver, name: str) -> tuple[DomainDisk, ...]:
    """The image of each disk, with the chain below it; see `Engine.disks`."""
    read, images = driver.store.read, driver.world.images
    boot_id = driver.world.clock.boot_id()
    domain = await read(lambda db: catalog.domain(db, name))
    opened = await read(lambda db: runs.list_deletions(db, only_open=True))
    mine = next((row for row in opened if row.domain == name), None)
    if mine is not None and mine.plan is not None:
        plan = identify_again(mine.plan, images, mine.id, boot_id)
        mine = replace(mine, plan=plan)
    sources = boot_sources(domain, mine, images)
    for creation in await read(runs.open_creations):
        if creation.domain == name:
            sources = await sources_in_creation(domain, creation, images)
    for reversion in await read(runs.open_reversions):
        if reversion.domain == name:
            again = identify_reversion_again(
                reversion.plan, images, reversion.id, boot_id
            )
            sources = doubts_of_reversion(
                sources, replace(reversion, plan=again), images
            )
    result = []
    for source in sources:
        disk = source.disk
        chain = await driver.reader.chain(disk.source, disk.format)
        paths = tuple(image.path for image in chain.images)
        broken = chain.broken
        if source.doubt is not None:
            broken = ("both_changed", source.doubt)
        result.append(DomainDisk(disk.target, disk.source, disk.format, paths, broken))
    return tuple(result)
