"""examples/sync_use.py: the engine from plain code, and from threads."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import sync_use
from backfold import Deletion, Engine, JournalError, Refused, StateEvent
from embedding.site import Site
from examples.conftest import names, prepared


def test_one_order(site: Site) -> None:
    prepared(site, lambda engine: site.add(engine, "web", "s1"))

    done = sync_use.once(str(site.journal), "web", "s1")

    assert (done.snapshot, done.state) == ("s1", "completed")


def test_several_orders(site: Site) -> None:
    prepared(site, lambda engine: site.add(engine, "web", "s1", "s2"))

    assert sync_use.several(str(site.journal), "web") == ["s1", "s2"]
    assert prepared(site, lambda engine: names(engine, "web")) == []


def test_threads_share_an_engine(site: Site) -> None:
    """Two threads delete at once; errors come to the one that asked."""
    with sync_use.SyncEngine(site.engine) as backfold:
        backfold.call(lambda engine: site.add(engine, "a", "s1"))
        backfold.call(lambda engine: site.add(engine, "b", "s1"))

        def delete(name: str) -> Deletion:
            return backfold.call(lambda engine: engine.delete(name, "s1"))

        with ThreadPoolExecutor() as pool:
            done = list(pool.map(delete, ("a", "b")))
        with pytest.raises(Refused, match="no snapshot 'nope'"):
            backfold.call(lambda engine: engine.delete("a", "nope"))

    assert [(d.domain, d.state) for d in done] == [
        ("a", "completed"),
        ("b", "completed"),
    ]
    assert "backfold" not in [thread.name for thread in threading.enumerate()]


def test_an_engine_that_cannot_be_opened(tmp_path: Path) -> None:
    """The error is raised where the engine was wanted, and no thread is left."""
    (tmp_path / "journal").write_bytes(b"no folder")

    with pytest.raises(JournalError):
        with sync_use.SyncEngine(lambda: Engine(tmp_path / "journal" / "journal.db")):
            pytest.fail("it was opened")

    assert "backfold" not in [thread.name for thread in threading.enumerate()]


def test_ctrl_c_leaves_the_run_open(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """In the main thread, which waits; closing waits until it is safe."""
    main = threading.main_thread().ident
    assert main is not None

    async def interrupted(engine: Engine) -> None:
        run = asyncio.ensure_future(engine.delete("web", "s1"))
        async for event in engine.events():
            if isinstance(event, StateEvent) and event.state == "prepare":
                signal.pthread_kill(main, signal.SIGINT)
                break
        await run

    with sync_use.SyncEngine(site.engine) as backfold:
        backfold.call(lambda engine: site.add(engine, "web", "s1"))
        with pytest.raises(KeyboardInterrupt):
            backfold.call(interrupted)

    opened = prepared(site, lambda engine: engine.deletions(only_open=True))
    assert [each.snapshot for each in opened] == ["s1"]
    gc.collect()  # asyncio complains then of errors that nobody looked at.
    assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []
