"""Several engines, tasks that are cancelled, and time-outs, as programs use them."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backfold import (
    Busy,
    Deletion,
    Engine,
    HookCall,
    Interrupted,
    ProgressEvent,
    Refused,
    RolledBack,
    StateEvent,
)
from embedding.site import Site
from real.scene import play

#: What the slow deletions copy, and how fast: longer than any test waits.
COPIED, RATE = 8 << 20, 256 << 10


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def fill(image: Path) -> None:
    """Write into an image what a deletion has to copy."""
    write = ["-f", "qcow2", "-c", f"write -P 7 0 {COPIED}"]
    subprocess.run(["qemu-io", *write, image], check=True, capture_output=True)


async def slow_domain(engine: Engine, site: Site, name: str = "web") -> None:
    """A domain whose snapshot takes long to delete."""
    await site.add(engine, name, "s1")
    fill(site.folder / f"{name}.s1")


def slowly(engine: Engine, name: str = "web") -> Awaitable[Deletion]:
    return engine.delete(name, "s1", strategy="commit", bandwidth=RATE)


async def copying(engine: Engine, act: Callable[[str], object]) -> None:
    """Wait for a deletion that copies, and do something to it."""
    async for event in engine.events():
        if isinstance(event, StateEvent) and event.state == "commit_per_disk":
            act(event.run)
            return


async def assert_left_open(engine: Engine, run: str) -> None:
    """Nobody works on it, and whoever comes can end it."""
    assert [each.id for each in await engine.deletions(only_open=True)] == [run]
    assert (await engine.roll_back(run)).state == "rolled_back"


def test_who_leaves_does_not_wait_for_a_hook_that_fails(site: Site) -> None:
    """The snapshot is undone; each question was put once."""
    told: list[str] = []

    async def story() -> None:
        async def hook(call: HookCall) -> None:
            told.append(call.call)
            taking.cancel()
            raise RuntimeError("the control plane is down")

        async with site.engine(hook=hook) as engine:
            await site.add(engine, "web")
            taking = asyncio.ensure_future(engine.create_snapshot("web", "s1"))
            with pytest.raises(asyncio.CancelledError):
                await taking
            assert await engine.catalog.snapshots("web") == []
            assert await engine.creations() == []
            assert sorted(os.listdir(site.folder)) == ["journal", "locks", "web.qcow2"]

    play(story())

    assert told == ["prepare"]


# Several engines


def test_two_engines_on_one_journal_work_on_two_domains(site: Site) -> None:
    """At once, in one process; each hears its own runs, and sees those of both."""

    async def story() -> None:
        async with site.engine() as one, site.engine() as other:
            await site.add(one, "a", "s1")
            await site.add(one, "b", "s1")
            first, second = one.events(), other.events()
            done = await asyncio.gather(one.delete("a", "s1"), other.delete("b", "s1"))
            assert [deletion.state for deletion in done] == ["completed"] * 2
            assert {d.id for d in await one.deletions()} == {d.id for d in done}
            assert await one.deletions() == await other.deletions()
        assert {event.run async for event in first} == {done[0].id}
        assert {event.run async for event in second} == {done[1].id}

    play(story())


def test_one_domain_is_one_engines(site: Site, tmp_path: Path) -> None:
    """Whether the other one has the same journal, or another with the same image."""

    async def story() -> None:
        stranger = Site(tmp_path)
        stranger.journal = tmp_path / "another" / "journal.db"
        async with (
            site.engine() as one,
            site.engine() as other,
            stranger.engine() as third,
        ):
            await slow_domain(one, site)
            disks = (await one.catalog.domain("web")).disks
            await third.add_domain("same", disks)
            task = asyncio.ensure_future(slowly(one))
            await copying(one, lambda run: None)
            with pytest.raises(Busy):
                await other.delete("web", "s1")
            with pytest.raises(Refused) as caught:
                await third.create_snapshot("same", "s2")
            assert caught.value.exit_status == Busy.exit_status
            task.cancel()
            with pytest.raises(Interrupted):
                await task
            await one.recover(roll_back=True)  # Ends the helper.

    play(story())


def test_two_loops_in_two_threads(site: Site) -> None:
    """An engine belongs to its event loop; any thread may have a loop of its own."""

    async def work(name: str) -> str:
        async with site.engine() as engine:
            return (await engine.delete(name, "s1")).state

    async def story() -> None:
        async with site.engine() as engine:
            for name in "ab":
                await site.add(engine, name, "s1")
        states = await asyncio.gather(
            *(asyncio.to_thread(asyncio.run, work(name)) for name in "ab")
        )
        assert states == ["completed", "completed"]

    play(story())


# Cancelled, by whom and however


def test_a_run_that_another_engine_cancels(site: Site) -> None:
    """The engine that works on it gives it up, and both learn of it."""

    async def story() -> None:
        async with site.engine() as one, site.engine() as other:
            await slow_domain(one, site)
            asked: list[asyncio.Future[Deletion]] = []

            def cancel(run: str) -> None:
                asked.append(asyncio.ensure_future(other.cancel(run)))

            task = asyncio.ensure_future(slowly(one))
            await copying(one, cancel)
            with pytest.raises(RolledBack) as caught:
                await task
            given_up = await asked[0]
            assert given_up.state == caught.value.deletion.state == "rolled_back"
            assert given_up.id == caught.value.deletion.id
            assert given_up.reason == "a cancel was asked for"

    play(story())


@pytest.mark.parametrize("times", [1, 3])
def test_a_task_that_is_cancelled(site: Site, times: int) -> None:
    """However often: the run is left at a safe point, and open."""

    async def story() -> None:
        async with site.engine() as engine:
            await slow_domain(engine, site)
            task = asyncio.ensure_future(slowly(engine))
            await copying(engine, lambda run: task.cancel())
            for _ in range(times - 1):
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(Interrupted) as caught:
                await task
            left = caught.value.deletion
            assert left.finished is None and left.state == "commit_per_disk"
            assert (caught.value.code, caught.value.exit_status) == ("interrupted", 6)
            await assert_left_open(engine, left.id)

    play(story())


def test_a_deletion_within_a_time_out(site: Site) -> None:
    """`asyncio.timeout` interrupts it; its own ``timeout`` rolls it back."""

    async def story() -> None:
        async with site.engine() as engine:
            await slow_domain(engine, site)
            with pytest.raises(Interrupted) as caught:
                async with asyncio.timeout(0.8):
                    await slowly(engine)
            run = caught.value.deletion.id
            assert (await engine.roll_back(run)).state == "rolled_back"
            assert (await engine.catalog.snapshot("web", "s1")).name == "s1"
            with pytest.raises(RolledBack, match="time-out"):
                await engine.delete(
                    "web", "s1", strategy="commit", bandwidth=RATE, timeout=0.5
                )

    play(story())


def test_a_group_of_tasks_one_of_which_fails(site: Site) -> None:
    """The group leaves the others' runs open, and says so beside the failure."""

    async def fail(run: str) -> None:
        raise ZeroDivisionError(run)

    async def story() -> None:
        async with site.engine() as engine:
            await slow_domain(engine, site)
            runs: list[str] = []

            async def delete() -> None:
                await slowly(engine)

            with pytest.raises(ExceptionGroup) as caught:
                async with asyncio.TaskGroup() as group:
                    group.create_task(delete())
                    await copying(engine, runs.append)
                    group.create_task(fail(runs[0]))
            assert {type(error) for error in caught.value.exceptions} == {
                ZeroDivisionError,
                Interrupted,
            }
            await assert_left_open(engine, runs[0])

    play(story())


def test_a_recovery_that_is_cancelled(site: Site) -> None:
    """It does not begin with the next run, and says of each what became of it."""

    async def story() -> None:
        async with site.engine() as engine:
            for name in ("a", "b"):
                await slow_domain(engine, site, name)
                task = asyncio.ensure_future(slowly(engine, name))
                await copying(engine, lambda run: None)
                task.cancel()
                with pytest.raises(Interrupted):
                    await task
        async with site.engine() as engine:
            opened = {each.id for each in await engine.deletions(only_open=True)}
            recovery = asyncio.ensure_future(engine.recover())
            async for event in engine.events():
                if isinstance(event, ProgressEvent):
                    recovery.cancel()
                    break
            outcomes = await recovery
            await engine.recover(roll_back=True)  # Ends the helpers.
        assert {getattr(each, "code", each) for each in outcomes} == {"interrupted"}
        assert {
            each.deletion.id for each in outcomes if isinstance(each, Interrupted)
        } == opened
        assert len(opened) == 2

    play(story())


def test_a_creation_that_is_cancelled_is_finished_first(site: Site) -> None:
    """It takes milliseconds: all disks or none, and known which."""

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web")
            task = asyncio.ensure_future(engine.create_snapshot("web", "s1"))
            async for event in engine.events():
                if isinstance(event, StateEvent) and event.state == "planned":
                    task.cancel()
                    break
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await engine.creations() == []
            assert (await engine.catalog.snapshot("web", "s1")).current

    play(story())


def test_an_engine_that_is_closed_while_it_works(site: Site) -> None:
    """The run is left open, whatever it was at."""

    async def story() -> None:
        async with site.engine() as engine:
            await slow_domain(engine, site)
            task = asyncio.ensure_future(slowly(engine))
            await copying(engine, lambda run: None)
        with pytest.raises(Interrupted) as caught:
            await task
        async with site.engine() as engine:
            await assert_left_open(engine, caught.value.deletion.id)

    play(story())
