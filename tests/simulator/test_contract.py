"""Simulated QEMU and files pass the contracts that the real adapters pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from backfold.journal.model import FileId, FileStamp, Image, OverlayPlan
from backfold.states.ports import HelperRecord, Hypervisor, Images, Session
from contract.qemu_world import BLOCK, SIZE, QemuWorld
from contract.test_bitmaps_contract import BitmapsContract
from contract.test_folds_contract import FoldsContract
from contract.test_hypervisor_contract import HypervisorContract
from contract.test_images_contract import ImagesContract
from simulator.bitmaps import Dirt
from simulator.files import CLUSTER, Header
from simulator.hypervisor import SimHypervisor, SimSession
from simulator.images import SimImages
from simulator.life import Life, Quiet
from simulator.world import World, new_image


class ContractWorld:
    """Images and machines as `QemuWorld` makes them, in a simulated host."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets = folder
        self._world = World()
        self._domains = 0

    def hypervisor(self) -> Hypervisor:
        return SimHypervisor(self._world, Life(Quiet()))

    def chain(self, *names: str, format: str = "qcow2") -> list[Image]:
        images: list[Image] = []
        for depth, name in enumerate(names):
            path, kind = str(self.folder / name), "qcow2" if images else format
            if images:
                self._overlay(path, images[-1])
            else:
                new_image(self._world, path, kind, SIZE)
            image = Image(path, kind, self.file_id(path), SIZE)
            for block in range(2 * depth, 2 * depth + 3):
                file = self._world.files.file(path)
                assert file is not None
                file.clusters[block] = 10 + depth
            images.append(image)
        return images[::-1]

    def write_block(self, image: Image, block: int) -> None:
        file = self._world.files.file(image.path)
        assert file is not None
        file.clusters[block] = 99
        for dirt in file.bitmaps.values():
            if dirt.recording:
                dirt.clusters.add(block)

    def add_bitmap(self, image: Image, name: str, *, recording: bool = True) -> None:
        file = self._world.files.file(image.path)
        assert file is not None
        file.bitmaps[name] = Dirt(recording)

    def content(self, image: Image) -> bytes:
        found = self._world.content(image.path, SIZE // BLOCK)
        assert found is not None
        return bytes(found[block] for block in range(SIZE // BLOCK))

    def link(self, image: Image) -> str | None:
        file = self._world.files.file(image.path)
        assert file is not None and file.header is not None
        return file.header.backing

    def relink(self, image: Image, below: Image) -> None:
        file = self._world.files.file(image.path)
        assert file is not None
        file.header = Header(SIZE, below.path, below.format)

    def remove(self, path: str) -> None:
        self._world.files.unlink(path)

    def file_id(self, path: str) -> FileId:
        found = self._world.file_id(path)
        assert found is not None
        return found

    def overlay(self, image: Image) -> OverlayPlan:
        path = f"{image.path}.s1"
        self._overlay(path, image)
        return OverlayPlan("vda", image, path, image.path, FileStamp(0, 0))

    def domain(self, *disks: Sequence[Image]) -> str:
        self._domains += 1
        qemu = self._world.spawn(f"/run/{self._domains}.sock", helper=False)
        for number, chain in enumerate(disks):
            root = self._world.open(qemu, chain[0].path, chain[0].format, writable=True)
            assert root is not None
            qemu.devices[f"d{number}"] = root
        return qemu.monitor

    def kill(self, record: HelperRecord) -> None:
        self._world.kill(self._world.qemus[record.pid])

    async def soft_cancel(self, session: Session, job: str) -> None:
        assert isinstance(session, SimSession)
        session._qemu.complete(job, soft_cancel=True)

    def stop_machines(self) -> None:
        for qemu in list(self._world.qemus.values()):
            self._world.kill(qemu)

    # What a contract of images needs besides.

    def base(self, name: str, format: str = "qcow2", size: int = 16 * CLUSTER) -> Image:
        path = str(self.folder / name)
        new_image(self._world, path, format, size)
        return Image(path, format, self.file_id(path), size)

    def write(self, path: str, start: int, length: int, zeroes: bool = False) -> None:
        file = self._world.files.file(path)
        assert file is not None
        for cluster in range(start // CLUSTER, (start + length) // CLUSTER):
            file.clusters[cluster] = 0 if zeroes else 7

    @contextmanager
    def busy(self, path: str) -> Iterator[int | None]:
        file = self._world.files.file(path)
        assert file is not None
        qemu = self._world.spawn("/run/somebody.sock", helper=False)
        assert self._world.open(qemu, path, file.format, writable=True)
        yield qemu.pid
        self._world.kill(qemu)

    def images(self) -> Images:
        return SimImages(self._world, Life(Quiet()))

    def _overlay(self, path: str, below: Image) -> None:
        header = Header(SIZE, below.path, below.format)
        self._world.files.create(path, "qcow2", header, self._world.now).sync()
        self._world.files.sync_names()


class TestSimHypervisor(HypervisorContract):
    """All of it, but for what is about sockets and about waiting in real time."""

    # A stale socket is a file of the real host.
    test_nobody_listens = None  # type: ignore[assignment]
    # Nobody waits here: a moment passes, and the next call looks.
    test_every_call_notices_that_qemu_died = None  # type: ignore[assignment]
    test_wait_wakes_at_an_event = None  # type: ignore[assignment]

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        yield cast(QemuWorld, ContractWorld(tmp_path))


class TestSimFolds(FoldsContract):
    """All of it."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        yield cast(QemuWorld, ContractWorld(tmp_path))


class TestSimBitmaps(BitmapsContract):
    """All of it."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        yield cast(QemuWorld, ContractWorld(tmp_path))

    @pytest.fixture
    def images(self, world: QemuWorld) -> Images:
        return cast(ContractWorld, world).images()


class TestSimImages(ImagesContract):
    """What is about names, identities, links and locks.

    Not what is about the bytes of damaged headers, symbolic and hard links, owners,
    and characters in names: there are none of these in a simulated host.
    """

    test_header_without_the_image_below = None  # type: ignore[assignment]
    test_no_character_of_a_name_means_anything = None  # type: ignore[assignment]
    test_damage_is_an_error_of_ours = None  # type: ignore[assignment]
    test_overlay_is_like_the_image_below = None  # type: ignore[assignment]
    test_overlay_replaces_nothing = None  # type: ignore[assignment]
    test_failed_overlay_leaves_nothing = None  # type: ignore[assignment]
    test_identity_and_stamp_follow_links = None  # type: ignore[assignment]
    test_fence_lies_beside_the_real_file = None  # type: ignore[assignment]
    test_nothing_is_in_the_way_of_a_fence = None  # type: ignore[assignment]
    test_hard_link_is_in_the_way = None  # type: ignore[assignment]
    test_long_name_is_in_the_way = None  # type: ignore[assignment]
    test_other_things_are_in_the_way = None  # type: ignore[assignment]
    test_rename_to_its_own_name_keeps_the_file = None  # type: ignore[assignment]
    test_unlink_of_another_file_is_refused = None  # type: ignore[assignment]
    test_dependents_by_relative_link_and_linked_folder = None  # type: ignore[assignment]
    test_dependents_through_links_to_files = None  # type: ignore[assignment]
    test_dependents_pass_over_what_is_no_overlay = None  # type: ignore[assignment]
    test_dependents_by_json = None  # type: ignore[assignment]

    @pytest.fixture
    def world(self, tmp_path: Path) -> ContractWorld:
        return ContractWorld(tmp_path)

    @pytest.fixture
    def images(self, world: ContractWorld) -> Images:
        return world.images()
