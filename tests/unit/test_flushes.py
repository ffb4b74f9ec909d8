"""A flush that failed is never asked again, not even when its caller has gone."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from backfold.engine import files
from backfold.engine.images import QemuImages
from backfold.journal.errors import CommandFailed, FlushFailed


class Storage:
    """Instead of `files.sync`: waits until it may end, then fails if it is broken."""

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.broken = False
        self.asked = 0

    def sync(self, path: str) -> None:
        self.asked += 1
        assert self.may_end.wait(30)
        if self.broken:
            raise FlushFailed(path, "Input/output error")


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Storage:
    made = Storage()
    monkeypatch.setattr(files, "sync", made.sync)
    return made


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "image").touch()
    return str(tmp_path / "image")


async def given_up(images: QemuImages, path: str) -> None:
    """As a hold does that must not wait any longer."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await images.sync([path])


def test_failure_after_the_caller_has_gone(storage: Storage, path: str) -> None:
    async def story() -> None:
        images = QemuImages()
        await given_up(images, path)
        next_one = asyncio.create_task(images.sync([path]))
        await asyncio.sleep(0.05)
        storage.broken = True
        storage.may_end.set()
        with pytest.raises(FlushFailed, match="Input/output error"):
            await next_one
        storage.broken = False
        with pytest.raises(FlushFailed):
            await images.sync([path])
        assert storage.asked == 1

    asyncio.run(story())


def test_success_after_the_caller_has_gone(storage: Storage, path: str) -> None:
    """What was written since is flushed too: it is asked once more."""

    async def story() -> None:
        images = QemuImages()
        await given_up(images, path)
        storage.may_end.set()
        await images.sync([path, path])
        assert storage.asked == 2

    asyncio.run(story())


def test_missing_file_is_not_flushed(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="missing"):
        asyncio.run(QemuImages().sync([str(tmp_path / "none")]))
