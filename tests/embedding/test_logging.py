"""What a host program finds in its log, and that it alone decides about it."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from backfold import Engine
from backfold.engine.log_events import log_events
from embedding.site import Site
from real.scene import play

RUNS = ("deletion", "creation", "reversion")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def everything(engine: Engine, site: Site) -> dict[str, str]:
    """One run of each machine; their ids by machine."""
    ids: dict[str, str] = {}
    await site.add(engine, "web", "s1")
    deletion = await engine.delete("web", "s1", strategy="commit")
    await engine.create_snapshot("web", "s2")
    reversion = await engine.revert("web", "s2")
    ids.update(deletion=deletion.id, reversion=reversion.id)
    return ids


def test_every_event_of_a_run_is_listed_and_bound(site: Site) -> None:
    """To its run, domain and snapshot; to the disk if it is one disk's."""
    listed = {event.name: event for event in log_events()}

    async def story() -> None:
        async with site.engine() as engine:
            with capture_logs() as logs:
                ids = await everything(engine, site)

        heard = [entry["event"] for entry in logs]
        assert {"deletion.validate", "deletion.completed"} <= set(heard)
        assert {"creation.planned", "reversion.reverted"} <= set(heard)
        for entry in logs:
            event = listed[entry.pop("event")]
            machine, *_, last = event.name.split(".")
            assert entry.pop("log_level") == event.level
            if machine in ids:
                assert entry.pop(machine) == ids[machine]
            else:
                assert len(entry.pop(machine)) == 12
            assert entry.pop("domain") == "web"
            assert entry.pop("snapshot") in ("s1", "s2")
            if last in ("start_job", "set_aside", "unlink") and machine == "deletion":
                assert entry.pop("disk") == "vda"
            assert set(entry) - {"disk"} == set(event.fields), event

    play(story())


def test_a_host_with_structlog_binds_and_renders_as_it_likes(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its context is in the engine's lines, and nothing of the engine's in it."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            with structlog.contextvars.bound_contextvars(request="r1"):
                await engine.delete("web", "s1", metadata_only=True)
                assert structlog.contextvars.get_contextvars() == {"request": "r1"}
        assert structlog.contextvars.get_contextvars() == {}

    play(story())
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    of_deletion = [line for line in lines if "deletion" in line]

    assert {line.get("request") for line in of_deletion} == {"r1"}
    assert of_deletion[-1]["event"] == "deletion.completed"
    assert {line.get("request") for line in lines if "creation" in line} == {None}


def test_a_host_without_structlog_finds_the_fields_in_its_records(
    site: Site, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """As attributes and in the message; nothing is printed past its handlers."""
    caplog.set_level(logging.INFO, "backfold")

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            await engine.delete("web", "s1", metadata_only=True)

    play(story())
    records: list[Any] = [r for r in caplog.records if r.name == "backfold"]
    last = records[-1]

    assert not structlog.is_configured()
    assert {record.levelname for record in records} == {"INFO"}
    assert (last.event, last.domain) == ("deletion.completed", "web")
    assert last.getMessage() == (
        f"deletion.completed deletion={last.deletion!r} domain='web' snapshot='s1'"
        " source='update_metadata'"
    )
    assert capsys.readouterr() == ("", "")


def test_concurrent_runs_do_not_mix(site: Site) -> None:
    """Each line is bound to the run that it is of."""

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "a", "s1")
            await site.add(engine, "b", "s1")
            with capture_logs() as logs:
                done = await asyncio.gather(
                    *(engine.delete(name, "s1", metadata_only=True) for name in "ab")
                )
        bound = {(entry["deletion"], entry["domain"]) for entry in logs}
        assert bound == {(deletion.id, deletion.domain) for deletion in done}

    play(story())


def test_a_log_that_fails_breaks_no_run(site: Site) -> None:
    """The disks matter more than what is written about them."""

    def broken(*_: object) -> Any:
        raise OSError("the log's disk is full")

    structlog.configure(processors=[broken])

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            done = await engine.delete("web", "s1", metadata_only=True)
        assert done.state == "completed"

    play(story())
