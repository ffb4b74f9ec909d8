"""Adopting, done: planned under the locks, recorded in one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from ..journal import adoptions
from ..journal.adoptions import Adoption
from ..journal.model import FileId
from .adoption import plan_adoption
from .adoption_facts import read_adoption
from .driver import Driver


async def plan(
    driver: Driver, domain: str, *, insist: bool, image_folders: Sequence[str]
) -> Adoption:
    """What `adopt` would record. Takes no lock, writes nothing. Raises `Refused`."""
    now = driver.world.clock.now()
    return plan_adoption(
        await read_adoption(driver.reader, domain, now, insist, image_folders)
    )


async def adopt(
    driver: Driver, domain: str, *, insist: bool, image_folders: Sequence[str]
) -> Adoption:
    """Record the chains of a domain as snapshots; images and QEMU are not touched.

    Planned under the locks of all images of the chains, so that no other engine
    switches or removes one meanwhile. Safe to be killed in: the catalog has all of
    it or nothing. Raises `Refused`, `Busy`, `UsageError`.
    """
    locked: set[FileId] = set()
    with driver.new_locks() as locks:
        while True:
            now = driver.world.clock.now()
            facts = await read_adoption(
                driver.reader, domain, now, insist, image_folders
            )
            planned = plan_adoption(facts)
            if facts.files() <= locked:
                break
            locks.acquire(facts.files())
            locked |= facts.files()
        if planned.snapshots:
            await driver.store.write(lambda db: adoptions.record(db, planned))
    return planned
