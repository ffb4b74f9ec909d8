"""QEMU's locks as real QEMU programs take and meet them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backfold.engine import image_locks
from backfold.engine.image_locks import READER_ONLY, ImageLocked, exclusive, held
from backfold.journal.errors import CommandFailed
from contract.test_images_contract import qemu_io


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = str(tmp_path / "image.qcow2")
    command = ["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"]
    subprocess.run(command, check=True)
    return path


def fails_to_open(*command: str) -> str:
    """What a QEMU program complains about; it must not succeed."""
    done = subprocess.run(command, capture_output=True, text=True)
    text = done.stdout + done.stderr
    assert "lock" in text, text
    return text


def test_nobody_holds_a_new_image(image: str) -> None:
    assert not image_locks.holder(image)
    assert held(image) == frozenset()


@pytest.mark.parametrize(
    ("options", "format", "marks"),
    [
        ((), "qcow2", {100, 101, 103, 201, 203}),
        (("-r",), "qcow2", {100, 201, 203}),
        (("-r", "-U"), "qcow2", {100}),
        (("-r",), "raw", {100}),
        ((), "raw", {100, 101}),
    ],
)
def test_marks_of_a_qemu(
    image: str, options: tuple[str, ...], format: str, marks: set[int]
) -> None:
    with qemu_io(image, *options, format=format):
        seen = held(image)
        holder = image_locks.holder(image)

    assert seen == marks
    assert holder
    assert held(image) == frozenset()


def test_marks_of_several_processes_are_seen_together(image: str) -> None:
    with qemu_io(image, "-r", "-U"), qemu_io(image, "-r"):
        assert held(image) == {100, 201, 203}


def test_exclusive_keeps_every_qemu_out(image: str) -> None:
    with exclusive(image):
        fails_to_open("qemu-io", "-f", "qcow2", "-c", "read 0 512", image)
        fails_to_open("qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", image)
        fails_to_open("qemu-img", "info", image)
        fails_to_open("qemu-img", "check", image)
        fails_to_open("qemu-img", "map", "-U", image)

    done = subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write 0 512", image])
    assert done.returncode == 0


def test_exclusive_keeps_out_a_machine_that_starts(image: str) -> None:
    drive = f"file={image},format=qcow2,if=virtio"
    machine = ["qemu-system-x86_64", "-display", "none", "-S", "-drive", drive]

    with exclusive(image):
        fails_to_open(*machine)


@pytest.mark.parametrize("options", [(), ("-r",), ("-r", "-U")])
def test_exclusive_is_refused_while_a_qemu_has_it(
    image: str, options: tuple[str, ...]
) -> None:
    with (
        qemu_io(image, *options),
        pytest.raises(ImageLocked) as caught,
        exclusive(image),
    ):
        pass

    assert caught.value.held
    assert held(image) == frozenset()


def test_mere_readers_may_stay(image: str) -> None:
    with qemu_io(image, "-r", "-U"), exclusive(image, readers_stay=True):
        pass
    with qemu_io(image, "-r"), pytest.raises(ImageLocked) as caught:
        with exclusive(image, readers_stay=True):
            pass

    assert caught.value.held > READER_ONLY


def test_exclusive_excludes_another_one(image: str) -> None:
    with exclusive(image):
        with pytest.raises(ImageLocked), exclusive(image):
            pass
        assert image_locks.holder(image)

    assert not image_locks.holder(image)


def test_locks_end_with_the_process(image: str) -> None:
    script = (
        "import sys, backfold.engine.image_locks as l\n"
        "with l.exclusive(sys.argv[1]):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, image],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        seen = image_locks.holder(image)
        process.kill()

    assert seen
    assert not image_locks.holder(image)


def test_locks_end_although_a_child_has_the_descriptor(image: str) -> None:
    read_end, write_end = os.pipe()
    with exclusive(image) as descriptor:
        child = subprocess.Popen(
            ["cat"], stdin=read_end, stdout=subprocess.PIPE, pass_fds=(descriptor,)
        )
    try:
        assert not image_locks.holder(image)
    finally:
        os.close(read_end)
        os.close(write_end)
        child.communicate()


def test_exclusive_follows_no_link(image: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(image)

    with pytest.raises(CommandFailed), exclusive(str(link)):
        pass


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    for path in (str(pipe), "/dev/null", str(tmp_path), str(tmp_path / "none"), "a\0"):
        with pytest.raises(CommandFailed):
            held(path)
        with pytest.raises(CommandFailed), exclusive(path):
            pass


def test_image_need_not_be_writable(image: str) -> None:
    os.chmod(image, 0o444)

    with exclusive(image):
        fails_to_open("qemu-img", "info", image)
