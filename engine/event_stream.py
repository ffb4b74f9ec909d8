"""Events for whoever wants to iterate over them: as many consumers as you like.

A consumer that is slow costs a run nothing and memory only up to a limit. Progress of
a disk that waits to be consumed is replaced by newer progress of that disk; nothing
else is left out. A consumer that is too far behind even so is told (`EventsLost`).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from types import TracebackType
from typing import Final, Self
from weakref import WeakSet

from ..journal.errors import EventsLost
from .events import Event, ProgressEvent

#: How many events wait for one consumer at the most. A run tells 20 or so, besides
#: its progress.
CAPACITY: Final = 10_000


class EventStream:
    """The events of an engine's runs from now on, in order: an async iterator.

    It begins when it is made, and ends when the engine is closed. Leaving its
    ``async with`` block, or forgetting it, unsubscribes it. For one consumer on the
    engine's event loop; each consumer asks for its own.
    """

    def __init__(self, capacity: int) -> None:
        """``capacity`` is how many events may wait. Use `Engine.events`."""
        self._capacity = capacity
        self._waiting: OrderedDict[Hashable, Event] = OrderedDict()
        self._more = asyncio.Event()
        self._count = 0
        self._is_lost = self._is_closed = False

    def __aiter__(self) -> Self:
        """The stream itself."""
        return self

    async def __anext__(self) -> Event:
        """The next event, when there is one.

        Raises `EventsLost` after the last event before the loss, once; the stream has
        ended then.
        """
        while not self._waiting:
            if self._is_lost:
                self._is_lost = False
                raise EventsLost(
                    f"More than {self._capacity} events waited for this consumer.",
                    remedy="Ask `Engine.deletions` for how things stand, and for a new"
                    " stream; consume it faster.",
                )
            if self._is_closed:
                raise StopAsyncIteration
            self._more.clear()
            await self._more.wait()
        return self._waiting.popitem(last=False)[1]

    async def __aenter__(self) -> Self:
        """The stream itself."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Unsubscribe."""
        await self.aclose()

    async def aclose(self) -> None:
        """Unsubscribe; what waits is dropped."""
        self._waiting.clear()
        self._is_lost = False
        self._end()

    def _put(self, event: Event) -> None:
        """Append an event, for the consumer to take when it likes."""
        if self._is_closed:
            return
        key: Hashable = self._count
        if isinstance(event, ProgressEvent):
            key = (event.run, event.disk)
            # The newer one goes to the end: it must not overtake a state.
            self._waiting.pop(key, None)
        self._count += 1
        if len(self._waiting) >= self._capacity:
            self._is_lost = True
            self._end()
            return
        self._waiting[key] = event
        self._more.set()

    def _end(self) -> None:
        """Nothing more will come; what waits can still be consumed."""
        self._is_closed = True
        self._more.set()


class Broadcast:
    """Tells every consumer of one opened engine what its runs tell."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        """Nobody listens yet; ``capacity`` events may wait for each who will."""
        self._capacity = capacity
        self._streams: WeakSet[EventStream] = WeakSet()

    def subscribe(self) -> EventStream:
        """A stream of everything from now on."""
        stream = EventStream(self._capacity)
        self._streams.add(stream)
        return stream

    @property
    def listeners(self) -> int:
        """How many streams are told of what happens."""
        return sum(not stream._is_closed for stream in self._streams)

    def tell(self, event: Event) -> None:
        """Hand an event to every stream; never waits."""
        for stream in tuple(self._streams):
            stream._put(event)

    def close(self) -> None:
        """End every stream."""
        for stream in tuple(self._streams):
            stream._end()
