"""The owner of a domain's definition: asked before a run, told of every switch.

A definition that lives elsewhere (a script, a unit, a template) names images. It is
told the whole state each time, so that a call may be repeated and a former one needs
no undoing. No failure of it makes a second truth: it is told only what is true
already, and while it does not know, the name that it has leads nowhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeVar

from sqlite_utils import Database

from ..journal import catalog, runs
from ..journal.errors import CommandFailed, JournalError, WorldError
from ..journal.model import Disk, Domain
from ..journal.runs import RunKey
from .ports import Clock, DefinitionHook, HookCall

T = TypeVar("T")
Disks = tuple[Disk, ...]
#: What a run changes: the new images, by target.
Changes = Mapping[str, Disk]

#: How often an owner is called before that counts as failed.
ATTEMPTS: Final = 4
#: No further attempt begins after so many seconds.
PATIENCE: Final = 60.0
_PAUSE: Final = 0.25
#: How often it is looked whether the caller wants to leave, in seconds.
_LOOK: Final = 0.5


def mend_hook(domain: str) -> str:
    """What to do about a hook that fails, for an operator."""
    return (
        "Mend the hook; or let go of it (`backfold domain hook"
        f" {domain} --remove`) and write the definition by what `backfold domain args"
        f" {domain}` prints."
    )


class OwnerFailed(CommandFailed):
    """The owner could not be told, however often it was called."""

    @property
    def because(self) -> str:
        """What happened, as a part of a sentence."""
        return self.what.removesuffix(".")


class Effects(Protocol):
    """The one place where effects happen: the runner."""

    async def perform(
        self,
        step: str,
        work: Callable[[], Awaitable[T]],
        *,
        intent: Mapping[str, Any] | None = None,
        told: Callable[[T], Mapping[str, Any]] | None = None,
    ) -> T:
        """Announce a step, do it, note it."""

    async def alarm(self, what: str) -> None:
        """Record something unexpected, and go on."""


def _result(task: asyncio.Task[str]) -> str:
    """What an owner said; one that cancels itself has failed."""
    if task.cancelled():
        raise CommandFailed("The call of the definition's owner was cancelled.")
    return task.result()


async def _go_on() -> None:
    """Nobody wants to leave."""


@dataclass
class Owner:
    """The owner as one run of one engine deals with it.

    ``domain`` is as it was read last: in a hold the journal is not asked.
    ``is_elsewhere``: an engine before this one asked a program that this one is not.
    """

    port: DefinitionHook
    key: RunKey
    domain: Domain
    read: Callable[[Callable[[Database], Any]], Awaitable[Any]]
    clock: Clock
    effects: Effects
    #: Raises what it likes when the caller wants to leave; never called in a hold.
    checkpoint: Callable[[], Awaitable[None]] = _go_on
    is_elsewhere: bool = False
    #: What it has been asked and told by this engine.
    asked: HookCall | None = None
    told: HookCall | None = None
    #: A call that was begun in a hold: what is told, since when, and its end.
    _begun: tuple[HookCall, float, asyncio.Task[str]] | None = field(
        default=None, repr=False
    )

    @property
    def is_there(self) -> bool:
        """Whether somebody is to be told."""
        return self._can_be_called or self.is_elsewhere

    @property
    def _can_be_called(self) -> bool:
        return self.port.is_program or self.domain.hook is not None

    @property
    def name(self) -> str:
        """Who it is, for people."""
        if self.port.is_program or self.domain.hook is None:
            return f"the program that owns the definition of {self.domain.name}"
        return f"the hook {self.domain.hook}"

    async def refresh(self) -> None:
        """Read the domain and its hook again: somebody may have changed them."""
        name = self.domain.name
        self.domain = await self.read(lambda db: catalog.domain(db, name))
        asked = await self.read(lambda db: runs.announced(db, self.key.id, "ask_owner"))
        self.is_elsewhere = bool(asked) and asked[-1].detail["hook"] is None

    def switch(self, changes: Changes) -> HookCall:
        """The call that tells the images of all disks, with these changes."""
        return self._call("switch", self.state(changes))

    def intent(self, call: HookCall) -> dict[str, Any]:
        """What a row says of a call before it is made."""
        disks = call.planned or call.disks
        return {
            "hook": call.hook,
            "call": call.call,
            "disks": {disk.target: disk.source for disk in disks},
        }

    async def begin(self, call: HookCall, seconds: float) -> dict[str, Any]:
        """Call it while a guest stands, and wait for so long at most.

        Returns what to note of it. What has not succeeded may go on, and `tell` awaits
        its end. Writes no row, and reads none.
        """
        if not self._can_be_called:
            return {}
        if self._begun is not None and self._begun[0] != call:
            await self._end_begun()
        _, began, task = self._begin(call)
        await asyncio.wait({task}, timeout=seconds)
        if not task.done():
            return {"status": None}
        try:
            said = _result(task)
        except WorldError as error:
            return {"status": None, "said": error.what}
        self._begun, self.told = None, call
        return self._noted(began, said)

    @property
    def has_begun(self) -> bool:
        """Whether a call was begun in a hold, and has not succeeded in it."""
        return self._begun is not None

    async def settle(self) -> None:
        """Wait for the end of a call that was begun, whatever comes of it."""
        begun, self._begun = self._begun, None
        if begun is not None:
            await asyncio.wait({begun[2]})
            with suppress(WorldError):
                _result(begun[2])

    async def close(self) -> None:
        """This engine leaves the run: no call of it goes on, nor of one that died.

        A run that was taken over may end without a call, which would have ended what
        was left of former ones; a late write of such a one would come after the calls
        of runs to come. Called while nobody else can begin one.
        """
        await self._end_begun()
        if self.key.generation > 1:
            try:
                await self.port.end_former(self.key.id)
            except WorldError as error:
                with suppress(JournalError):
                    await self.effects.alarm(error.what)

    async def _end_begun(self) -> None:
        begun, self._begun = self._begun, None
        if begun is not None:
            begun[2].cancel()
            with suppress(asyncio.CancelledError, WorldError):
                await begun[2]

    def state(self, changes: Changes) -> Disks:
        """The images of all disks, with these changes."""
        return tuple(changes.get(disk.target, disk) for disk in self.domain.disks)

    def prepare(self, changes: Changes) -> HookCall:
        """The call that asks whether these images could be written."""
        return self._call("prepare", self.domain.disks, self.state(changes))

    def _call(self, call: str, disks: Disks, planned: Disks = ()) -> HookCall:
        return HookCall(
            call=call,
            run=self.key.id,
            machine=self.key.machine,
            domain=self.domain.name,
            disks=disks,
            planned=planned,
            hook=None if self.port.is_program else self.domain.hook,
            again=self.key.generation > 1,
        )

    def _noted(self, began: float, said: str) -> dict[str, Any]:
        passed = (self.clock.monotonic() - began) * 1000
        return {"status": 0, "ms": round(passed, 1), "said": said}

    def refuse_elsewhere(self) -> None:
        """Raise `OwnerFailed` when only another program than this can be told."""
        if not self._can_be_called:
            raise OwnerFailed(
                f"The definition of {self.domain.name} belongs to a program that uses"
                " Backfold as a library, and this is not that program.",
                remedy="Let that program recover the run, or record a hook that takes"
                f" its place (`backfold domain hook {self.domain.name} PATH`).",
            )

    async def until_done(self, call: HookCall) -> dict[str, Any]:
        """Call, and call again with growing pauses; what is to be noted at the end.

        Raises `OwnerFailed`.
        """
        first = self.clock.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            try:
                began, said = await self._once(call)
                return self._noted(began, said)
            except WorldError as error:
                await self.effects.alarm(error.what)
                late = self.clock.monotonic() - first > PATIENCE
                if late or attempt == ATTEMPTS:
                    raise OwnerFailed(error.what, remedy=error.remedy) from error
            await self.checkpoint()
            await self.clock.sleep(_PAUSE * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    async def _once(self, call: HookCall) -> tuple[float, str]:
        """One attempt; the call that was begun in a hold is the first one.

        It is ended when the caller wants to leave meanwhile.
        """
        if self._begun is not None and self._begun[0] != call:
            await self.settle()
        _, began, task = self._begin(call)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK)
                if not task.done():
                    await self.checkpoint()
        except BaseException:
            await self._end_begun()
            raise
        self._begun = None
        return began, _result(task)

    def _begin(self, call: HookCall) -> tuple[HookCall, float, asyncio.Task[str]]:
        """The call that goes on already, or a new one."""
        if self._begun is None:
            task = asyncio.ensure_future(self._called(call))
            self._begun = (call, self.clock.monotonic(), task)
        return self._begun

    async def _called(self, call: HookCall) -> str:
        try:
            return await self.port.call(call)
        except WorldError:
            raise
        except Exception as error:
            raise CommandFailed(f"{self.name} failed: {error!r}") from error


async def ask(owner: Owner, changes: Changes) -> None:
    """Ask whether these images could be written. Raises `OwnerFailed`.

    Nothing is announced when nobody is to be asked, or was asked the same already.
    """
    await owner.refresh()
    call = owner.prepare(changes)
    if not owner.is_there or call == owner.asked:
        return
    owner.refuse_elsewhere()
    await owner.effects.perform(
        "ask_owner",
        lambda: owner.until_done(call),
        intent=owner.intent(call),
        told=lambda noted: noted,
    )
    owner.asked = call


async def tell(owner: Owner, changes: Changes) -> None:
    """Tell the images of all disks, until that has succeeded once.

    What was begun in a hold leaves nobody waiting who wants to leave. Raises
    `OwnerFailed`.
    """
    if owner.has_begun:
        await owner.checkpoint()
    await owner.refresh()
    call = owner.switch(changes)
    if not owner.is_there or call == owner.told:
        return
    owner.refuse_elsewhere()
    await owner.effects.perform(
        "tell_owner",
        lambda: owner.until_done(call),
        intent=owner.intent(call),
        told=lambda noted: noted,
    )
    owner.told = call
