"""How a run deals with the owner of a definition: once, again, and not for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from backfold.engine.clock import SystemClock
from backfold.journal.errors import CommandFailed, WorldError
from backfold.journal.model import Disk, Domain
from backfold.journal.runs import RunKey
from backfold.states import owner as owners
from backfold.states.context import LeaveOpen
from backfold.states.owner import ATTEMPTS, Owner, OwnerFailed, ask, tell
from backfold.states.ports import HookCall

TOP, BASE = Disk("vda", "/a.s1", "qcow2"), Disk("vda", "/a", "raw")
OTHER = Disk("vdb", "/b", "qcow2")


class Port:
    """An owner that does what a test says, one after the other."""

    def __init__(self, *answers: Exception | str | asyncio.Event) -> None:
        self.answers = list(answers)
        self.calls: list[HookCall] = []
        self.ended = 0
        self.is_program = False

    def obstacle(self, hook: str) -> str | None:
        return None

    async def end_former(self, run: str) -> None:
        raise AssertionError("no engine has died")

    async def call(self, call: HookCall) -> str:
        self.calls.append(call)
        answer = self.answers.pop(0) if self.answers else "done"
        try:
            if isinstance(answer, asyncio.Event):
                await answer.wait()
                return "at last"
        finally:
            self.ended += 1
        if isinstance(answer, BaseException):
            raise answer
        return str(answer)


class Rows:
    """What is announced, noted and told."""

    def __init__(self) -> None:
        self.found: list[tuple[str, Any]] = []

    async def perform(
        self,
        step: str,
        work: Callable[[], Awaitable[Any]],
        *,
        intent: Mapping[str, Any] | None = None,
        told: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> Any:
        self.found.append((step, intent))
        result = await work()
        self.found.append((step, None if told is None else told(result)))
        return result

    async def alarm(self, what: str) -> None:
        self.found.append(("alarm", what))


class Hurry(SystemClock):
    """Nobody waits."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


def owner_of(port: Port, hook: str | None = "/h", asked: Any = ()) -> Owner:
    """The owner of a domain with two disks; ``asked`` are rows of `ask_owner`."""
    domain = Domain("web", None, (TOP, OTHER), hook)

    class Reads:
        """A journal of two questions: the domain, and what was asked."""

        number = 0

        async def __call__(self, question: Any) -> Any:
            self.number += 1
            return made.domain if self.number % 2 else asked

    key = RunKey("deletion", "0123456789ab", 1)
    made = Owner(port, key, domain, Reads(), Hurry(), Rows())
    return made


def rows(owner: Owner) -> list[tuple[str, Any]]:
    assert isinstance(owner.effects, Rows)
    return owner.effects.found


def test_it_is_asked_about_images_that_it_is_not_to_write_yet() -> None:
    port = Port()
    owner = owner_of(port)
    asyncio.run(ask(owner, {"vda": BASE}))
    asyncio.run(ask(owner, {"vda": BASE}))

    [call] = port.calls
    assert (call.call, call.disks, call.planned) == (
        "prepare",
        (TOP, OTHER),
        (BASE, OTHER),
    )
    (step, intent), (_, noted) = rows(owner)
    assert step == "ask_owner"
    assert intent == {
        "hook": "/h",
        "call": "prepare",
        "disks": {"vda": "/a", "vdb": "/b"},
    }
    assert noted["status"] == 0 and noted["said"] == "done" and noted["ms"] >= 0


def test_it_is_told_again_until_it_succeeds() -> None:
    no = CommandFailed("no room")
    port = Port(no, no, "written")
    owner = owner_of(port)
    asyncio.run(tell(owner, {"vda": BASE}))

    assert [call.disks for call in port.calls] == [(BASE, OTHER)] * 3
    assert [row[0] for row in rows(owner)] == [
        "tell_owner",
        "alarm",
        "alarm",
        "tell_owner",
    ]
    asyncio.run(tell(owner, {"vda": BASE}))
    assert len(port.calls) == 3


@pytest.mark.parametrize(
    "error",
    [CommandFailed("no"), ValueError("no"), asyncio.CancelledError("no")],
    ids=lambda error: type(error).__name__,
)
def test_it_fails_in_the_end(error: Any) -> None:
    """Whatever it raised."""
    port = Port(*[error] * 9)
    with pytest.raises(OwnerFailed):
        asyncio.run(tell(owner_of(port), {"vda": BASE}))

    assert len(port.calls) == ATTEMPTS


def test_another_hook_is_told_the_same_again() -> None:
    port = Port()
    owner = owner_of(port)
    asyncio.run(tell(owner, {"vda": BASE}))
    owner.domain = replace(owner.domain, hook="/mended")
    asyncio.run(tell(owner, {"vda": BASE}))
    owner.domain = replace(owner.domain, hook=None)
    asyncio.run(tell(owner, {"vda": TOP}))

    assert [call.hook for call in port.calls] == ["/h", "/mended"]


def test_what_was_begun_in_a_hold_is_the_first_attempt() -> None:
    async def story() -> None:
        free = asyncio.Event()
        port = Port(free)
        owner = owner_of(port)
        facts = await owner.begin(owner.switch({"vda": BASE}), 0.01)
        assert facts == {"status": None} and owner.has_begun
        assert rows(owner) == []
        asyncio.get_running_loop().call_later(0.02, free.set)
        await tell(owner, {"vda": BASE})
        assert len(port.calls) == 1
        assert rows(owner)[-1][1]["said"] == "at last"

    asyncio.run(story())


def test_what_has_succeeded_in_a_hold_is_not_told_again() -> None:
    async def story() -> None:
        port = Port(CommandFailed("no"), "written")
        owner = owner_of(port)
        failed = await owner.begin(owner.switch({"vda": TOP}), 1)
        assert failed == {"status": None, "said": "no"}
        done = await owner.begin(owner.switch({"vda": BASE}), 1)
        assert (done["status"], done["said"]) == (0, "written")
        await tell(owner, {"vda": BASE})
        assert len(port.calls) == 2 and rows(owner) == []

    asyncio.run(story())


def test_other_images_end_a_call_that_goes_on() -> None:
    """It would write what is not true any more."""

    async def story() -> None:
        port = Port(asyncio.Event())
        owner = owner_of(port)
        await owner.begin(owner.switch({"vda": BASE}), 0.01)
        await owner.begin(owner.switch({"vda": TOP}), 1)
        assert port.ended == 2

    asyncio.run(story())


def test_whoever_wants_to_leave_need_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """And leaves no call behind."""
    monkeypatch.setattr(owners, "_LOOK", 0.01)

    async def leave() -> None:
        raise LeaveOpen

    async def story() -> None:
        port = Port(asyncio.Event(), asyncio.Event())
        owner = owner_of(port)
        owner.checkpoint = leave
        with pytest.raises(LeaveOpen):
            await tell(owner, {"vda": BASE})
        assert port.ended == 1 and not owner.has_begun
        await owner.begin(owner.switch({"vda": BASE}), 0.01)
        with pytest.raises(LeaveOpen):
            await tell(owner, {"vda": BASE})
        await owner.close()
        assert port.ended == 2

    asyncio.run(story())


def test_a_domain_without_a_hook_is_nobodys() -> None:
    port = Port()
    owner = owner_of(port, None)
    asyncio.run(ask(owner, {"vda": BASE}))
    asyncio.run(tell(owner, {"vda": BASE}))
    assert asyncio.run(owner.begin(owner.switch({}), 1)) == {}

    assert port.calls == [] and rows(owner) == []


def test_what_a_program_was_asked_is_left_to_it() -> None:
    """Unless somebody records a hook that takes its place."""

    class Asked:
        detail: Mapping[str, Any] = {"hook": None}

    port = Port()
    owner = owner_of(port, None, [Asked()])
    with pytest.raises(OwnerFailed, match="not that program") as caught:
        asyncio.run(tell(owner, {"vda": BASE}))
    assert isinstance(caught.value, WorldError) and "PATH" in caught.value.remedy
    owner.domain = replace(owner.domain, hook="/h")
    asyncio.run(tell(owner, {"vda": BASE}))

    assert [call.hook for call in port.calls] == ["/h"]
