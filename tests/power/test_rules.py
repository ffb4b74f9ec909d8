"""What a power cut may leave: the rules of the model, and reading a trace."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from power import strace
from power.cuts import DROPPED, KEPT, Content, Cut, State, state
from power.disk import PAGE, Disk, Inode, NameChange
from power.qcow2 import Unreadable, open_image
from power.replay import BEGIN, END, Replay, differences

FOLDER = "/images"
RANDOM = Cut("pages", "random", "random")


def some_file(disk: Disk, name: str = "a") -> Inode:
    """A durable file of two pages, written and named long ago."""
    inode = Inode(7)
    inode.write(0, 1, 100, 0, b"o" * 2 * PAGE)
    disk.change(NameChange(0, 1, FOLDER, None, f"{FOLDER}/{name}", inode))
    disk.settle(10)
    return inode


def left(disk: Disk, cut: Cut, seed: int = 0) -> State:
    return state(disk, cut, random.Random(seed))


def bytes_of(disk: Disk, cut: Cut, name: str = "a", seed: int = 0) -> bytes:
    return left(disk, cut, seed).files[f"{FOLDER}/{name}"].bytes()


@pytest.fixture
def disk() -> Disk:
    return Disk([FOLDER])


def test_a_write_is_durable_after_a_flush_that_began_later(disk: Disk) -> None:
    inode = some_file(disk)
    inode.write(20, 21, 200, 0, b"n" * PAGE)
    assert bytes_of(disk, DROPPED)[:1] == b"o"
    assert bytes_of(disk, KEPT)[:1] == b"n"

    inode.flush(before=22, data_only=True)

    assert bytes_of(disk, DROPPED)[:1] == b"n"


@pytest.mark.parametrize("exit", [25, None])
def test_a_write_under_way_when_the_flush_began_is_not(
    disk: Disk, exit: int | None
) -> None:
    inode = some_file(disk)
    inode.write(20, exit, 200, 0, b"n" * PAGE)

    inode.flush(before=22, data_only=True)

    assert bytes_of(disk, DROPPED)[:1] == b"o"
    assert bytes_of(disk, KEPT)[:1] == b"n"


def test_each_page_is_as_at_some_moment_since_the_flush(disk: Disk) -> None:
    inode = some_file(disk)
    for number, letter in enumerate(b"xyz"):
        inode.write(20 + 2 * number, 21 + 2 * number, 200, 0, bytes([letter]) * PAGE)
    inode.write(40, 41, 200, PAGE, b"n" * PAGE)

    found = {bytes_of(disk, RANDOM, seed=seed) for seed in range(60)}

    assert {f[:PAGE] for f in found} == {bytes([c]) * PAGE for c in b"oxyz"}
    assert {f[PAGE:] for f in found} == {b"o" * PAGE, b"n" * PAGE}
    assert len(found) == 8


def test_a_torn_page_has_whole_sectors_of_several_moments(disk: Disk) -> None:
    inode = some_file(disk)
    inode.write(20, 21, 200, 100, b"n" * 1000)
    torn = bytes_of(disk, Cut("sectors", "kept", "kept"))[:PAGE]
    new = bytes_of(disk, KEPT)[:PAGE]

    assert torn not in (b"o" * PAGE, new)
    for at in range(0, PAGE, 512):
        assert torn[at : at + 512] in (b"o" * 512, new[at : at + 512])


def test_the_size_goes_its_own_way(disk: Disk) -> None:
    inode = some_file(disk)
    inode.write(20, 21, 200, 2 * PAGE, b"n" * PAGE)

    sizes = {len(bytes_of(disk, RANDOM, seed=seed)) for seed in range(20)}
    assert sizes == {2 * PAGE, 3 * PAGE}
    assert len(bytes_of(disk, DROPPED)) == 2 * PAGE
    inode.flush(30, data_only=True)
    assert len(bytes_of(disk, DROPPED)) == 3 * PAGE


def test_a_file_that_was_cut_off_may_come_back(disk: Disk) -> None:
    inode = some_file(disk)
    inode.resize(20, 21, 200, 10)

    assert bytes_of(disk, KEPT) == b"o" * 10
    assert bytes_of(disk, DROPPED) == b"o" * 2 * PAGE


def test_fdatasync_leaves_the_time_behind_and_fsync_does_not(disk: Disk) -> None:
    inode = some_file(disk)
    inode.write(20, 21, 200, 0, b"n")
    inode.flush(30, data_only=True)
    path = f"{FOLDER}/a"

    assert left(disk, DROPPED).files[path].mtime == 100
    assert left(disk, KEPT).files[path].mtime == 200
    inode.flush(32, data_only=False)
    assert left(disk, DROPPED).files[path].mtime == 200


def test_a_stat_tells_the_real_time_of_the_newest_version(disk: Disk) -> None:
    inode = some_file(disk)
    inode.write(20, 21, 200, 0, b"n")
    inode.observed(22, 12345)

    assert left(disk, KEPT).files[f"{FOLDER}/a"].mtime == 12345


def test_a_name_is_durable_only_after_its_directory(disk: Disk) -> None:
    inode = some_file(disk)
    old, new = f"{FOLDER}/a", f"{FOLDER}/b"
    disk.change(NameChange(20, 21, FOLDER, old, new, inode))
    inode.flush(22, data_only=False)

    assert set(left(disk, DROPPED).files) == {old}
    assert set(left(disk, KEPT).files) == {new}
    disk.flush_folder(FOLDER, before=24)
    assert set(left(disk, DROPPED).files) == {new}


def test_names_of_a_directory_change_in_their_order(disk: Disk) -> None:
    inode = some_file(disk)
    a, b, c = (f"{FOLDER}/{name}" for name in "abc")
    disk.change(NameChange(20, 21, FOLDER, a, b, inode))
    disk.change(NameChange(22, 23, FOLDER, None, c, Inode(8)))
    disk.change(NameChange(24, 25, FOLDER, b, None, inode))

    found = {frozenset(left(disk, RANDOM, seed).files) for seed in range(60)}

    assert found == {frozenset(s) for s in ({a}, {b}, {b, c}, {c})}


def test_a_removed_file_may_come_back_with_its_content(disk: Disk) -> None:
    inode = some_file(disk)
    disk.change(NameChange(20, 21, FOLDER, f"{FOLDER}/a", None, inode))

    assert left(disk, KEPT).files == {}
    assert bytes_of(disk, DROPPED) == b"o" * 2 * PAGE


def test_equal_keys_mean_equal_content(disk: Disk) -> None:
    inode = some_file(disk)
    inode.write(20, 21, 200, 0, b"x" * PAGE)
    inode.write(22, 23, 200, PAGE, b"y" * PAGE)
    contents: dict[object, bytes] = {}
    for data in ("dropped", "kept", "pages", "sectors", "files"):
        for seed in range(10):
            cut = Cut(data, "kept", "kept")
            found: Content = left(disk, cut, seed).files[f"{FOLDER}/a"]
            assert contents.setdefault(found.key, found.bytes()) == found.bytes()


# A trace of a process that does everything, read and played back


SCRIPT = """
import os, sys, threading
folder, marks = sys.argv[1:]
mark = os.open(marks, os.O_CREAT | os.O_WRONLY)
d = os.open(folder, os.O_RDONLY)
a = os.open(folder + "/a, b\\n", os.O_CREAT | os.O_RDWR)
os.pwrite(a, b"x" * 5000, 100)
os.write(mark, b"begin")
os.pwritev(a, [b"abc", b"def\\0\\xff"], 4094)
os.ftruncate(a, 5050)
os.fsync(a)
t = os.open(".", os.O_RDWR | os.O_TMPFILE, 0o600, dir_fd=d)
os.pwrite(t, b"unnamed", 0)
def link():
    os.link(f"/proc/self/fd/{t}", "linked", dst_dir_fd=d)
thread = threading.Thread(target=link); thread.start(); thread.join()
os.pwrite(t, b"named", 9000)
os.rename("linked", "renamed", src_dir_fd=d, dst_dir_fd=d)
os.posix_fallocate(t, 0, 20000)
gone = os.open(folder + "/gone", os.O_CREAT | os.O_RDWR)
os.pwrite(gone, b"z", 0)
os.unlink(folder + "/gone")
os.pwrite(gone, b"z", 1)
os.fsync(d)
os.write(mark, b"end")
"""


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "files").mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "files")]
    strace.record([*command, str(tmp_path / "marks")], tmp_path / "trace", {}, 120)
    yield tmp_path


def test_a_trace_played_back_gives_the_files_that_are_there(traced: Path) -> None:
    disk = Disk([str(traced / "files")])
    replay = Replay(disk, str(traced / "marks"), str(traced / "none"))

    stops = list(replay.run(strace.read(traced / "trace")))

    assert differences(disk) == []
    assert {path.name for path in (traced / "files").iterdir()} == {
        "a, b\n",
        "renamed",
    }
    causes = [stop.cause.removesuffix("v2").removesuffix("v") for stop in stops]
    assert (
        causes
        == (
            "pwrite ftruncate fsync pwrite64 linkat pwrite64 renameat fallocate openat"
            " pwrite64 unlink pwrite64 fsync"
        ).split()
    )
    assert {stop.step for stop in stops} == {BEGIN}
    assert replay.step == END


def test_a_write_that_was_missed_is_noticed(traced: Path) -> None:
    disk = Disk([str(traced / "files")])
    replay = Replay(disk, str(traced / "marks"), str(traced / "none"))
    calls = strace.read(traced / "trace")
    named = [call for call in calls if call.name == "pwrite64"]
    calls.remove(named[2])

    list(replay.run(calls))

    assert differences(disk) != []


def test_without_permission_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "strace"
    stub.write_text("#!/bin/sh\necho 'PTRACE_TRACEME: not permitted' >&2\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])

    with pytest.raises(strace.NotPermitted, match="SYS_PTRACE"):
        strace.record(["true"], tmp_path / "trace", {}, 10)


def test_without_strace_it_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(strace.NotPermitted, match="package strace"):
        strace.record(["true"], tmp_path / "trace", {}, 10)


# Images


def image_state(folder: Path) -> State:
    """The files of a real folder as a state."""
    contents = {}
    for path in folder.iterdir():
        inode = Inode(1, bytearray(path.read_bytes()), path.stat().st_size)
        contents[str(path)] = Content(inode, {}, inode.stable_size, 0, None)
    return State(contents)


def qemu_io(path: Path, *commands: str) -> None:
    arguments = [part for command in commands for part in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-f", "qcow2", *arguments, path], check=True, capture_output=True
    )


def test_a_chain_is_read_as_qemu_reads_it(tmp_path: Path) -> None:
    chain = [tmp_path / name for name in ("base", "middle", "top")]
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, chain[0], "4M"], check=True)
    for below, above in pairwise(chain):
        link = ["-b", below.name, "-F", "qcow2"]
        subprocess.run([*create, *link, above], check=True, cwd=tmp_path)
    qemu_io(chain[0], "write -P 1 0 2M")
    qemu_io(chain[1], "write -P 2 64k 64k", "write -z 128k 64k")
    qemu_io(chain[2], "write -P 3 68k 4k", "write -P 4 3M 8k")
    raw = tmp_path / "raw"
    shutil.copy(chain[0], tmp_path / "kept")
    convert = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw"]
    subprocess.run([*convert, chain[2], raw], check=True)

    image = open_image(image_state(tmp_path), str(chain[2]), "qcow2")

    content = raw.read_bytes()
    for at in range(0, len(content), PAGE):
        assert image.read(at, PAGE) == content[at : at + PAGE]
    plain = open_image(image_state(tmp_path), str(raw), "raw")
    assert plain.read(68 << 10, PAGE) == b"\3" * PAGE


def test_a_missing_backing_image_is_unreadable(tmp_path: Path) -> None:
    create = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*create, tmp_path / "base", "1M"], check=True)
    link = ["-b", "base", "-F", "qcow2"]
    subprocess.run([*create, *link, tmp_path / "top"], check=True, cwd=tmp_path)
    (tmp_path / "base").unlink()

    with pytest.raises(Unreadable, match="base is missing"):
        open_image(image_state(tmp_path), str(tmp_path / "top"), "qcow2")
    (tmp_path / "top").write_bytes(b"not an image")
    with pytest.raises(Unreadable, match="no qcow2 image"):
        open_image(image_state(tmp_path), str(tmp_path / "top"), "qcow2")


def test_a_process_that_ends_in_a_call_leaves_no_riddle() -> None:
    """strace may not know any more which call a killed process was in."""
    lines = [
        b"7 1700000000.000001 fsync(3</x> <unfinished ...>\n",
        b"7 1700000000.000002 <... ??? resumed>) = ?\n",
        b"7 1700000000.000003 +++ killed by SIGKILL +++\n",
    ]

    assert [(call.name, call.exit) for call in strace.calls(lines)] == [("fsync", None)]
