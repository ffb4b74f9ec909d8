"""examples/cron.py: what is old goes, what is not stays, and the mail says so."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

import pytest

import cron
from backfold import Deletion, Engine, Interrupted, StateEvent
from backfold.journal.locks import Locks
from embedding.site import Site
from examples.conftest import names, prepared


def test_old_snapshots_are_deleted(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the program; the newer ones stay."""

    async def make(engine: Engine) -> None:
        await site.add(engine, "db", "s1")
        await site.add(engine, "web", "s1")

    prepared(site, make)
    arguments = ["--journal", str(site.journal), "--days"]
    assert cron.main([*arguments, "1"]) == 0
    assert re.fullmatch(r"Snapshots on .*: 0 done, 0 failed\n", capsys.readouterr().out)

    assert cron.main([*arguments, "0"]) == 0

    title, *lines = capsys.readouterr().out.splitlines()
    assert title.endswith(": 2 done, 0 failed")
    assert [line.partition(":")[0] for line in lines] == ["db/s1", "web/s1"]
    assert "deleted in" in lines[0]
    assert prepared(site, lambda engine: names(engine, "web")) == []


def test_what_was_interrupted_is_finished_first(site: Site) -> None:
    async def interrupt(engine: Engine) -> None:
        await site.add(engine, "web", "s1")
        task = asyncio.ensure_future(engine.delete("web", "s1"))
        async for event in engine.events():
            if isinstance(event, StateEvent) and event.state == "prepare":
                task.cancel()
                break
        with pytest.raises(Interrupted):
            await task

    prepared(site, interrupt)
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    summary = prepared(site, lambda engine: cron.clean(engine, long_ago))

    assert summary.status == 0
    assert summary.text().splitlines()[1].startswith("recovered web/s1: deleted in")


def test_a_domain_that_somebody_has_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And reported when it does not help, first of all."""
    slept: list[float] = []
    wait = asyncio.sleep

    async def story(engine: Engine) -> tuple[cron.Summary, cron.Summary]:
        await site.add(engine, "web", "s1")
        await site.add(engine, "zoo", "s1")
        with Locks(site.locks) as locks:
            file = engine._world.images.identify(str(site.folder / "web.s1"))
            assert file is not None
            locks.acquire({file})

            async def sleep(seconds: float, result: None = None) -> None:
                if seconds < 1:
                    await wait(seconds)
                else:
                    slept.append(seconds)

            with monkeypatch.context() as patched:
                patched.setattr(asyncio, "sleep", sleep)
                first = await cron.clean(engine, datetime.now(UTC), tries=3, pause=60)
        return first, await cron.clean(engine, datetime.now(UTC))

    first, second = prepared(site, story)

    assert slept == [60, 60]
    assert first.status == 4
    title, failed, done = first.text().splitlines()
    assert title.endswith("1 done, 1 failed")
    assert failed.startswith("web/s1: ") and done.startswith("zoo/s1: deleted")
    assert (second.status, len(second.done)) == (0, 1)


def test_a_journal_that_cannot_be_used(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.journal.parent.mkdir()
    site.journal.write_bytes(b"no journal" * 1000)

    assert cron.main(["--journal", str(site.journal)]) == 1
    assert "not a database" in capsys.readouterr().out


def test_a_result_that_is_no_deletion_is_told() -> None:
    """`recover` finishes creations and reverts, too."""
    summary = cron.Summary()
    other: Any = object()
    summary.add("recovered web/s1", other)

    assert summary.done == ["recovered web/s1: finished"]
    assert not isinstance(other, Deletion)
