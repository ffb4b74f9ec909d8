"""What a state may touch: the ports, the run as the journal has it, and effects.

A state is an async function from a `Context` to a `Move`. It looks at the world
first and acts on what it finds, so that recovery is running it again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import FlushFailed, MonitorBusy
from ..journal.model import FoldPlan, Image, Plan
from ..journal.runs import Author, DeletionRow, RunKey
from .identities import identify_again
from .options import Options
from .owner import Owner
from .ports import (
    Clock,
    Definitions,
    Guard,
    HelperRecord,
    Hypervisor,
    Images,
    Job,
    LiveChain,
    Planner,
    Session,
)

T = TypeVar("T")
Unit = Callable[[Database], None]

#: How long a QEMU that has died may take to let go of its images, in seconds.
SETTLING: Final = 10.0
#: How long a monitor may be somebody else's before the run is left open, seconds.
MONITOR_PATIENCE: Final = 30.0


class Replan(Exception):
    """The world changed under us: plan again from what is there."""


class Abandon(Exception):
    """The run is to be given up and undone; only before the decision."""

    def __init__(self, because: str, failed: str | None = None) -> None:
        """``failed`` is the disk whose job failed, if it was one."""
        super().__init__(because)
        self.failed = failed


class LeaveOpen(Exception):
    """The caller wants to go; the run stays open where it is safe."""


class Stuck(Exception):
    """The run cannot go on now and is left open; ``remedy`` says what helps."""

    def __init__(self, what: str, data: str, remedy: str) -> None:
        """Three sentences, as every error has them."""
        super().__init__(what)
        self.what = what
        self.data = data
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Move:
    """How a state ends: the edge to fire, and what is written with it."""

    trigger: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    unit: Unit | None = None


class Position(Enum):
    """Where a disk stands in the graph of a living QEMU."""

    ON_TOP = "on top"
    SWITCHED = "switched"
    ELSEWHERE = "elsewhere"


class Effects(Protocol):
    """The one place where effects happen: the runner."""

    async def perform(
        self,
        step: str,
        work: Callable[[], Awaitable[T]],
        *,
        intent: Mapping[str, Any] | None = None,
        announcing: Unit | None = None,
        noting: Callable[[T], Unit | None] | None = None,
        told: Callable[[T], Mapping[str, Any]] | None = None,
    ) -> T:
        """Announce a step, do it, note it. See `engine.runner`."""

    def progress(self, fold: FoldPlan, job: Job) -> None:
        """Tell the caller how far a fold is."""

    async def alarm(self, what: str) -> None:
        """Record something unexpected, and go on."""


@dataclass
class Context:
    """One run of a deletion, in one engine."""

    key: RunKey
    row: DeletionRow
    options: Options
    monitor: str | None
    hypervisor: Hypervisor
    images: Images
    clock: Clock
    definitions: Definitions
    planner: Planner
    guard: Guard
    owner: Owner
    effects: Effects
    read: Callable[[Callable[[Database], Any]], Awaitable[Any]]
    who: str
    interrupted: Callable[[], bool]
    deadline: float | None = None
    session: Session | None = None
    #: When the guest was stopped by this engine (monotonic seconds).
    held_since: float | None = None
    #: When the guest of the present hold was let go on (monotonic seconds).
    let_go_at: float | None = None
    #: Jobs that this engine asked to complete; None when an earlier one may have.
    asked: set[str] | None = None
    #: Whether this engine stopped the guest; None when an earlier one may have.
    stopped: bool | None = None
    #: Disks that have voted in the present hold.
    voted: frozenset[str] = frozenset()
    #: Disks whose jobs somebody else completed; see `states.by_hand`.
    by_hand: frozenset[str] = frozenset()
    back_offs: int = 0
    #: What the job of each disk has copied until it converged; see `told.Copying`.
    copied: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    #: A plan that is about to be stored; the guards of its edge look at it.
    new_plan: Plan | None = None

    @property
    def id(self) -> str:
        """The run's id."""
        return self.key.id

    @property
    def plan(self) -> Plan:
        """The plan; there is one in every state after `prepare`."""
        if self.new_plan is not None:
            return self.new_plan
        if self.row.plan is None:
            raise RuntimeError(
                f"the deletion {self.id} has no plan in {self.row.state}"
            )
        return self.row.plan

    @property
    def is_beside(self) -> bool:
        """Whether the images are none of the domain's QEMU, which may run on."""
        plan = self.new_plan or self.row.plan
        return plan is not None and plan.place == "helper" and plan.power != "off"

    @property
    def author(self) -> Author:
        """Who writes rows, now."""
        return Author(self.who, self.clock.now())

    def fold_state(self, target: str) -> str:
        """The journal's state of one fold."""
        return next(fold.state for fold in self.row.folds if fold.target == target)

    def fence(self, image: Image) -> str:
        """The name that an image gets when it is superseded."""
        return self.images.fence_name(image.path, self.id)

    async def refresh(self) -> None:
        """Read the run again, after rows of it were written."""
        row: DeletionRow = await self.read(lambda db: runs.deletion(db, self.id))
        if row.plan is not None:
            plan = identify_again(row.plan, self.images, self.id, self.clock.boot_id())
            row = replace(row, plan=plan)
        self.row = row
        self.new_plan = None

    async def checkpoint(self) -> None:
        """Stop here if somebody wants it; never called during a hold.

        Raises `LeaveOpen` when the caller goes, and before the decision `Abandon`
        when a cancel was asked for or the time is up.
        """
        if self.interrupted():
            raise LeaveOpen
        await self.refresh()
        if self.row.state == "pivot" or self.by_hand:
            return  # There is only forward.
        if self.row.cancel_requested:
            raise Abandon("a cancel was asked for")
        if self.deadline is not None and self.clock.monotonic() > self.deadline:
            raise Abandon(f"the time-out of {self.options.timeout} s was reached")

    async def connect(self) -> Session | None:
        """The living QEMU that has the images: the domain's, or our helper.

        None when there is neither. A monitor that somebody else has is asked again
        for `MONITOR_PATIENCE` seconds; after that the run is left open.
        """
        if self.session is not None:
            return self.session
        if self.monitor is not None and not self.is_beside:
            self.session = await self._attach(self.monitor)
        if self.session is None and (record := self.helper_record()) is not None:
            self.session = await self.hypervisor.attach_helper(record)
        return self.session

    async def require_session(self) -> Session:
        """As `connect`. Raises `Replan` when QEMU is gone."""
        session = await self.connect()
        if session is None:
            raise Replan("QEMU is gone")
        return session

    async def disconnect(self) -> None:
        """Leave the monitor to others; the next `connect` looks anew."""
        session, self.session = self.session, None
        if session is not None:
            await session.close()

    def helper_record(self) -> HelperRecord | None:
        """The helper that the journal knows, if its start was noted."""
        helper = self.row.helper
        if helper is None or helper.get("pid") is None:
            return None
        return HelperRecord(**helper)

    async def chains(self, session: Session) -> tuple[LiveChain, ...]:
        """The graph, with fenced images found under their new names."""
        return await session.chains(self.aliases())

    async def sync(self, paths: Sequence[str]) -> None:
        """Make durable what anybody wrote into these files.

        Raises `FlushFailed`.
        """
        await self.refuse_failed_flushes(paths)
        await self.images.sync(paths)

    async def refuse_failed_flushes(self, paths: Sequence[str]) -> None:
        """Raise `FlushFailed` for a file that could not be flushed in this boot.

        The kernel has forgotten what it could not write, so that an fsync that
        succeeds now would prove nothing.
        """
        boot = self.clock.boot_id()
        failed = await self.read(lambda db: runs.failed_flushes(db, boot))
        for path in paths:
            if path in failed:
                raise FlushFailed(path, f"this has failed already, at {failed[path]}")

    def aliases(self) -> dict[str, str]:
        """Old names of images that are, or were, fenced, to their present ones."""
        fences = {
            image.path: self.fence(image)
            for fold in self.plan.folds
            for image in fold.superseded
        }
        return {**fences, **{fence: path for path, fence in fences.items()}}

    async def _attach(self, monitor: str) -> Session | None:
        began = self.clock.monotonic()
        while True:
            try:
                return await self.hypervisor.attach(monitor)
            except MonitorBusy as error:
                if self.clock.monotonic() - began > MONITOR_PATIENCE:
                    raise Stuck(
                        f"The monitor {monitor} is in use by somebody else.",
                        "The run stands where it stood; the guest is not touched.",
                        "Close the other connection, then run recover.",
                    ) from error
            await self.clock.sleep(0.5)


def locate(
    chains: tuple[LiveChain, ...], fold: FoldPlan
) -> tuple[LiveChain | None, Position]:
    """The device that a fold belongs to, and where its disk stands.

    Compared by device and inode, below filters: names prove nothing.
    """
    layers = [image.file for image in fold.layers]
    kept_top = fold.top if fold.is_stream else None
    over = kept_top or fold.above
    after = [] if fold.linked_to is None else [fold.linked_to.file]
    for chain in chains:
        at = 0
        if over is not None:
            depth = chain.index(over.file)
            if depth is None:
                continue
            at = depth + 1
        files = [image.file for image in chain.images]
        start = at - 1 if kept_top else at
        if files[start : start + len(layers)] == layers:
            return chain, Position.ON_TOP
        if files[at : at + 1] == after:
            return chain, Position.SWITCHED
    return None, Position.ELSEWHERE
