"""A definition that lives elsewhere names the truth at every moment, or nothing.

Its owner boots from what it wrote last whenever the domain is off, whatever has failed
or was killed; the invariants read it back in every state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backfold.states import ballot, pivot, take_snapshot, vote
from backfold.states.switched_disks import switched_disks
from simulator.explorer import Explorer
from simulator.quiet import silence

KILLS = {
    "deletion": ("running-owned-2", ["kill-both-boot", "owner"]),
    "off": ("off-owned-2", ["kill-start", "owner"]),
    "creation": ("running-owned-create-2", ["kill-both-boot", "owner", "timeout"]),
    "creation-off": ("off-owned-create-2", ["kill-start", "timeout"]),
    "reversion": ("off-owned-revert-2", ["kill-start", "owner"]),
}


@pytest.fixture
def explorer(tmp_path: Path) -> Iterator[Explorer]:
    silence()
    made = Explorer(tmp_path)
    yield made
    made.close()


def found(explorer: Explorer, scene: str, only: list[str]) -> list[str]:
    """What is wrong when one of these happens at each moment."""
    explorer.every(explorer.start(scene), 1, only)
    return [what for _, what in explorer.tally.failures]


@pytest.mark.parametrize("kind", KILLS)
def test_no_moment_has_two_truths(explorer: Explorer, kind: str) -> None:
    assert found(explorer, *KILLS[kind]) == []
    assert explorer.tally.schedules > 20


def test_an_owner_that_is_told_too_early(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal fails, nothing is decided, and the guest goes on in the overlay."""
    take_votes = ballot.take_votes

    async def hasty(ctx: Any, session: Any, folds: Any) -> Any:
        stamps = await take_votes(ctx, session, folds)
        await ctx.owner.begin(ctx.owner.switch(switched_disks(ctx.plan)), 1)
        return stamps

    monkeypatch.setattr(vote, "take_votes", hasty)

    start = explorer.start("running-owned-2")
    places = explorer.play(start.schedule).places
    moment = places.index("vote.decide.announced") + 1
    failed = replace(start, schedule=start.schedule.then(moment, "commit.lost"))
    explorer.every(failed, 1, ["kill-both-boot"])

    wrong = [what for _, what in explorer.tally.failures]
    assert any("writes are not in" in what for what in wrong), wrong


def test_an_owner_that_is_not_told(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine does not start any more."""

    async def nothing(*_: Any) -> None:
        """What is left of a safeguard."""

    monkeypatch.setattr(pivot, "call_hook", nothing)
    monkeypatch.setattr(pivot, "tell_owner", nothing)

    assert any(
        "does not start" in what
        for what in found(explorer, "running-owned-2", ["kill-both"])
    )


def test_an_owner_that_is_not_told_to_go_back(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An overlay is removed that its definition names."""
    monkeypatch.setattr(take_snapshot, "_go_back", take_snapshot._undo)

    assert any(
        "does not start" in what
        for what in found(explorer, "running-owned-create-2", ["kill-both"])
    )
