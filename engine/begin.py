"""Runs are begun here: planned under the locks of their images, recorded, driven."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict
from typing import TypeVar

from ..journal import catalog, runs
from ..journal.errors import Refused, RolledBack
from ..journal.locks import Locks
from ..journal.model import FileId, ReversionPlan
from ..states.creation import CREATION
from ..states.deletion import DELETION
from ..states.options import Options
from ..states.reversion import REVERSION
from .creation_run import locked_by, plan_creation
from .driver import Driver
from .events import OnEvent
from .results import Deletion, Reversion
from .reversion_plan import discard_reasons
from .selection import selected

T = TypeVar("T")


async def creation(
    driver: Driver,
    domain: str,
    name: str,
    *,
    overlays: Mapping[str, str],
    exclude: Collection[str],
    memory: str | None,
    secrets: Mapping[str, str],
    on_event: OnEvent | None,
) -> None:
    """Take a snapshot; see `Engine.create_snapshot`."""
    with driver.new_locks() as locks:
        # Planned under the lock: nobody switches a disk any more.
        plan = await _settled(
            driver,
            locks,
            lambda: plan_creation(
                driver.reader, domain, name, overlays, exclude, memory, secrets
            ),
            locked_by,
        )
        run = driver.world.clock.new_id()
        key = await driver.store.write(
            lambda db: runs.begin_creation(
                db, run, plan, CREATION.initial, driver.author
            )
        )
        done = await driver.finish_creation(key, False, on_event)
    if done.state != "recorded":
        raise RolledBack(
            done,
            f"The snapshot {name} was not taken: {done.reason}.",
            data="The domain is as before; the new overlays were removed.",
            remedy="Mend the cause and take it again.",
        )


async def reversion(
    driver: Driver,
    domain: str,
    snapshot: str,
    plan: Callable[[], Awaitable[ReversionPlan]],
    *,
    discard: bool,
    on_event: OnEvent | None,
) -> Reversion:
    """Go back to a snapshot, as ``plan`` says under the locks; see `Engine.revert`."""

    async def images() -> list[str]:
        disks = (await driver.store.read(lambda db: catalog.domain(db, domain))).disks
        found = await driver.store.read(
            lambda db: catalog.snapshot(db, domain, snapshot)
        )
        return [disk.source for disk in disks] + [disk.frozen for disk in found.disks]

    with driver.new_locks() as locks:
        # Read under the lock: nobody changes a disk any more.
        await _settled(driver, locks, images, lambda paths: paths)
        planned = await plan()
        if not discard and (reasons := list(discard_reasons(planned))):
            raise Refused(reasons)
        run = driver.world.clock.new_id()
        key = await driver.store.write(
            lambda db: runs.begin_reversion(
                db, run, planned, REVERSION.initial, driver.author
            )
        )
        done = await driver.finish_reversion(key, False, on_event)
    if done.state != "reverted":
        raise RolledBack(
            done,
            f"{domain} was not reverted to {snapshot}: {done.reason}.",
            data="The disks are as before; the new overlays were removed.",
            remedy="Mend the cause and revert again.",
        )
    return done


async def deletion(
    driver: Driver,
    domain: str,
    snapshot: str,
    options: Options,
    on_event: OnEvent | None,
) -> Deletion:
    """Delete snapshots; the deletion as it ended. See `Engine.delete`."""
    disks = (await driver.store.read(lambda db: catalog.domain(db, domain))).disks
    known = await driver.store.read(lambda db: catalog.snapshots(db, domain))
    gone = selected(domain, known, snapshot, options)
    frozen = [entry for each in gone for entry in each.disks]
    paths = [disk.source for disk in disks] + [disk.frozen for disk in frozen]
    paths += [each.memory for each in gone if each.memory is not None]
    clock = driver.world.clock
    with driver.new_locks() as locks:
        locks.acquire(driver.identities(paths))
        run = clock.new_id()
        key = await driver.store.write(
            lambda db: runs.begin_deletion(
                db,
                run,
                domain,
                snapshot,
                asdict(options),
                DELETION.initial,
                driver.author,
            )
        )
        runner = await driver.deletion_run(key, on_event)
        runner.tell_state({})
        if options.timeout is not None:
            runner.ctx.deadline = clock.monotonic() + options.timeout
        return await driver.drive(runner, runner.run)


async def _settled(
    driver: Driver,
    locks: Locks,
    read: Callable[[], Awaitable[T]],
    paths: Callable[[T], Collection[str]],
) -> T:
    """What ``read`` gives when all its images are locked. Raises `Busy`."""
    locked: set[FileId] = set()
    while True:
        found = await read()
        files = set(driver.identities(paths(found)))
        if files <= locked:
            return found
        locks.acquire(files)
        locked |= files
