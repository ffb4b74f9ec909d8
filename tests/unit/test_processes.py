"""Who has an image: by descriptor, by command line, by lock."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backfold.engine import processes
from backfold.engine.image_locks import exclusive
from contract.test_images_contract import qemu_io


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = str(tmp_path / "the, image")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"]
    subprocess.run(command, check=True)
    return path


@contextmanager
def sleeper(
    *arguments: str, name: str = "qemu-system-x86_64", cwd: Path | None = None
) -> Iterator[int]:
    """A process that is called like a QEMU, has these arguments and waits."""
    script = "import sys; print('up', flush=True); sys.stdin.read()"
    command = [name, "-c", script, *arguments]
    process = subprocess.Popen(
        command,
        executable=NAMED_LIKE_QEMU[name],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"up\n"
        yield process.pid
    finally:
        process.communicate()


NAMED_LIKE_QEMU: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def named_like_qemu(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Copies of the interpreter: /proc/PID/exe then has these names."""
    folder = tmp_path_factory.mktemp("bin")
    for name in ("qemu-system-x86_64", "qemu-img", "editor"):
        real = os.path.realpath(sys.executable)
        NAMED_LIKE_QEMU[name] = shutil.copy(real, str(folder / name))


def pids(path: str) -> list[int | None]:
    return [user.pid for user in processes.users([path])[path]]


def test_nobody(image: str) -> None:
    assert processes.users([image, image + "x"]) == {image: (), image + "x": ()}


def test_descriptor_is_found_by_inode(image: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(image)
    with qemu_io(image) as pid:
        (user,) = processes.users([str(link)])[str(link)]
        os.rename(image, image + ".moved")
        moved = pids(image + ".moved")

    assert user.pid == pid
    assert user.what == "qemu-io has it open"
    assert moved == [pid]


def test_ourselves_are_left_out(image: str) -> None:
    with open(image, "rb"):
        assert pids(image) == []


def test_several_images_in_one_pass(image: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    shutil.copy(image, other)

    with qemu_io(image) as first, qemu_io(other) as second:
        found = processes.users([image, other])

    assert [user.pid for user in found[image]] == [first]
    assert [user.pid for user in found[other]] == [second]


@pytest.mark.parametrize(
    "form",
    [
        "{path}",
        "file={doubled},format=qcow2,if=virtio",
        "driver=qcow2,file.filename={doubled}",
        "driver=qcow2,file.filename=file:{doubled}",
        "file:{path}",
        "blockdev",
        "json",
        "drive-json",
    ],
)
def test_command_line_of_a_qemu(image: str, form: str) -> None:
    options = json.dumps({"driver": "qcow2", "file": {"filename": image}})
    word = {
        "blockdev": options,
        "json": f"json:{options}",
        "drive-json": "file=json:" + options.replace(",", ",,") + ",if=virtio",
    }.get(form) or form.format(path=image, doubled=image.replace(",", ",,"))

    with sleeper("-drive", word) as pid:
        (user,) = processes.users([image])[image]

    assert user.pid == pid
    assert user.what == "qemu-system-x86_64 names it on its command line"


def test_relative_name_starts_where_the_process_is(image: str, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()

    with sleeper("../the, image", cwd=tmp_path / "sub") as pid:
        there = pids(image)
    with sleeper("the, image", cwd=tmp_path / "sub"):
        elsewhere = pids(image)

    assert there == [pid]
    assert elsewhere == []


def test_other_programs_may_name_it(image: str) -> None:
    with sleeper(image, name="editor"):
        assert pids(image) == []


def test_only_a_sharing_qemu_img_is_no_user(image: str) -> None:
    with sleeper("convert", image, name="qemu-img") as pid:
        plain = pids(image)
    for flag in ("-U", "--force-share"):
        with sleeper("map", flag, image, name="qemu-img"):
            assert pids(image) == []

    assert plain == [pid]


def test_lock_of_a_process_that_is_not_visible(
    image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def sees_nobody(_: object) -> tuple[()]:
        looked.append(1)
        return ()

    monkeypatch.setattr(processes, "_processes", sees_nobody)

    with qemu_io(image):
        (user,) = processes.users([image])[image]

    assert user.pid is None
    assert user.what == processes.LOCKED
    assert len(looked) == processes.ATTEMPTS


def test_reader_explains_the_mark_of_a_reader_only(image: str) -> None:
    with sleeper("map", "-U", image, name="qemu-img"):
        with qemu_io(image, "-r", "-U") as pid:
            assert pids(image) == [pid]
        with exclusive(image):
            # Our own descriptors are no user, but here they stand for a hidden one.
            assert pids(image) == [None]


def test_descriptors_that_may_not_be_seen(
    image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(processes, "_opened", lambda *_: None)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    # It went to the background with a relative name: "/" is not where it started.
    with sleeper("file=the,, image", cwd=elsewhere) as pid:
        assert pids(image) == [pid]
    with sleeper("file=another", cwd=elsewhere):
        assert pids(image) == []


@pytest.mark.parametrize("word", ["json:{", "json:" + "[" * 9000, "{", "=", ",,,", ""])
def test_odd_command_lines(image: str, word: str) -> None:
    with sleeper(word):
        assert pids(image) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_rights_of_another_user(image: str) -> None:
    os.chmod(image, 0o644)
    for folder in Path(image).parents:
        # Pytest's own folders are private, and one deeper when tests run in parallel.
        if folder.stat().st_mode & 0o005 != 0o005:
            os.chmod(folder, 0o755)
    read_end, write_end = os.pipe()

    with qemu_io(image) as pid:
        # A fork: another user may not even be able to read the interpreter.
        child = os.fork()
        if child == 0:
            try:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
                os.write(write_end, repr(processes.users([image])[image]).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    os.close(write_end)
    with open(read_end) as answer:
        said = answer.read()

    # Not by its descriptors, but by its command line.
    assert f"pid={pid}, what='qemu-io names it on its command line'" in said
