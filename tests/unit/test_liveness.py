"""Whether somebody is at work on a run: read from the kernel, with nothing locked."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from backfold.engine.liveness import Work, held_locks, work_on
from backfold.journal.locks import Locks
from backfold.journal.model import FileId
from backfold.journal.standing import OpenRun

RUN = "0123456789ab"
HERE = f"me@{socket.gethostname()}:1"


def open_run(*paths: Path, who: str = HERE) -> OpenRun:
    images = tuple(map(str, paths))
    return OpenRun(RUN, "web", "s1", "deletion", "vote", 0.0, 7, who, 0.0, images)


def identity(path: Path) -> FileId:
    found = os.stat(path)
    return FileId(found.st_dev, found.st_ino)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    image = tmp_path / "vda.qcow2"
    image.touch()
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def test_whoever_works_on_a_run_has_its_images_locked(
    image: Path, folder: Path
) -> None:
    missing = image.with_name("vdb.qcow2")
    run = open_run(missing, image)
    with Locks(folder) as locks:
        locks.acquire([identity(image)])
        assert work_on(run, held_locks(), folder) is Work.GOING_ON

    assert work_on(run, held_locks(), folder) is Work.INTERRUPTED


def test_an_image_that_is_fenced_is_found_by_its_fence(
    image: Path, folder: Path
) -> None:
    run = open_run(image)
    with Locks(folder) as locks:
        locks.acquire([identity(image)])
        image.rename(f"{image}.backfold-{RUN}")
        assert work_on(run, held_locks(), folder) is Work.GOING_ON


def test_a_lock_of_another_image_is_not_one_of_ours(image: Path, folder: Path) -> None:
    other = image.with_name("other.qcow2")
    other.touch()
    with Locks(folder) as locks:
        locks.acquire([identity(other)])
        assert work_on(open_run(image), held_locks(), folder) is Work.INTERRUPTED


def test_looking_keeps_nobody_out(image: Path, folder: Path) -> None:
    """Not for an instant: there is no lock file after it, either."""
    assert work_on(open_run(image), held_locks(), folder) is Work.INTERRUPTED
    assert not folder.exists()


def test_what_another_host_does_is_not_known(image: Path, folder: Path) -> None:
    elsewhere = open_run(image, who="root@elsewhere.example:4711")
    with Locks(folder) as locks:
        locks.acquire([identity(image)])
        assert work_on(elsewhere, held_locks(), folder) is Work.ELSEWHERE


def test_without_the_list_of_locks_nothing_is_known(image: Path, folder: Path) -> None:
    assert work_on(open_run(image), None, folder) is Work.ELSEWHERE


def test_the_list_of_locks_may_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden(path: Path) -> str:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "read_text", hidden)

    assert held_locks() is None
