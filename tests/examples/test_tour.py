"""examples/tour.py: what docs/embedding.md explains does what it says."""

from __future__ import annotations

import asyncio

import pytest

import tour
from backfold import StateEvent
from embedding.site import Site


def test_a_deletion_and_its_events(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            watching = asyncio.ensure_future(tour.watch(engine))
            await asyncio.sleep(0)
            done = await tour.delete(engine, "web", "s1")
            assert done is not None and done.state == "completed"
        await watching

    asyncio.run(story())
    lines = capsys.readouterr().out.splitlines()

    assert lines[0].endswith("bytes to copy")
    assert lines[1].endswith(" web None to validate")
    assert any(line.endswith("to completed") for line in lines)
    assert any(line.endswith("s; the guest stood None ms") for line in lines)


def test_a_worker_that_is_stopped(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends though the engine has taken the cancellation for its own."""

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            orders: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
            orders.put_nowait(("web", "nope"))
            orders.put_nowait(("web", "s1"))
            task = asyncio.ensure_future(tour.worker(engine, orders))
            async for event in engine.events():
                if isinstance(event, StateEvent) and event.state == "prepare":
                    task.cancel()
                    break
            await asyncio.wait_for(task, 30)
            (opened,) = await engine.deletions(only_open=True)
            assert opened.snapshot == "s1"

    asyncio.run(story())
    refused, interrupted = capsys.readouterr().out.splitlines()

    assert "'unknown_snapshot'" in refused
    assert "'interrupted'" in interrupted
