"""Inspecting, done: read, judged, and mended where that is proved safe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

from ..journal import inspections
from ..journal.errors import BackfoldError, CommandFailed
from ..journal.model import FileId
from . import files, image_locks, log
from .driver import Driver
from .files import PROBES
from .images import UNFINISHED, in_thread
from .inspection import judge
from .inspection_facts import InspectionFacts, read_inspection
from .inspection_findings import Finding, Fix, Inspection


async def check(
    driver: Driver, domain: str, *, fix: bool, image_folders: Sequence[str]
) -> Inspection:
    """Inspect a domain; with ``fix``, mend what is proved safe, under its locks.

    Without ``fix`` no lock is taken and nothing is written. Safe to be killed in:
    each fix removes one thing that nobody needs, or does not. Raises `Refused` for an
    unknown domain, `Busy`.
    """
    if not fix:
        facts = await read_inspection(driver.reader, domain, image_folders)
        return Inspection(domain, facts.power, judge(facts))
    locked: set[FileId] = set()
    with driver.new_locks() as locks:
        while True:
            facts = await read_inspection(driver.reader, domain, image_folders)
            if set(facts.images) <= locked:
                break
            locks.acquire(facts.images)
            locked |= set(facts.images)
        return await _mended(driver, facts, judge(facts))


async def _mended(
    driver: Driver, facts: InspectionFacts, findings: Sequence[Finding]
) -> Inspection:
    """Mend one by one; what cannot be mended now stays, with the reason."""
    left, fixed = list[Finding](), list[Finding]()
    for finding in findings:
        if finding.fix is None:
            left.append(finding)
            continue
        try:
            await _mend(driver, facts.domain.name, finding.fix)
        except BackfoldError as error:
            told = f"{finding.message} It was not mended: {error.what}."
            left.append(replace(finding, message=told))
        else:
            log.say("info", "check.fixed", code=finding.code, path=finding.fix.path)
            fixed.append(finding)
    return Inspection(facts.domain.name, facts.power, tuple(left), tuple(fixed))


async def _mend(driver: Driver, domain: str, fix: Fix) -> None:
    """Do what a finding offers, after another proof. Raises `BackfoldError`."""
    if fix.action == "remove_file":
        await _remove(driver, fix)
    elif fix.action == "clear_socket":
        # Nobody has it on its command line, so there is nothing to end.
        await driver.world.hypervisor.end_helper(fix.path, None)
    else:
        await driver.store.write(
            lambda db: inspections.forget_unused(db, domain, fix.path)
        )


async def _remove(driver: Driver, fix: Fix) -> None:
    images, folders = driver.world.images, [os.path.dirname(fix.path)]
    assert fix.file is not None
    used = await images.users(fix.path)
    if used or fix.file in await images.dependents(folders):
        raise CommandFailed(f"{fix.path} is in use")
    await in_thread(_unlink, fix.path, fix.file)


def _unlink(path: str, file: FileId) -> None:
    """Remove exactly that left-over under its locks, and sync the directory.

    Only a name that no image ever has can be removed. Killed in here, the file is
    there or not.

    Raises:
        CommandFailed: when it is another file, in use, or has another name.
    """
    is_probe = any(probe in os.path.basename(path) for probe in PROBES)
    if not is_probe and not path.endswith(UNFINISHED):
        raise CommandFailed(f"{path!r} is no left-over, and is never removed")
    with files.opened_folder(path) as (folder, name):
        with image_locks.exclusive(path, folder=folder) as descriptor:
            found = os.fstat(descriptor)
            if files.file_id(found) != file or (is_probe and found.st_size):
                raise CommandFailed(f"{path!r} is not the file that it was")
            os.unlink(name, dir_fd=folder)
        files.sync_folders(path, folder)
