"""`as_json`: results, events and errors as the shipped schemas describe them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest

from backfold import (
    AlarmEvent,
    Deletion,
    DowntimeEvent,
    Reason,
    Refused,
    RolledBack,
    as_json,
)
from cli.schemas import validate
from embedding.site import Site
from real.scene import play

AT = "2026-01-01T00:00:00+00:00"
RUN = "0123456789ab"


def checked(schema: str, **found: Any) -> None:
    """Through JSON and back, and as the schema says."""
    validate(schema, json.loads(json.dumps({"schema": 1, **found})))


def test_everything_that_a_run_gives(tmp_path: Path) -> None:
    """Events of three machines, their results, and what the catalog has."""
    site = Site(tmp_path)

    async def story() -> None:
        async with site.engine() as engine:
            stream = engine.events()
            await site.add(engine, "web", "s1", "s2")
            deletion = await engine.delete("web", "s1")
            reversion = await engine.revert("web", "s2")
            domain = await engine.catalog.domain("web")
            snapshot = await engine.catalog.snapshot("web", "s2")
        told = [as_json(event) async for event in stream]
        for event in told:
            checked("event", **event)
        assert {event["event"] for event in told} == {"state", "progress"}
        assert told[0]["creation"] and told[-1]["reversion"] == reversion.id
        result: dict[str, Any] = {"event": "result", "reasons": [], "error": None}
        checked("event", **as_json(deletion), **result)
        assert as_json(deletion)["deletion"] == deletion.id
        checked("reversion", **as_json(reversion))
        assert as_json(domain)["disks"] == [
            {"target": "vda", "source": domain.disks[0].source, "format": "qcow2"}
        ]
        assert as_json(snapshot)["name"] == "s2"

    play(story())


@pytest.mark.parametrize(
    "event",
    [
        DowntimeEvent(RUN, "web", "s1", 12.5, AT),
        AlarmEvent(RUN, "web", "s1", "smoke", AT),
    ],
)
def test_rare_events(event: DowntimeEvent | AlarmEvent) -> None:
    checked("event", **as_json(event))


def test_errors() -> None:
    """A refusal has its reasons; a roll back knows its run."""
    reason = Reason("no_space", "It is full.", "Make room.", "vda")
    refused = Refused([reason])
    run = Deletion(RUN, "web", "s1", "rolled_back", "why", (), None, AT, AT)
    failed = RolledBack(run, "It failed.", data="Nothing is lost.", remedy="")

    for error in (refused, failed):
        checked("error", error=as_json(error))
    assert as_json(refused)["reasons"] == [as_json(reason)]
    assert (as_json(failed)["code"], as_json(failed)["remedy"]) == ("rolled_back", None)
    assert (failed.exit_status, failed.deletion.id) == (5, RUN)


def test_anything_else_has_no_form() -> None:
    with pytest.raises(TypeError, match="'web' has no JSON form"):
        as_json(cast(Any, "web"))
