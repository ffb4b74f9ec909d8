"""How long a guest may go on to stand, whoever ends its hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest

from backfold.states.tell_owner import FLOOR, call_hook

NOW = 100.0
HOLD = {"stops_guest": True, "boot_id": "this", "since": NOW - 0.3}


def patience(hold: Mapping[str, Any], held_since: float | None) -> float:
    """How long a hook is waited for in a hold, with a downtime of half a second."""
    waited: list[float] = []

    async def begin(call: object, seconds: float) -> dict[str, Any]:
        waited.append(seconds)
        return {}

    async def perform(step: str, work: Any, **_: object) -> None:
        await work()

    owner = SimpleNamespace(is_there=True, switch=lambda changes: None, begin=begin)
    fold = SimpleNamespace(
        target="vda", base=SimpleNamespace(path="/base", format="raw")
    )
    ctx = SimpleNamespace(
        plan=SimpleNamespace(folds=(fold,), switches=lambda fold: True),
        owner=owner,
        clock=SimpleNamespace(monotonic=lambda: NOW, boot_id=lambda: "this"),
        held_since=held_since,
        row=SimpleNamespace(hold=hold),
        options=SimpleNamespace(max_downtime_ms=500),
        effects=SimpleNamespace(perform=perform),
    )
    session = SimpleNamespace(is_helper=False)
    asyncio.run(call_hook(cast(Any, ctx), cast(Any, session), (), ()))
    return waited[0]


@pytest.mark.parametrize(
    ("hold", "held_since", "seconds"),
    [
        (HOLD, NOW - 0.1, 0.4),
        (HOLD, None, 0.2),
        ({**HOLD, "since": NOW - 3600}, None, FLOOR),
        ({**HOLD, "boot_id": "another", "since": NOW + 3600}, None, 0.5),
        ({**HOLD, "stops_guest": False}, None, 0.5),
    ],
    ids=["ours", "taken over", "of an hour ago", "of another boot", "paused before"],
)
def test_a_hook_is_waited_for_within_one_downtime(
    hold: Mapping[str, Any], held_since: float | None, seconds: float
) -> None:
    """An engine that takes over counts what the guest has stood already."""
    assert patience(hold, held_since) == pytest.approx(seconds)
