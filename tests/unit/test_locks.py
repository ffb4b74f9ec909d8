"""Locks: one engine per image on this host, whatever journal it uses."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfold.journal.errors import Busy, UsageError
from backfold.journal.locks import Locks
from backfold.journal.model import FileId

A, B, C = FileId(1, 10), FileId(1, 20), FileId(2, 5)

HOLDER = """
import sys
from pathlib import Path
from backfold.journal.locks import Locks
from backfold.journal.errors import Busy
from backfold.journal.model import FileId

images = [FileId(*map(int, name.split("-"))) for name in sys.argv[2:]]
try:
    locks = Locks(Path(sys.argv[1]))
    locks.acquire(images)
except Busy:
    print("busy", flush=True)
else:
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The host-wide directory, not made yet."""
    return tmp_path / "run" / "backfold"


def other_process(directory: Path, *images: FileId) -> subprocess.Popen[str]:
    """Another engine that locks images and keeps them until its input ends."""
    names = [f"{image.device}-{image.inode}" for image in images]
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.fixture
def holder(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds B."""
    process = other_process(directory, B)
    assert said(process) == "locked"
    yield process
    process.kill()
    process.communicate()


def is_free(directory: Path, image: FileId) -> bool:
    try:
        with Locks(directory) as locks:
            locks.acquire([image])
    except Busy:
        return False
    return True


def test_two_processes_exclude_each_other(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    """By image alone: which journal they use does not matter."""
    with pytest.raises(Busy) as caught:
        Locks(directory).acquire([B])

    assert caught.value.exit_status == 4
    assert is_free(directory, A)


def test_a_process_is_kept_out_as_it_keeps_others_out(directory: Path) -> None:
    """The same rule seen from the other side, and within one process."""
    with Locks(directory) as locks:
        locks.acquire([A, B])
        process = other_process(directory, B)
        assert said(process) == "busy"
        process.communicate()
        assert not is_free(directory, B)

    assert is_free(directory, B)


def test_locks_die_with_their_process(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    """After SIGKILL nobody has to clean up: `recover` can start at once."""
    holder.kill()
    holder.wait()

    assert is_free(directory, B)


def test_a_program_that_we_start_does_not_inherit_locks(directory: Path) -> None:
    """A helper QEMU outlives the engine, and must not keep its locks."""
    locks = Locks(directory)
    locks.acquire([A])
    process = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        locks.release()
        assert is_free(directory, A)
    finally:
        process.kill()
        process.wait()


def test_either_all_locks_are_taken_or_no_new_one(
    directory: Path, holder: subprocess.Popen[str]
) -> None:
    """A run that is refused leaves nothing locked but what it had before."""
    descriptors = len(os.listdir("/proc/self/fd"))
    with Locks(directory) as locks:
        locks.acquire([C])
        with pytest.raises(Busy):
            locks.acquire([C, B, A])

        assert is_free(directory, A)
        assert not is_free(directory, C)
        assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    assert is_free(directory, C)
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_more_locks_can_be_taken_and_the_same_ones_again(directory: Path) -> None:
    """Found again under the lock: an image that is held already is no obstacle."""
    with Locks(directory) as locks:
        locks.acquire([A])
        locks.acquire([A, B, B])
        assert not is_free(directory, A)
        assert not is_free(directory, B)


def test_locks_are_taken_in_one_order(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two engines that want the same images meet at the first one."""
    taken: list[FileId] = []
    lock = Locks._lock

    def noted(self: Locks, image: FileId) -> int:
        taken.append(image)
        return lock(self, image)

    monkeypatch.setattr(Locks, "_lock", noted)
    for images in ([A, B, C], [C, B, A], [B, C, A]):
        with Locks(directory) as locks:
            locks.acquire(iter(images))

    assert taken == [A, B, C] * 3


@pytest.mark.parametrize("exists", [True, False])
def test_a_symlink_in_place_of_a_lock_file_is_refused(
    directory: Path, tmp_path: Path, exists: bool
) -> None:
    """Everybody may write there: a planted link must not make us open its target."""
    directory.mkdir(parents=True)
    target = tmp_path / "target"
    if exists:
        target.write_bytes(b"")
    (directory / "1-10").symlink_to(target)

    with pytest.raises(UsageError):
        Locks(directory).acquire([A])

    assert target.exists() is exists


def test_a_fifo_in_place_of_a_lock_file_is_refused(directory: Path) -> None:
    """Everybody may write there: a planted FIFO must not hang the engine."""
    directory.mkdir(parents=True)
    os.mkfifo(directory / "1-10")

    process = other_process(directory, A)
    try:
        process.communicate(timeout=10)
        assert process.returncode != 0
    finally:
        process.kill()
        process.communicate()


def test_the_directory_must_be_one(directory: Path, tmp_path: Path) -> None:
    """Neither a file nor a link to a directory that somebody else controls."""
    directory.parent.mkdir()
    directory.write_bytes(b"")
    with pytest.raises(UsageError):
        Locks(directory).acquire([A])

    directory.unlink()
    directory.symlink_to(tmp_path)
    with pytest.raises(UsageError):
        Locks(directory).acquire([A])


def test_every_user_can_lock(directory: Path) -> None:
    """World-writable and sticky, whatever the umask; lock files can be read by all."""
    old = os.umask(0o022)
    try:
        with Locks(directory) as locks:
            locks.acquire([A])
            (file,) = directory.iterdir()
            assert stat.S_IMODE(directory.stat().st_mode) == 0o1777
            assert stat.S_IMODE(file.stat().st_mode) == 0o644
            assert file.read_bytes() == b""
    finally:
        os.umask(old)


def test_locks_are_released_when_the_run_fails(directory: Path) -> None:
    """The context manager gives them back whatever happens in it."""
    with pytest.raises(ZeroDivisionError), Locks(directory) as locks:
        locks.acquire([A])
        raise ZeroDivisionError

    assert is_free(directory, A)
