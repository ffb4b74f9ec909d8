"""The life of one engine: every moment in which something may happen to it."""

from __future__ import annotations

from typing import Protocol


class Killed(BaseException):
    """SIGKILL: nothing of this engine runs on. No `except Exception` may see it."""


class Endless(BaseException):
    """An engine that goes round and round, in a world where time flies."""


class Director(Protocol):
    """Decides at each moment what happens."""

    def reached(self, life: Life, place: str) -> None:
        """Go on, change the world, or end a life.

        Raises an error that the engine is to see, as a disconnected monitor.
        """


class Life:
    """One engine, or one guard. After its end every port refuses to do anything.

    ``commit_fault`` is what the journal does at the next COMMIT: ``lost`` reports an
    error and keeps nothing, ``durable`` reports an error and keeps everything.
    """

    def __init__(self, director: Director) -> None:
        """Alive."""
        self.director = director
        self.is_over = False
        self.commit_fault: str | None = None

    def check(self) -> None:
        """Raises `Killed` when this engine is dead."""
        if self.is_over:
            raise Killed

    def at(self, place: str) -> None:
        """A moment has come. Raises `Killed`, or what the director makes of it."""
        self.check()
        self.director.reached(self, place)
        self.check()

    def end(self) -> None:
        """Kill it."""
        self.is_over = True


class Quiet:
    """A director that lets everything go on."""

    def reached(self, life: Life, place: str) -> None:
        """Nothing happens."""
