"""`Engine.events`: who hears what, and what a slow consumer costs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from backfold import (
    AlarmEvent,
    Event,
    EventsLost,
    Interrupted,
    ProgressEvent,
    StateEvent,
    UsageError,
)
from backfold.engine.event_stream import Broadcast
from embedding.site import Site
from real.scene import play

RUN, AT = "0123456789ab", "2026-01-01T00:00:00+00:00"
DELETED = ["validate", "prepare", "update_metadata", "completed"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def all_of(stream: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in stream]


def states(events: Iterable[Event], run: str | None = None) -> list[str]:
    """The states that were told, of one run if it is given."""
    return [
        event.state
        for event in events
        if isinstance(event, StateEvent) and run in (None, event.run)
    ]


# Runs of a real engine


def test_every_consumer_hears_every_run(site: Site) -> None:
    """Whatever is run, and whether or not somebody listens by `on_event`, too."""

    async def story() -> None:
        heard: list[Event] = []
        async with site.engine() as engine:
            first, second = engine.events(), engine.events()
            await site.add(engine, "a", "s1")
            await site.add(engine, "b", "s1")
            late = engine.events()
            a, b = await asyncio.gather(
                engine.delete("a", "s1", metadata_only=True, on_event=heard.append),
                engine.delete("b", "s1", metadata_only=True),
            )
            await engine.create_snapshot("a", "s2")
            await engine.revert("a", "s2")
        events = await all_of(first)

        assert events == await all_of(second)
        assert states(events, a.id) == states(events, b.id) == DELETED
        assert [e for e in events if e.run == a.id] == heard
        machines = [e.machine for e in events if isinstance(e, StateEvent)]
        assert list(dict.fromkeys(machines)) == ["creation", "deletion", "reversion"]
        assert states(events)[:4] == [
            "planned",
            "overlays_made",
            "switched",
            "recorded",
        ]
        assert states(events)[-4:] == [
            "planned",
            "overlays_made",
            "recorded",
            "reverted",
        ]
        at_late = events.index(next(e for e in events if e.run in (a.id, b.id)))
        assert await all_of(late) == events[at_late:]

    play(story())


def test_events_say_whose_they_are_and_when(site: Site) -> None:
    """Each state names the one before; the first one of a run has none."""

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            stream = engine.events()
            done = await engine.delete("web", "s1")
        events = await all_of(stream)
        told = [event for event in events if isinstance(event, StateEvent)]
        moved = [event for event in events if isinstance(event, ProgressEvent)]

        assert {(e.run, e.domain, e.snapshot) for e in events} == {
            (done.id, "web", "s1")
        }
        assert [event.source for event in told] == [None, *states(events)[:-1]]
        assert [event.at for event in events] == sorted(event.at for event in events)
        assert done.finished is not None
        assert done.started <= events[0].at
        assert {event.disk for event in moved} == {"vda"}

    play(story())


def test_a_run_that_is_recovered_is_heard(site: Site) -> None:
    """By the engine that recovers it, from the state that it was left in."""

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            task = asyncio.create_task(engine.delete("web", "s1"))
            async for event in engine.events():
                if isinstance(event, StateEvent) and event.state == "start_paused":
                    task.cancel()
                    break
            with pytest.raises(Interrupted):
                await task
        async with site.engine() as engine:
            stream = engine.events()
            (done,) = await engine.recover()
            assert not isinstance(done, Exception)
        heard = [event for event in await all_of(stream) if event.run == done.id]
        first = next(event for event in heard if isinstance(event, StateEvent))

        assert first.source is not None
        assert states(heard)[-1] == done.state == "completed"

    play(story())


def test_an_engine_that_is_not_open_has_no_events(site: Site) -> None:
    with pytest.raises(UsageError, match="not open"):
        site.engine().events()


def test_a_consumer_that_never_consumes_slows_nobody(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends as ever; the consumer is told that it has lost something."""
    monkeypatch.setattr(Broadcast.__init__, "__defaults__", (3,))

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            stream = engine.events()
            done = await engine.delete("web", "s1", metadata_only=True)
            assert done.state == "completed"
            with pytest.raises(EventsLost, match="More than 3 events"):
                await all_of(stream)
            assert [event async for event in stream] == []

    play(story())


# The stream alone


def state(name: str) -> StateEvent:
    return StateEvent(RUN, "web", "s1", name, {}, at=AT)


def progress(done: int, disk: str = "vda") -> ProgressEvent:
    return ProgressEvent(RUN, disk, done, 100, "web", "s1", AT)


def test_progress_that_nobody_took_yet_is_replaced() -> None:
    """By the newest of that disk, which never overtakes a state."""

    async def story() -> None:
        broadcast = Broadcast()
        stream = broadcast.subscribe()
        for event in (
            state("commit_per_disk"),
            progress(1),
            progress(5, "vdb"),
            progress(2),
            state("vote"),
            progress(100),
            state("pivot"),
        ):
            broadcast.tell(event)
        broadcast.close()

        assert await all_of(stream) == [
            state("commit_per_disk"),
            progress(5, "vdb"),
            state("vote"),
            progress(100),
            state("pivot"),
        ]

    play(story())


def test_a_copy_of_any_length_takes_the_room_of_one_event() -> None:
    async def story() -> None:
        broadcast = Broadcast(capacity=2)
        stream = broadcast.subscribe()
        for done in range(1000):
            broadcast.tell(progress(done))
        broadcast.tell(state("vote"))
        broadcast.close()

        assert await all_of(stream) == [progress(999), state("vote")]

    play(story())


def test_what_came_before_a_loss_has_no_gap() -> None:
    """Then the loss is told once, and the stream is at its end."""

    async def story() -> None:
        broadcast = Broadcast(capacity=2)
        stream = broadcast.subscribe()
        for name in ("validate", "prepare", "vote", "pivot"):
            broadcast.tell(state(name))

        assert await anext(stream) == state("validate")
        broadcast.tell(state("completed"))
        assert await anext(stream) == state("prepare")
        with pytest.raises(EventsLost) as caught:
            await anext(stream)
        assert caught.value.code == "events_lost"
        assert await all_of(stream) == []

    play(story())


def test_a_consumer_waits_for_what_comes() -> None:
    """And one that is cancelled meanwhile misses nothing if it goes on."""

    async def story() -> None:
        broadcast = Broadcast()
        stream = broadcast.subscribe()
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        again = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        assert not again.done()
        alarm = AlarmEvent(RUN, "web", "s1", "smoke", AT)
        broadcast.tell(alarm)
        assert await again == alarm
        rest = asyncio.ensure_future(all_of(stream))
        await asyncio.sleep(0)
        broadcast.close()
        assert await rest == []

    play(story())


def test_who_breaks_out_is_told_nothing_more() -> None:
    """Whether the loop is left, the block is left, or the stream is forgotten."""

    async def story() -> None:
        broadcast = Broadcast()
        asyncio.get_running_loop().call_soon(broadcast.tell, state("vote"))
        async for event in broadcast.subscribe():
            assert event == state("vote")
            break
        gc.collect()
        assert broadcast.listeners == 0

        async with broadcast.subscribe() as stream:
            broadcast.tell(state("vote"))
            broadcast.tell(state("pivot"))
            assert await anext(stream) == state("vote")
            assert broadcast.listeners == 1
        broadcast.tell(state("pivot"))
        assert broadcast.listeners == 0
        assert await all_of(stream) == []

    play(story())
