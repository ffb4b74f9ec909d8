"""The simulator finds the loss when a safeguard is taken out of the engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backfold.states import ballot, hold, pivot, update_metadata, vote
from backfold.states.context import Move
from simulator.explorer import Explorer
from simulator.quiet import silence


@pytest.fixture
def explorer(tmp_path: Path) -> Iterator[Explorer]:
    silence()
    made = Explorer(tmp_path)
    yield made
    made.close()


async def _nothing(*_: Any) -> dict[str, Any]:
    """What is left of a safeguard; it has nothing to tell."""
    return {}


def _found(explorer: Explorer, scene: str, *only: str) -> list[str]:
    explorer.every(explorer.start(scene), 1, only)
    return [what for _, what in explorer.tally.failures]


@pytest.mark.parametrize(
    ("scene", "lost"),
    [("running-middle", "s2 of vda is not in"), ("paused-stream", "writes are not")],
)
def test_no_flush_in_pending(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, scene: str, lost: str
) -> None:
    """QEMU changes the link before it has written what it copied."""
    monkeypatch.setattr(vote, "flush_copied", _nothing)

    found = _found(explorer, scene, "kill-both")

    assert any(lost in what for what in found), found


def test_no_fence(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever boots by the old definition boots a superseded overlay."""

    def stamps(ctx: Any, fold: Any) -> Any:
        return ctx.images.stamp(fold.top.path), ctx.images.stamp(fold.base.path)

    monkeypatch.setattr(ballot, "_fence", _nothing)
    monkeypatch.setattr(ballot, "_stamps", stamps)

    found = _found(explorer, "running-newest", "kill-both")

    assert any("by hand" in what for what in found), found


def test_acting_before_the_decision_is_durable(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest goes on on the base while the journal still names the overlay."""
    take_votes = ballot.take_votes

    async def hasty(ctx: Any, session: Any, folds: Any) -> Any:
        stamps = await take_votes(ctx, session, folds)
        for fold in folds:
            await session.finalize(fold.job)
        await session.cont()
        return stamps

    monkeypatch.setattr(vote, "take_votes", hasty)

    found = _found(explorer, "running-newest", "kill-both")

    assert any("writes are not in" in what for what in found), found


def test_no_reading_back_of_the_graph(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancelled job ends too, with the guest on its overlay."""

    async def trusting(*_: Any) -> Any:
        return (), []

    monkeypatch.setattr(pivot, "_positions", trusting)

    assert _found(explorer, "running-newest", "cancel")


def test_no_round_trip_after_the_fence(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU was killed and started again from the overlay, before the fence."""
    monkeypatch.setattr(ballot, "_look_again", _nothing)

    start = explorer.start("running-newest")
    places = explorer.play(start.schedule).places
    first = places.index("vote.complete_jobs.noted") + 1
    last = places.index("vote.fence.announced") + 1
    for moment in range(first, last + 1):
        restarted = replace(start, schedule=start.schedule.then(moment, "qemu-boot"))
        explorer.every(restarted, 1, ("kill-both",))

    assert any("writes are not in" in what for _, what in explorer.tally.failures)


def test_no_later_pass(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared image stays although only one image needs it now."""
    monkeypatch.setattr(update_metadata, "onward", lambda ctx: Move("proceed"))

    found = _found(explorer, "running-again")

    assert found == ["/images/vda.s1 could be folded"]


def test_no_release(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest stands still for ever."""
    for module in (hold, pivot):
        monkeypatch.setattr(module, "let_guest_go", _nothing)

    found = _found(explorer, "running-newest")

    assert any("paused, not running" in what for what in found)
