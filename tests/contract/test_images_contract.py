"""What every adapter of the `Images` port must do.

`ImagesContract` is the suite. An adapter's own class inherits from it and gives two
fixtures: ``images``, the adapter, and ``world``, which makes what lies around it.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from backfold.engine import files
from backfold.engine.images import QemuImages
from backfold.engine.qemu_img import QemuImg, resolve_backing
from backfold.journal.errors import CommandFailed, OutcomeUnknown
from backfold.journal.model import DataFile, FileId, FileStamp, Image, OverlayPlan
from backfold.states.ports import Bitmap, Images
from real.loops import loop_devices

RUN = "0123456789ab"
MIB = 1 << 20
CLUSTER = 64 << 10
HOSTILE_NAMES = (
    "a,b,,c",
    "two words",
    "-rf",
    "line\nbreak",
    "json:{}",
    "file:x",
    "nbd:h:1",
    "a:b",
    "100%$HOME`id`'\"\\",
    "ümlaut-\U0001f4be",
    "driver=raw,file.filename=x",
)


@contextmanager
def qemu_io(path: str, *options: str, format: str = "qcow2") -> Iterator[int]:
    """A process of QEMU's that has the image open; yields its pid."""
    process = subprocess.Popen(
        ["qemu-io", *options, "-f", format, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write("read 0 512\n")
        process.stdin.flush()
        line = process.stdout.readline()
        assert "read 512/512" in line, line
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def based_on(images: Images, file: FileId, folders: list[str]) -> tuple[str, ...]:
    """What the adapter finds in these folders that names a file."""
    return tuple(asyncio.run(images.dependents(folders)).get(file, ()))


def run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


class World(Protocol):
    """Makes images without the adapter, and is somebody else who uses them."""

    folder: Path

    def base(self, name: str, format: str = "qcow2", size: int = MIB) -> Image:
        """A new image that has no backing image."""

    def write(self, path: str, start: int, length: int, zeroes: bool = False) -> None:
        """Write data or zeroes into an image, as a guest would."""

    def busy(self, path: str) -> AbstractContextManager[int | None]:
        """Somebody has the image open for writing meanwhile; gives the pid."""


class ImagesContract:
    """The suite."""

    def overlay(
        self, world: World, images: Images, below: Image, name: str = "overlay.qcow2"
    ) -> Image:
        """An overlay made by the adapter, linked by an absolute name."""
        path = str(world.folder / name)
        asyncio.run(images.create_overlay(plan_of(below, path, below.path)))
        file = images.identify(path)
        assert file is not None
        return Image(path, "qcow2", file, below.virtual_size)

    def test_header_of_a_base(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2", size=3 * MIB)

        header = asyncio.run(images.header(base.path, "qcow2"))

        assert (header.path, header.format) == (base.path, "qcow2")
        assert (header.file, header.virtual_size) == (base.file, 3 * MIB)
        assert (header.backing, header.backing_format) == (None, None)
        assert header.backing_path is None
        assert not header.corrupt and not header.encrypted
        assert header.internal_snapshots == ()
        assert header.bitmaps == ()
        assert header.keeps_bitmaps
        assert header.data_file is None

    def test_format_is_never_probed(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")

        header = asyncio.run(images.header(base.path, "raw"))

        assert header.format == "raw"
        assert header.virtual_size != MIB

    def test_header_without_the_image_below(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        top = self.overlay(world, images, base)
        os.unlink(base.path)

        header = asyncio.run(images.header(top.path, "qcow2"))
        empty = asyncio.run(images.is_empty(top.path, "qcow2"))

        assert header.backing == header.backing_path == base.path
        assert header.backing_format == "qcow2"
        assert empty

    def test_header_while_somebody_writes(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")

        with world.busy(base.path):
            header = asyncio.run(images.header(base.path, "qcow2"))
            extents = asyncio.run(images.extents(base.path, "qcow2"))

        assert header.virtual_size == MIB
        assert extents

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_no_character_of_a_name_means_anything(
        self, world: World, images: Images, name: str
    ) -> None:
        base = world.base(name)
        top = self.overlay(world, images, base, f"{name}.overlay")
        world.write(top.path, 0, CLUSTER)

        header = asyncio.run(images.header(top.path, "qcow2"))
        verdict = asyncio.run(images.check(top.path, "qcow2"))
        dependents = based_on(images, base.file, [str(world.folder)])
        asyncio.run(images.relink(top, "elsewhere", "raw"))
        fence = images.fence_name(top.path, RUN)
        asyncio.run(images.probe_fence(top.path, RUN))
        asyncio.run(images.rename(top.path, fence, top.file))
        asyncio.run(images.unlink(fence, top.file))

        assert header.backing_path is not None
        assert images.identify(header.backing_path) == base.file
        assert verdict is None
        assert dependents == (top.path,)
        assert sorted(os.listdir(world.folder)) == [name]

    @pytest.mark.parametrize(
        "content",
        [b"", b"QFI\xfb", b"QFI\xfb\0\0\0\x03", os.urandom(70_000), b"QFI\xfb" * 999],
        ids=["empty", "magic", "truncated", "random", "repeated"],
    )
    def test_damage_is_an_error_of_ours(
        self, world: World, images: Images, content: bytes
    ) -> None:
        path = str(world.folder / "damaged.qcow2")
        Path(path).write_bytes(content)

        for call in (images.header, images.extents, images.check, images.is_empty):
            with pytest.raises(CommandFailed):
                asyncio.run(call(path, "qcow2"))

        assert Path(path).read_bytes() == content

    @pytest.mark.parametrize("name", ["missing", "no/such/folder", "zero\0byte"])
    def test_missing(self, world: World, images: Images, name: str) -> None:
        path = f"{world.folder}/{name}"

        for call in (images.header, images.extents, images.check, images.is_empty):
            for format in ("qcow2", "raw"):
                with pytest.raises(CommandFailed):
                    asyncio.run(call(path, format))

        assert images.identify(path) is None
        assert images.stamp(path) is None
        assert asyncio.run(images.users(path)) == ()

    def test_extents_are_those_of_the_overlay_only(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        world.write(base.path, 0, 4 * CLUSTER)
        top = self.overlay(world, images, base)
        world.write(top.path, 2 * CLUSTER, CLUSTER)
        world.write(top.path, 8 * CLUSTER, 2 * CLUSTER, zeroes=True)

        extents = asyncio.run(images.extents(top.path, "qcow2"))

        own = [(e.start, e.length, e.data) for e in extents if e.allocated]
        assert own == [
            (2 * CLUSTER, CLUSTER, True),
            (8 * CLUSTER, 2 * CLUSTER, False),
        ]
        assert sum(extent.length for extent in extents) == MIB

    def test_extents_of_a_raw_image_are_its_data(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.raw", "raw")
        world.write(base.path, 4 * CLUSTER, CLUSTER)

        extents = asyncio.run(images.extents(base.path, "raw"))

        own = [(e.start, e.length, e.data) for e in extents if e.allocated]
        assert own == [(4 * CLUSTER, CLUSTER, True)]

    def test_zeroes_are_data_of_the_guest(self, world: World, images: Images) -> None:
        top = self.overlay(world, images, world.base("base.qcow2"))
        before = asyncio.run(images.is_empty(top.path, "qcow2"))

        world.write(top.path, 0, CLUSTER, zeroes=True)

        assert before
        assert not asyncio.run(images.is_empty(top.path, "qcow2"))

    def test_sound_image(self, world: World, images: Images) -> None:
        for format in ("qcow2", "raw"):
            base = world.base(f"base.{format}", format)
            assert asyncio.run(images.check(base.path, format)) is None

    def test_check_of_an_image_in_use_is_no_verdict(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")

        with world.busy(base.path), pytest.raises(CommandFailed):
            asyncio.run(images.check(base.path, "qcow2"))

    def test_overlay_is_like_the_image_below(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.raw", "raw")
        os.chmod(base.path, 0o640)
        if os.geteuid() == 0:
            os.chown(base.path, 65534, 65534)

        top = self.overlay(world, images, base)

        below, above = os.stat(base.path), os.stat(top.path)
        assert stat.S_IMODE(above.st_mode) == 0o640
        assert (above.st_uid, above.st_gid) == (below.st_uid, below.st_gid)
        header = asyncio.run(images.header(top.path, "qcow2"))
        assert (header.backing_format, header.virtual_size) == ("raw", MIB)

    def test_overlay_takes_the_link_as_it_is(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        (world.folder / "below").mkdir()
        path = str(world.folder / "below/top.qcow2")

        asyncio.run(images.create_overlay(plan_of(base, path, "../base.qcow2")))

        header = asyncio.run(images.header(path, "qcow2"))
        assert header.backing == "../base.qcow2"
        assert header.backing_path is not None
        assert images.identify(header.backing_path) == base.file

    def test_overlay_replaces_nothing(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        taken = world.folder / "taken.qcow2"
        taken.write_bytes(b"precious")
        dangling = world.folder / "dangling.qcow2"
        dangling.symlink_to(world.folder / "nowhere")

        for path in (str(taken), str(dangling)):
            with pytest.raises(CommandFailed):
                asyncio.run(images.create_overlay(plan_of(base, path, base.path)))

        assert taken.read_bytes() == b"precious"
        assert not (world.folder / "nowhere").exists()

    @pytest.mark.parametrize("link", ["other.qcow2", "nbd://host/x", "json:{}", "."])
    def test_overlay_must_lead_to_the_image_below(
        self, world: World, images: Images, link: str
    ) -> None:
        base = world.base("base.qcow2")
        world.base("other.qcow2")
        path = str(world.folder / "top.qcow2")

        with pytest.raises(CommandFailed):
            asyncio.run(images.create_overlay(plan_of(base, path, link)))

        assert not os.path.lexists(path)

    def test_failed_overlay_leaves_nothing(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        tiny = Image(base.path, "no-such-format", base.file, MIB)
        path = str(world.folder / "top.qcow2")

        with pytest.raises(CommandFailed):
            asyncio.run(images.create_overlay(plan_of(tiny, path, base.path)))

        assert os.listdir(world.folder) == ["base.qcow2"]

    def test_relink_changes_the_link_and_nothing_else(
        self, world: World, images: Images
    ) -> None:
        top = self.overlay(world, images, world.base("base.qcow2"))
        world.write(top.path, 0, CLUSTER)
        before = asyncio.run(images.extents(top.path, "qcow2"))

        for _ in range(2):
            asyncio.run(images.relink(top, "some where,else", "raw"))

        header = asyncio.run(images.header(top.path, "qcow2"))
        assert (header.backing, header.backing_format) == ("some where,else", "raw")
        assert asyncio.run(images.extents(top.path, "qcow2")) == before
        assert images.identify(top.path) == top.file

    def test_link_can_be_taken_away(self, world: World, images: Images) -> None:
        """As after a stream of everything below."""
        top = self.overlay(world, images, world.base("base.qcow2"))
        world.write(top.path, 0, CLUSTER)
        before = asyncio.run(images.extents(top.path, "qcow2"))

        for _ in range(2):
            asyncio.run(images.relink(top, None, None))

        header = asyncio.run(images.header(top.path, "qcow2"))
        assert (header.backing, header.backing_format) == (None, None)
        assert header.backing_path is None
        assert asyncio.run(images.extents(top.path, "qcow2")) == before

    def test_relink_of_an_image_in_use_is_refused(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        top = self.overlay(world, images, base)

        with world.busy(top.path), pytest.raises(CommandFailed):
            asyncio.run(images.relink(top, "elsewhere", "raw"))

        header = asyncio.run(images.header(top.path, "qcow2"))
        assert header.backing == base.path

    def test_relink_of_another_file_is_refused(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        top = self.overlay(world, images, base)
        stranger = Image(top.path, "qcow2", base.file, MIB)

        with pytest.raises(CommandFailed):
            asyncio.run(images.relink(stranger, "elsewhere", "raw"))

        header = asyncio.run(images.header(top.path, "qcow2"))
        assert header.backing == base.path

    def test_link_that_is_too_long_is_refused(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        top = self.overlay(world, images, base)

        with pytest.raises(CommandFailed):
            asyncio.run(images.relink(top, "x" * 2000, "raw"))

        header = asyncio.run(images.header(top.path, "qcow2"))
        assert header.backing == base.path

    def test_identity_and_stamp_follow_links(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        link = world.folder / "link"
        link.symlink_to("base.qcow2")
        found = os.stat(base.path)

        assert images.identify(str(link)) == base.file
        assert images.stamp(str(link)) == FileStamp(found.st_size, found.st_mtime_ns)

    def test_fence_lies_beside_the_real_file(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        (world.folder / "links").mkdir()
        link = world.folder / "links/link"
        link.symlink_to("../base.qcow2")

        fence = images.fence_name(str(link), RUN)
        asyncio.run(images.rename(str(link), fence, base.file))

        assert fence == f"{os.path.realpath(base.path)}.backfold-{RUN}"
        assert images.identify(fence) == base.file
        assert not os.path.lexists(base.path)
        # Taken back by the same name, which leads nowhere meanwhile.
        asyncio.run(images.rename(fence, str(link), base.file))
        assert images.identify(base.path) == base.file
        assert link.is_symlink()

    def test_nothing_is_in_the_way_of_a_fence(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")

        obstacle = images.fence_obstacle(base.path, RUN)
        asyncio.run(images.probe_fence(base.path, RUN))

        assert obstacle is None
        assert os.listdir(world.folder) == ["base.qcow2"]

    def test_hard_link_is_in_the_way(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        os.link(base.path, world.folder / "second")

        assert "hard link" in (images.fence_obstacle(base.path, RUN) or "")

    def test_long_name_is_in_the_way(self, world: World, images: Images) -> None:
        # 240 bytes, but only 120 characters: the fence's name has 262 bytes.
        base = world.base("ü" * 120)

        assert "longer" in (images.fence_obstacle(base.path, RUN) or "")
        with pytest.raises(CommandFailed):
            asyncio.run(images.probe_fence(base.path, RUN))

        assert os.listdir(world.folder) == ["ü" * 120]

    def test_other_things_are_in_the_way(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        Path(images.fence_name(base.path, RUN)).touch()

        assert "exists" in (images.fence_obstacle(base.path, RUN) or "")
        assert images.fence_obstacle(str(world.folder), RUN)
        assert images.fence_obstacle(f"{world.folder}/missing", RUN)
        assert images.fence_obstacle("/dev/null", RUN)

    def test_rename_never_replaces(self, world: World, images: Images) -> None:
        base, other = world.base("base.qcow2"), world.base("other.qcow2")

        with pytest.raises(CommandFailed):
            asyncio.run(images.rename(base.path, other.path, base.file))

        assert images.identify(base.path) == base.file
        assert images.identify(other.path) == other.file

    def test_rename_may_be_repeated(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        fence = images.fence_name(base.path, RUN)

        for _ in range(2):
            asyncio.run(images.rename(base.path, fence, base.file))
        world.base("base.qcow2")
        asyncio.run(images.rename(base.path, fence, base.file))

        assert images.identify(fence) == base.file
        assert images.identify(base.path) not in (None, base.file)

    def test_rename_to_its_own_name_keeps_the_file(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        link = world.folder / "link"
        link.symlink_to("base.qcow2")

        for name in (base.path, str(link)):
            asyncio.run(images.rename(base.path, name, base.file))

        assert images.identify(base.path) == base.file

    def test_rename_of_another_file_is_refused(
        self, world: World, images: Images
    ) -> None:
        base, other = world.base("base.qcow2"), world.base("other.qcow2")
        fence = images.fence_name(base.path, RUN)

        for path in (base.path, f"{world.folder}/missing"):
            with pytest.raises(CommandFailed):
                asyncio.run(images.rename(path, fence, other.file))

        assert images.identify(base.path) == base.file
        assert images.identify(fence) is None

    def test_unlink_of_a_fence(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        fence = images.fence_name(base.path, RUN)
        asyncio.run(images.rename(base.path, fence, base.file))

        for _ in range(2):
            asyncio.run(images.unlink(fence, base.file))

        assert os.listdir(world.folder) == []

    @pytest.mark.parametrize(
        "name",
        [
            "base.qcow2",
            "x.backfold-",
            "x.backfold-0123456789AB",
            "x.backfold-0123456789ab\n",
            "x.backfold-0123456789abc",
        ],
    )
    def test_original_name_is_never_unlinked(
        self, world: World, images: Images, name: str
    ) -> None:
        base = world.base(name)

        with pytest.raises(CommandFailed):
            asyncio.run(images.unlink(base.path, base.file))

        assert images.identify(base.path) == base.file

    def test_unlink_of_another_file_is_refused(
        self, world: World, images: Images
    ) -> None:
        other = world.base("other.qcow2")
        base = world.base(f"base.qcow2.backfold-{RUN}")
        link = world.folder / f"link.backfold-{RUN}"
        link.symlink_to("other.qcow2")

        for path in (base.path, str(link)):
            with pytest.raises(CommandFailed):
                asyncio.run(images.unlink(path, other.file))

        assert images.identify(base.path) == base.file
        assert images.identify(str(link)) == other.file

    def test_unlink_of_an_image_in_use_is_refused(
        self, world: World, images: Images
    ) -> None:
        base = world.base(f"base.qcow2.backfold-{RUN}")

        with world.busy(base.path), pytest.raises(CommandFailed):
            asyncio.run(images.unlink(base.path, base.file))

        assert images.identify(base.path) == base.file
        asyncio.run(images.unlink(base.path, base.file))
        assert images.identify(base.path) is None

    def test_users(self, world: World, images: Images) -> None:
        base, other = world.base("base.qcow2"), world.base("other.qcow2")

        with world.busy(base.path) as pid:
            (user,) = asyncio.run(images.users(base.path))
            others = asyncio.run(images.users(other.path))

        assert user.pid == pid
        assert others == ()
        assert asyncio.run(images.users(base.path)) == ()

    def test_dependents_by_relative_link_and_linked_folder(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        (world.folder / "real").mkdir()
        (world.folder / "linked").symlink_to("real")
        top = str(world.folder / "real/top.qcow2")
        asyncio.run(images.create_overlay(plan_of(base, top, "../base.qcow2")))

        linked = str(world.folder / "linked")
        both = [linked, str(world.folder / "real"), str(world.folder / "missing")]
        found = based_on(images, base.file, [linked])

        assert found == (f"{linked}/top.qcow2",)
        assert len(based_on(images, base.file, both)) == 1

    def test_dependents_through_links_to_files(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        for name in ("a", "b"):
            (world.folder / name).mkdir()
        (world.folder / "a/alias").symlink_to("../base.qcow2")
        top = str(world.folder / "a/top.qcow2")
        asyncio.run(images.create_overlay(plan_of(base, top, "alias")))
        (world.folder / "b/top").symlink_to("../a/top.qcow2")

        found = based_on(images, base.file, [str(world.folder / "b")])

        assert found == (str(world.folder / "b/top"),)

    def test_dependents_pass_over_what_is_no_overlay(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        folder = world.folder
        for index, content in enumerate(
            [
                b"",
                b"QFI\xfb",
                os.urandom(5000),
                struct.pack(">4sIQI", b"QFI\xfb", 3, 1 << 63, 1023),
                struct.pack(">4sIQI", b"QFI\xfb", 3, 1, 0xFFFFFFFF),
                struct.pack(">4sIQI", b"QFI\xfb", 3, 20, 9) + b"[" * 1000,
                struct.pack(">4sIQI", b"QFI\xfb", 3, 20, 1000) + b"json:" + b"[" * 995,
                struct.pack(">4sIQI", b"QFI\xfb", 3, 20, 3) + b"\0\xff\n",
            ]
        ):
            (folder / f"weird-{index}").write_bytes(content)
        os.mkfifo(folder / "pipe")
        (folder / "loop").symlink_to("loop")
        (folder / "folder").mkdir()
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder / "s"))
            found = based_on(images, base.file, [str(folder)])

        assert found == ()

    def test_dependents_by_json(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        name = json.dumps({"driver": "qcow2", "file": {"filename": base.path}})
        top = self.overlay(world, images, base)
        asyncio.run(images.relink(top, f"json:{name}", "qcow2"))

        found = based_on(images, base.file, [str(world.folder)])

        assert found == (top.path,)

    def test_sync(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")

        asyncio.run(images.sync([base.path, base.path]))
        with pytest.raises(CommandFailed):
            asyncio.run(images.sync([base.path, f"{world.folder}/missing"]))

    def test_free_bytes(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")

        free, device = asyncio.run(images.free_bytes(base.path, base.format))
        beside = asyncio.run(images.free_bytes(f"{world.folder}/not-yet", "qcow2"))

        assert free > 0
        assert device == beside[1] == base.file.device


class RealWorld:
    """Real files, and qemu-io as the guest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def base(self, name: str, format: str = "qcow2", size: int = MIB) -> Image:
        path = str(self.folder / name)
        if format == "raw":
            # qemu-img would write the first block of it.
            Path(path).touch()
            os.truncate(path, size)
        else:
            run("qemu-img", "create", "-q", "-f", format, path, str(size))
        found = os.stat(path)
        return Image(path, format, FileId(found.st_dev, found.st_ino), size)

    def write(self, path: str, start: int, length: int, zeroes: bool = False) -> None:
        # By JSON: qemu-io itself would read meanings into the names.
        format = "raw" if path.endswith(".raw") else "qcow2"
        name = {"driver": format, "file": {"driver": "file", "filename": path}}
        order = f"write {'-z' if zeroes else '-P 7'} {start} {length}"
        run("qemu-io", "-c", order, "json:" + json.dumps(name))

    def busy(self, path: str) -> AbstractContextManager[int | None]:
        return qemu_io(path)


def with_data(path: str, data: str) -> None:
    """A qcow2 image of one MiB with an external data file."""
    option = f"data_file={data}"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", option, path, "1M")


def plan_of(frozen: Image, overlay: str, link: str) -> OverlayPlan:
    return OverlayPlan("vda", frozen, overlay, link, FileStamp(0, 0))


class TestQemuImages(ImagesContract):
    """The adapter for real images, and what only it can show."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        folder = tmp_path / "images"
        folder.mkdir()
        return RealWorld(folder)

    @pytest.fixture
    def images(self) -> Images:
        return QemuImages()

    def test_block_device_is_known_by_its_number(
        self, world: World, images: Images, tmp_path: Path
    ) -> None:
        """Whatever its node is called; it cannot be renamed, and tells no times."""
        with loop_devices(tmp_path, 4 * MIB, MIB) as (device, raw):
            run("qemu-img", "create", "-q", "-f", "qcow2", device, "1M")
            number = os.stat(device).st_rdev
            node = str(tmp_path / "node")
            os.mknod(node, 0o600 | stat.S_IFBLK, number)
            for path in (device, node):
                header = asyncio.run(images.header(path, "qcow2"))
                assert header.file == images.identify(path) == FileId(number, 0)
                assert header.file.is_block_device
                stamp = images.stamp(path)
                assert stamp is not None and stamp.is_silent
                assert "not a regular file" in str(images.fence_obstacle(path, RUN))
            overlay = self.overlay(
                world, images, Image(device, "qcow2", header.file, MIB)
            )
            assert not overlay.file.is_block_device
            folder = os.path.dirname(overlay.path)
            found = based_on(images, header.file, [folder, "/dev"])
            assert found == (overlay.path,)
            asyncio.run(images.sync([device, raw]))

            free, place = asyncio.run(images.free_bytes(device, "qcow2"))
            assert place == number
            end = 4 * MIB - free
            assert 4 * CLUSTER <= end < 5 * CLUSTER
            assert asyncio.run(images.free_bytes(raw, "raw"))[0] == 0
            with qemu_io(node):
                assert asyncio.run(images.users(device))
                assert asyncio.run(images.free_bytes(device, "qcow2"))[0] == free
            assert asyncio.run(images.users(device)) == ()

    def test_device_that_is_mounted_is_in_use(
        self, images: Images, tmp_path: Path
    ) -> None:
        with loop_devices(tmp_path, 4 * MIB) as (device,):
            run("mkfs.ext4", "-q", device)
            place = tmp_path / "place"
            place.mkdir()
            run("mount", device, str(place))
            try:
                (user,) = asyncio.run(images.users(device))
            finally:
                run("umount", str(place))
            assert user.what == f"it is mounted on {place}"
            assert asyncio.run(images.users(device)) == ()

    def test_corrupt_image_is_a_verdict(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        world.write(base.path, 0, CLUSTER)
        with open(base.path, "r+b") as file:
            # The refcount of the first clusters: in use, but counted as free.
            file.seek(2 * CLUSTER)
            file.write(bytes(8))

        verdict = asyncio.run(images.check(base.path, "qcow2"))

        assert verdict is not None
        assert "ERROR" in verdict

    def test_leaks_are_sound(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        with open(base.path, "r+b") as file:
            file.seek(2 * CLUSTER + 2 * 20)
            file.write(struct.pack(">H", 1))

        assert asyncio.run(images.check(base.path, "qcow2")) is None

    def test_bitmaps_snapshots_and_corrupt_mark(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        run("qemu-img", "bitmap", "--add", base.path, "backup")
        run("qemu-img", "snapshot", "-c", "inside", base.path)
        with open(base.path, "r+b") as file:
            file.seek(72)
            file.write(struct.pack(">Q", 2))

        header = asyncio.run(images.header(base.path, "qcow2"))

        assert header.bitmaps == (Bitmap("backup", 64 << 10, True),)
        assert header.internal_snapshots == ("inside",)
        assert header.corrupt

    def test_external_data_file_is_told_and_never_opened(
        self, world: World, images: Images
    ) -> None:
        path, data = str(world.folder / "x.qcow2"), str(world.folder / "data")
        option = f"data_file={data}"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", option, path, "1M")
        os.unlink(data)
        os.mkfifo(data)

        header = asyncio.run(images.header(path, "qcow2"))

        assert header.data_file == data
        for call in (images.extents, images.check, images.is_empty):
            with pytest.raises(CommandFailed, match="external data file"):
                asyncio.run(call(path, "qcow2"))

    def test_data_file_beside_its_image(self, world: World, images: Images) -> None:
        path, data = str(world.folder / "x.qcow2"), str(world.folder / "x.data")
        with_data(path, data)
        run("qemu-io", "-f", "qcow2", "-c", f"write 0 {2 * CLUSTER}", path)

        header = asyncio.run(images.header(path, "qcow2"))
        file = images.identify(data)
        assert file is not None
        assert (header.data_file, header.data) == (data, DataFile(data, file))
        extents = asyncio.run(images.extents(path, "qcow2"))
        found = [(e.start, e.length, e.allocated, e.data) for e in extents]
        assert found[0] == (0, 2 * CLUSTER, True, True)
        assert not any(data for _, _, _, data in found[1:])
        assert asyncio.run(images.check(path, "qcow2")) is None
        assert asyncio.run(images.free_bytes(path, "qcow2"))[0] > 0
        folder = [str(world.folder)]
        assert based_on(images, file, folder) == (path,)

        image = Image(path, "qcow2", header.file, MIB, header.data)
        below = world.base("below.qcow2")
        option = f"data_file={data}"
        link = ["-b", below.path, "-F", "qcow2"]
        run("qemu-img", "create", "-q", "-f", "qcow2", "-o", option, *link, path)
        image = replace(image, file=FileId(image.file.device, os.stat(path).st_ino))
        asyncio.run(images.relink(image, "below.qcow2", "qcow2"))
        assert asyncio.run(images.header(path, "qcow2")).data_file == data

    @pytest.mark.parametrize(
        "how", ["relative", "elsewhere", "link", "second name", "owner", "missing"]
    )
    def test_data_file_that_is_not_trusted(
        self, world: World, images: Images, how: str
    ) -> None:
        path, data = world.folder / "x.qcow2", world.folder / "x.data"
        away = world.folder / "away"
        away.mkdir()
        if how == "elsewhere":
            data = away / "x.data"
        with_data(str(path), str(data))
        match how:
            case "relative":
                name = os.fsencode(data)
                text = path.read_bytes()
                short = os.fsencode("./" + "/" * (len(name) - 8) + "x.data")
                path.write_bytes(text.replace(name, short))
            case "link":
                data.rename(away / "x.data")
                data.symlink_to(away / "x.data")
            case "second name":
                os.link(data, away / "second")
            case "owner":
                os.chown(data, 12345, -1)
            case "missing":
                data.unlink()

        header = asyncio.run(images.header(str(path), "qcow2"))
        assert header.data_file is not None and header.data is None
        for call in (images.extents, images.check):
            with pytest.raises(CommandFailed, match=r"x\.data"):
                asyncio.run(call(str(path), "qcow2"))

    def test_pipes_and_devices_are_refused_without_waiting(
        self, world: World, images: Images
    ) -> None:
        pipe = str(world.folder / "pipe")
        os.mkfifo(pipe)

        for path in (pipe, "/dev/zero", str(world.folder)):
            for format in ("raw", "qcow2"):
                with pytest.raises(CommandFailed):
                    asyncio.run(images.header(path, format))

    @pytest.mark.parametrize("format", ["vvfat", "", "qcow2,x=y", "nbd"])
    def test_other_formats_are_refused(
        self, world: World, images: Images, format: str
    ) -> None:
        base = world.base("base.qcow2")

        with pytest.raises(CommandFailed):
            asyncio.run(images.header(base.path, format))

    def test_name_that_is_not_utf8(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        name = os.fsdecode(os.fsencode(world.folder) + b"/\xff.qcow2")
        os.rename(base.path, name)

        with pytest.raises(CommandFailed, match="not UTF-8"):
            asyncio.run(images.header(name, "qcow2"))

    def test_missing_program_names_the_package(self, world: World) -> None:
        base = world.base("base.qcow2")
        images = QemuImages(QemuImg("/nowhere/qemu-img"))

        with pytest.raises(CommandFailed) as caught:
            asyncio.run(images.header(base.path, "qcow2"))

        assert "qemu-utils" in caught.value.remedy

    def test_program_that_hangs(self, world: World, tmp_path: Path) -> None:
        base = world.base("base.qcow2")
        program = tmp_path / "slow"
        program.write_text("#!/bin/sh\nexec sleep 1000\n")
        program.chmod(0o755)
        slow = QemuImg(str(program), seconds=0.05, long_seconds=0.05)

        for call in (QemuImages(slow).header, QemuImages(slow).extents):
            with pytest.raises(CommandFailed, match=r"within 0\.05 s"):
                asyncio.run(call(base.path, "qcow2"))
        with pytest.raises(OutcomeUnknown):
            asyncio.run(slow.rebase(base, "x", "raw"))

    @pytest.mark.parametrize("answer", ["", "[]", "{}", "[{}]", "null", "[1]", "1"])
    def test_program_that_answers_nonsense(
        self, world: World, tmp_path: Path, answer: str
    ) -> None:
        base = world.base("base.qcow2")
        program = tmp_path / "odd"
        program.write_text(f"#!/bin/sh\necho '{answer}'\n")
        program.chmod(0o755)
        images = QemuImages(QemuImg(str(program)))

        with pytest.raises(CommandFailed, match="unexpected"):
            asyncio.run(images.header(base.path, "qcow2"))

    def test_overlay_where_every_file_has_a_name(
        self, world: World, images: Images, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = world.base("base.qcow2")
        real_open = os.open

        def no_tmpfile(path: str, flags: int, *rest: int, dir_fd: int | None = None):  # type: ignore[no-untyped-def]
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no")
            return real_open(path, flags, *rest, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", no_tmpfile)
        (world.folder / "overlay.qcow2.backfold-new").write_bytes(b"left over")
        self.overlay(world, images, base)

        assert sorted(os.listdir(world.folder)) == ["base.qcow2", "overlay.qcow2"]

    @pytest.mark.parametrize("error", [errno.EINVAL, errno.ENOSYS])
    def test_rename_where_the_file_system_cannot(
        self,
        world: World,
        images: Images,
        monkeypatch: pytest.MonkeyPatch,
        error: int,
    ) -> None:
        monkeypatch.setattr(files, "_renameat2", lambda *_: error)
        self.test_rename_never_replaces(world, images)
        self.test_rename_to_its_own_name_keeps_the_file(world, images)
        base = world.base("third.qcow2")
        fence = images.fence_name(base.path, RUN)

        asyncio.run(images.rename(base.path, fence, base.file))

        assert images.identify(fence) == base.file
        assert images.identify(base.path) is None

    def test_rename_that_was_killed_between_two_names(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        fence = images.fence_name(base.path, RUN)
        os.link(base.path, fence)

        asyncio.run(images.rename(base.path, fence, base.file))

        assert os.listdir(world.folder) == [os.path.basename(fence)]
        assert images.identify(fence) == base.file

    def test_directory_is_synced_even_when_it_is_renamed_already(
        self, world: World, images: Images, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = world.base("base.qcow2")
        fence = images.fence_name(base.path, RUN)
        os.rename(base.path, fence)
        synced = watch_fsync(monkeypatch)

        asyncio.run(images.rename(base.path, fence, base.file))

        assert os.stat(world.folder).st_ino in synced

    def test_overlay_and_its_directory_are_synced(
        self, world: World, images: Images, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = watch_fsync(monkeypatch)

        top = self.overlay(world, images, world.base("base.qcow2"))

        assert synced == [top.file.inode, os.stat(world.folder).st_ino]

    def test_rename_that_cannot_be_made_durable_is_unknown(
        self, world: World, images: Images, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = world.base("base.qcow2")
        fence = images.fence_name(base.path, RUN)

        def fail(_: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fsync", fail)

        with pytest.raises(OutcomeUnknown):
            asyncio.run(images.rename(base.path, fence, base.file))
        with pytest.raises(CommandFailed):
            asyncio.run(images.sync([fence]))

    def test_left_over_probe_is_removed(self, world: World, images: Images) -> None:
        base = world.base("base.qcow2")
        for probe in files.PROBES:
            Path(f"{base.path}{probe}{RUN}").touch()

        asyncio.run(images.probe_fence(base.path, RUN))

        assert os.listdir(world.folder) == ["base.qcow2"]

    def test_probe_has_the_length_of_the_fence_and_is_none(
        self, world: World, images: Images
    ) -> None:
        base = world.base("base.qcow2")
        fence = images.fence_name(base.path, RUN)

        for probe in files.PROBES:
            assert len(f"{base.path}{probe}{RUN}") == len(fence)
            assert not files.FENCED.search(f"{base.path}{probe}{RUN}")

    def test_unlink_while_qemu_img_reads(self, world: World, images: Images) -> None:
        base = world.base(f"base.qcow2.backfold-{RUN}")

        # Like qemu-img -U, but it is no qemu-img: it counts.
        with qemu_io(base.path, "-U", "-r"), pytest.raises(CommandFailed):
            asyncio.run(images.unlink(base.path, base.file))

        assert images.identify(base.path) == base.file

    def test_reader_that_is_no_user_does_not_keep_a_fence(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = world.base(f"base.qcow2.backfold-{RUN}")
        images = QemuImages()

        async def nobody(_: str) -> tuple[()]:
            return ()

        monkeypatch.setattr(images, "users", nobody)
        with qemu_io(base.path, "-r"), pytest.raises(CommandFailed):
            asyncio.run(images.unlink(base.path, base.file))
        with qemu_io(base.path, "-r", "-U"):
            asyncio.run(images.unlink(base.path, base.file))

        assert images.identify(base.path) is None

    def test_cancelled_command_is_killed(self, world: World, tmp_path: Path) -> None:
        base = world.base("base.qcow2")
        started = tmp_path / "started"
        os.mkfifo(started)
        program = tmp_path / "slow"
        program.write_text(f"#!/bin/sh\necho $$ >'{started}'\nexec sleep 1000\n")
        program.chmod(0o755)
        images = QemuImages(QemuImg(str(program)))

        async def scenario() -> int:
            task = asyncio.ensure_future(images.header(base.path, "qcow2"))
            pid = int(await asyncio.to_thread(started.read_text))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return pid

        pid = asyncio.run(scenario())

        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    def test_cancelled_rename_has_ended_when_it_raises(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        base = world.base("base.qcow2")
        images = QemuImages()
        fence = images.fence_name(base.path, RUN)

        async def scenario() -> None:
            loop = asyncio.get_running_loop()
            task = asyncio.ensure_future(images.rename(base.path, fence, base.file))
            real = files.rename

            def cancelled_midway(*arguments: str) -> None:
                loop.call_soon_threadsafe(task.cancel)
                real(*arguments)  # type: ignore[arg-type]

            monkeypatch.setattr(files, "rename", cancelled_midway)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert images.identify(fence) == base.file

        asyncio.run(scenario())


def watch_fsync(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The inodes that are flushed from now on."""
    synced: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return synced


@pytest.mark.parametrize(
    ("backing", "expected"),
    [
        ("base.qcow2", "/d/base.qcow2"),
        ("./a:b", "/d/./a:b"),
        ("sub/a:b", "/d/sub/a:b"),
        ("/abs/a:b", "/abs/a:b"),
        ("file:/abs", "/abs"),
        ("file:relative", None),
        ("a:b", None),
        ("nbd://host/x", None),
        ("json:{}", None),
        ("fd:3", None),
    ],
)
def test_backing_names_as_qemu_reads_them(backing: str, expected: str | None) -> None:
    assert resolve_backing("/d/top.qcow2", backing) == expected
