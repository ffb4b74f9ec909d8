"""Runs that have their plan from the beginning: creations and reversions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from ..journal.errors import CommandFailed, MonitorBusy, OutcomeUnknown
from ..states.context import Move, Stuck
from .runner import Runner

#: How often in a row a failed call is met before the run is left open.
FAILURE_LIMIT: Final = 5


class PlannedRow(Protocol):
    """What the journal has of any such run."""

    @property
    def domain(self) -> str:
        """The domain."""

    @property
    def snapshot(self) -> str:
        """The snapshot."""

    @property
    def state(self) -> str:
        """The state."""


class PlannedContext(Protocol):
    """What the states of any such run may touch; ``resumed`` after an error."""

    resumed: bool

    @property
    def row(self) -> PlannedRow:
        """The run as the journal has it."""


C = TypeVar("C", bound=PlannedContext)


@dataclass
class PlannedModel:
    """These machines have no guards: there is nothing to look at."""

    state: str = ""


class PlannedRun(Runner, Generic[C]):
    """Drives a run from the state that it is in to its end."""

    handlers: ClassVar[Mapping[str, Callable[[Any], Awaitable[Move]]]]
    #: What a run that is left open means for the data.
    safe: ClassVar[str]
    ctx: C

    @property
    def state(self) -> str:
        """The state that the journal has."""
        return self.ctx.row.state

    @property
    def subject(self) -> tuple[str, str]:
        """Domain and snapshot of the run."""
        return self.ctx.row.domain, self.ctx.row.snapshot

    def model(self) -> PlannedModel:
        """Nothing to look at."""
        return PlannedModel()

    async def disconnect(self) -> None:
        """Leave the monitor to others; the next state looks anew."""
        return

    async def run(self) -> str:
        """Go on until a final state. Raises `Stuck` when the run stays open."""
        errors = 0
        while self.state not in self.declaration.final:
            try:
                move = await self.handlers[self.state](self.ctx)
            except (OutcomeUnknown, CommandFailed, MonitorBusy) as error:
                errors += 1
                await self.alarm(f"{self.state}: {error.what}")
                await self.disconnect()
                if errors >= FAILURE_LIMIT:
                    raise Stuck(
                        error.what, self.safe, f"Run `backfold recover {self.key.id}`."
                    ) from error
                self.ctx.resumed = True
                await self.clock.sleep(0.1 * 2**errors)
                continue
            await self.fire(move)
        return self.state
