"""What open runs need: resumed, rolled back, cancelled, released.

There is no second algorithm here: recovery claims a run and runs its states again,
and each state looks at the world before it acts.
"""

from __future__ import annotations

import asyncio
from typing import Final

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import AlreadyDecided, BackfoldError, Busy, Interrupted
from ..journal.runs import DeletionRow
from ..states.deletion import UNDECIDED
from ..states.outlook import Outlook
from .creation_run import locked_by
from .driver import Driver
from .events import OnEvent
from .history import History
from .release import end_holds
from .results import Creation, Deletion, Reversion, Run

#: What is left to do, by the states that there is no way back from.
FORWARD: Final = {
    "pivot": "it brings every disk to its base, lets the guest go on if it still"
    " stands, records that in the catalog, and removes the overlays",
    "update_metadata": "it records in the catalog what the disks are now, and removes"
    " the superseded images, each after a proof that nothing uses it",
    "stop": "it ends the helper and checks the images",
}

#: How long recovery waits for a guard that is ending a hold, in seconds.
PATIENCE = 5.0


async def deletion_id(driver: Driver, prefix: str) -> str:
    """The deletion that a prefix names. Raises `UsageError`."""
    return await driver.store.read(lambda db: runs.find_deletion(db, prefix))


async def recover_deletion(
    driver: Driver,
    run: str,
    *,
    roll_back: bool,
    on_event: OnEvent | None,
    patience: float = PATIENCE,
) -> Deletion:
    """Finish an open deletion, or give it up; a finished one is returned as it is.

    Raises `Busy`, `Interrupted`, and with ``roll_back`` `AlreadyDecided`.
    """
    row = await driver.row(run)
    if row.finished is not None:
        return Deletion.of(row)
    with await driver.locked(row, patience):
        row = await driver.row(run)
        if row.finished is not None:
            return Deletion.of(row)
        if roll_back:
            refuse_decided(row)
        runner = await driver.claimed(run, on_event)
        if not roll_back:
            return await driver.drive(runner, runner.run)
        return await driver.drive(
            runner, lambda: runner.give_up("a roll back was asked for")
        )


async def recover_creation(
    driver: Driver, run: str, on_event: OnEvent | None
) -> Creation:
    """Finish an open creation: recorded or undone, as the disks say."""
    row = await driver.store.read(lambda db: runs.creation(db, run))
    if row.finished is not None:
        return Creation.of(row)
    with driver.new_locks() as locks:
        locks.acquire(driver.identities(locked_by(row.plan)))
        key = await driver.store.write(
            lambda db: runs.claim(db, "creation", run, driver.author)
        )
        return await driver.finish_creation(key, True, on_event)


async def recover_reversion(
    driver: Driver, run: str, on_event: OnEvent | None
) -> Reversion:
    """Finish an open reversion: before its record it is undone, after it finished."""
    row = await driver.store.read(lambda db: runs.reversion(db, run))
    if row.finished is not None:
        return Reversion.of(row)
    with driver.new_locks() as locks:
        locks.acquire(await driver.images_of_reversion(row))
        key = await driver.store.write(
            lambda db: runs.claim(db, "reversion", run, driver.author)
        )
        return await driver.finish_reversion(key, True, on_event)


async def recover_all(
    driver: Driver, run: str | None, *, roll_back: bool, on_event: OnEvent | None
) -> list[Run | BackfoldError]:
    """Finish one run, or every open one; an error of one does not stop the others.

    A guest that stands still in a hold that nobody watched is freed before anything
    is done about any other run. A single run does that first by itself. When the
    caller is cancelled, no other run is begun: the outcome of those is `Interrupted`.
    """
    caller = asyncio.current_task()
    cancels = 0 if caller is None else caller.cancelling()
    todo = await driver.store.read(lambda db: _named(db, run))
    if len(todo) > 1:
        deletions = [found for machine, found in todo if machine == "deletion"]
        await end_holds(driver, deletions, PATIENCE)
    outcomes: list[Run | BackfoldError] = []
    for machine, found in todo:
        if caller is not None and caller.cancelling() > cancels:
            outcomes.append(await _not_begun(driver, found))
            continue
        try:
            if machine == "creation":
                outcomes.append(await recover_creation(driver, found, on_event))
            elif machine == "reversion":
                outcomes.append(await recover_reversion(driver, found, on_event))
            else:
                outcomes.append(
                    await recover_deletion(
                        driver, found, roll_back=roll_back, on_event=on_event
                    )
                )
        except BackfoldError as error:
            outcomes.append(error)
    return outcomes


async def _not_begun(driver: Driver, run: str) -> Interrupted:
    return Interrupted(
        await driver.store.read(lambda db: History(db).find(run)),
        f"Interrupted before {run} was recovered; it is left open.",
        data="Nothing was done about it.",
        remedy=f"Run `backfold recover {run}`.",
    )


def _named(db: Database, run: str | None) -> list[tuple[str, str]]:
    """Machine and id of the run that was named, or of every open one."""
    if run is not None:
        return [runs.find(db, run)]
    found = [("creation", row.id) for row in runs.open_creations(db)]
    found += [("reversion", row.id) for row in runs.open_reversions(db)]
    opened = runs.list_deletions(db, only_open=True)
    return found + [("deletion", row.id) for row in opened]


async def outlook(driver: Driver, run: str | None, *, roll_back: bool) -> list[Outlook]:
    """What recovery would do about one run, or every open one; only reads."""

    def look(db: Database) -> list[Outlook]:
        history = History(db)
        found = [
            history.outlook(each, roll_back=roll_back) for _, each in _named(db, run)
        ]
        return [outlook for outlook in found if outlook is not None]

    return await driver.store.read(look)


async def cancel(driver: Driver, run: str, on_event: OnEvent | None) -> Deletion:
    """Leave a request in the journal, and wait until somebody has honoured it.

    The engine that holds the lock does so within a second; without one the run is
    rolled back here. Raises `AlreadyDecided` after the decision.
    """
    while True:
        row = await driver.row(run)
        if row.finished is not None:
            return Deletion.of(row)
        refuse_decided(row)
        if not row.cancel_requested:
            await driver.store.write(
                lambda db: runs.request_cancel(db, run, driver.author)
            )
        try:
            return await recover_deletion(
                driver, run, roll_back=True, on_event=on_event, patience=0
            )
        except Busy:
            await driver.world.clock.sleep(0.2)


def refuse_decided(row: DeletionRow) -> None:
    """Raise `AlreadyDecided` when there is no way back any more.

    It says what `recover` would do instead.
    """
    if row.state not in UNDECIDED:
        raise AlreadyDecided(
            f"The deletion {row.id} is past its decision ({row.state}): it cannot be"
            " rolled back.",
            data="The data is in the base images; going back would lose what the guest"
            " has written since.",
            remedy=f"`backfold recover {row.id}` finishes it: {FORWARD[row.state]}.",
        )
