"""The pieces of code that docs/embedding.md explains; tests run them."""

from __future__ import annotations

import asyncio

from backfold import (
    BackfoldError,
    Deletion,
    Engine,
    Interrupted,
    Refused,
    RolledBack,
    StateEvent,
    as_json,
)


# --8<-- [start:delete]
async def delete(engine: Engine, domain: str, snapshot: str) -> Deletion | None:
    """Look first, then do it; every way that it can end."""
    plan = await engine.plan(domain, snapshot)  # takes no lock, writes nothing
    print(sum(fold.copy_bytes for fold in plan.folds), "bytes to copy")
    try:
        deletion = await engine.delete(domain, snapshot, max_downtime_ms=200)
    except Refused as error:  # nothing was changed; all reasons at once
        for reason in error.reasons:
            print(reason.code, reason.disk, reason.message, reason.remedy)
    except RolledBack as error:  # failed or cancelled; the domain is as before
        print(error.deletion.reason, error.data)
    except Interrupted as error:  # open; `resume`, `roll_back` or `recover` end it
        return await engine.resume(error.deletion.id)
    except BackfoldError as error:  # `Busy`, `JournalError`, ...
        print(as_json(error))
    else:
        print(deletion.seconds, "s; the guest stood", deletion.downtime_ms, "ms")
        return deletion
    return None


# --8<-- [end:delete]


# --8<-- [start:events]
async def watch(engine: Engine) -> None:
    """Tell of every run of this engine, until it is closed."""
    async with engine.events() as events:
        async for event in events:
            if isinstance(event, StateEvent):
                print(event.at, event.domain, event.source, "to", event.state)


# --8<-- [end:events]


# --8<-- [start:stop]
async def worker(engine: Engine, orders: asyncio.Queue[tuple[str, str]]) -> None:
    """Delete what is ordered, until the task is cancelled."""
    task = asyncio.current_task()
    while True:
        domain, snapshot = await orders.get()
        try:
            await engine.delete(domain, snapshot)
        except BackfoldError as error:
            print(as_json(error))
        if task is not None and task.cancelling():
            return  # cancelled meanwhile: the run came to a safe point first


# --8<-- [end:stop]
