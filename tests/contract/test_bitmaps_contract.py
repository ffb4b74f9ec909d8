"""Dirty bitmaps: what every `Session` and `Images` must do with them.

Blocks are of 64 KiB, as the bitmaps are. A chain's image at depth d from the bottom
holds the blocks 2d to 2d+2 before any bitmap is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfold.engine.images import QemuImages
from backfold.journal.errors import CommandFailed
from backfold.journal.model import Image
from backfold.states.ports import (
    Hypervisor,
    ImageHeader,
    Images,
    LiveImage,
    MergedBitmap,
    Session,
)
from contract.qemu_world import (
    BLOCK,
    QemuWorld,
    closing_world,
    fold_plan,
    only_chain,
    reach,
)
from contract.test_hypervisor_contract import JOB, attached, new_helper, opened


async def seen(session: Session, image: LiveImage) -> dict[str, tuple[int, bool, bool]]:
    """Name to dirty blocks, whether it records, whether it is inconsistent."""
    (bitmaps,) = await session.bitmaps([image])
    return {
        one.name: (one.dirty // BLOCK, one.recording, one.inconsistent)
        for one in bitmaps
    }


def to_be(
    image: LiveImage,
    name: str,
    *parts: tuple[LiveImage, str],
    recording: bool = False,
    persistent: bool = True,
    anew: bool = False,
) -> MergedBitmap:
    return MergedBitmap(image, name, BLOCK, recording, persistent, parts, anew)


class BitmapsContract:
    """The contract. A subclass says which world it runs in."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        raise NotImplementedError

    @pytest.fixture
    def images(self, world: QemuWorld) -> Images:
        raise NotImplementedError

    @pytest.fixture
    def hypervisor(self, world: QemuWorld) -> Hypervisor:
        return world.hypervisor()

    def test_active_fold_carries_exactly_what_was_written(
        self, hypervisor: Hypervisor, world: QemuWorld, images: Images
    ) -> None:
        """One bitmap in both images and one in the top; twice, after a step back.

        The top holds more than its bitmaps have noted, and what the job copies is
        noted by the base's: neither must be in the result.
        """

        async def scenario() -> None:
            chain = world.chain("B", "O")
            for image in chain:
                world.add_bitmap(image, "both")
            world.add_bitmap(chain[0], "upper")
            world.write_block(chain[0], 10)
            world.write_block(chain[1], 20)
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                top, base = live.images
                assert await seen(session, top) == {
                    "both": (1, True, False),
                    "upper": (1, True, False),
                }
                before = to_be(base, "before", (base, "both"), persistent=False)
                await session.merge_bitmaps([before])
                await session.start(fold_plan(chain, *chain), live, None)
                await reach(session, JOB, "ready")
                await session.complete(JOB)
                await reach(session, JOB, "pending")
                assert (await seen(session, base))["both"][0] > 2
                parts = (base, "before"), (top, "both")
                carried = [
                    to_be(base, "both", *parts, recording=True, anew=True),
                    to_be(base, "upper", (top, "upper"), recording=True),
                ]
                await session.merge_bitmaps(carried)
                back = to_be(base, "both", parts[0], recording=True, anew=True)
                await session.merge_bitmaps([back])
                await session.remove_bitmaps(base, ["upper", "unknown"])
                assert await seen(session, base) == {
                    "both": (1, True, False),
                    "before": (1, False, False),
                }
                for _ in range(2):
                    await session.merge_bitmaps(carried)
                await session.finalize(JOB)
                await reach(session, JOB, "concluded")
                await session.dismiss(JOB)
                await session.drop([top])
                await session.remove_bitmaps(base, ["before"])
                await session.quit()
            assert stored(await images.header(chain[1].path, "qcow2")) == {
                "both": (True, False),
                "upper": (True, False),
            }
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain[1:])
                assert await seen(session, live.images[0]) == {
                    "both": (2, True, False),
                    "upper": (1, True, False),
                }

        asyncio.run(scenario())

    def test_what_a_job_copies_is_noted_by_a_bitmap_of_a_read_only_base(
        self, hypervisor: Hypervisor, world: QemuWorld, images: Images
    ) -> None:
        """An intermediate fold in a domain, whose result is stored at its end."""

        async def scenario() -> None:
            chain = world.chain("B", "M", "O", "D")
            world.add_bitmap(chain[2], "middle")
            monitor = world.domain(chain)
            async with attached(hypervisor, monitor) as session:
                live = await only_chain(session)
                _, _, middle, base = live.images
                copied = to_be(base, "copied", recording=True, persistent=False)
                await session.merge_bitmaps([copied])
                plan = fold_plan(chain, chain[1], chain[3])
                await session.start(plan, live, None)
                await reach(session, JOB, "pending")
                parts = (base, "copied"), (middle, "middle")
                carried = to_be(base, "middle", *parts, recording=True)
                await session.merge_bitmaps([carried])
                # M and O hold the blocks 2 to 6.
                assert await seen(session, base) == {
                    "copied": (5, True, False),
                    "middle": (5, True, False),
                }
                await session.flush(base)
                await session.finalize(JOB)
                await reach(session, JOB, "concluded")
                await session.dismiss(JOB)
                await session.drop(live.images[1:3])
                await session.remove_bitmaps(base, ["copied"])
                assert stored(await images.header(chain[3].path, "qcow2")) == {
                    "middle": (True, False)
                }

        asyncio.run(scenario())

    def test_what_a_stream_copies_is_noted_by_nobody(
        self, hypervisor: Hypervisor, world: QemuWorld, images: Images
    ) -> None:
        """Merged meanwhile, it is exact; and a stream that has ended harms nobody."""

        async def scenario() -> None:
            chain = world.chain("B", "F", "D")
            for image in chain[:2]:
                world.add_bitmap(image, "both")
            world.write_block(chain[0], 10)
            world.write_block(chain[1], 20)
            plan = fold_plan(chain, chain[0], chain[1], strategy="stream")
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, chain[0])
                top, frozen, _ = live.images
                await session.start(plan, live, None)
                await reach(session, JOB, "pending")
                assert await seen(session, top) == {"both": (1, True, False)}
                await session.merge_bitmaps(
                    [to_be(top, "both", (frozen, "both"), recording=True)]
                )
                await session.flush(top)
                await session.finalize(JOB)
                assert await seen(session, top) == {"both": (2, True, False)}
                await session.quit()
            assert stored(await images.header(chain[0].path, "qcow2")) == {
                "both": (True, False)
            }

        asyncio.run(scenario())

    def test_bitmaps_are_changed_all_or_none(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B")
            world.add_bitmap(chain[0], "kept")
            world.write_block(chain[0], 10)
            async with new_helper(hypervisor) as (_, session):
                (image,) = (await opened(session, chain, *chain)).images
                before = await session.bitmaps([image])
                with pytest.raises(CommandFailed):
                    await session.merge_bitmaps(
                        [
                            to_be(image, "new"),
                            to_be(image, "kept", anew=True),
                            to_be(image, "other", (image, "missing")),
                        ]
                    )
                assert await session.bitmaps([image]) == before

        asyncio.run(scenario())

    def test_bitmaps_of_a_killed_qemu_are_inconsistent(
        self, hypervisor: Hypervisor, world: QemuWorld, images: Images
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O")
            for image in chain:
                world.add_bitmap(image, "both")
            async with new_helper(hypervisor) as (record, session):
                await opened(session, chain, chain[0])
                world.kill(record)
            assert stored(await images.header(chain[0].path, "qcow2")) == {
                "both": (False, True)
            }
            assert stored(await images.header(chain[1].path, "qcow2")) == {
                "both": (True, False)
            }
            async with new_helper(hypervisor) as (_, session):
                top, base = (await opened(session, chain, *chain)).images
                assert await seen(session, top) == {"both": (0, False, True)}
                with pytest.raises(CommandFailed):
                    await session.merge_bitmaps([to_be(base, "both", (top, "both"))])

        asyncio.run(scenario())

    def test_recording_bitmaps_go_on_in_the_overlay_of_a_domain(
        self, hypervisor: Hypervisor, world: QemuWorld, images: Images
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B")
            add_bitmaps_for_a_snapshot(world, chain[0])
            monitor = world.domain(chain)
            async with attached(hypervisor, monitor) as session:
                (base,) = (await only_chain(session)).images
                plan = world.overlay(chain[0])
                await session.switch_to_overlays([(plan, base)])
                overlay, base = (await only_chain(session)).images
                assert await seen(session, overlay) == {"nightly": (1, True, False)}
                assert (await seen(session, base))["nightly"][0] == 1
            # The frozen image is closed to all writes, with its bitmaps.
            assert stored(await images.header(chain[0].path, "qcow2")) == {
                "nightly": (True, False),
                "closed": (False, False),
            }

        asyncio.run(scenario())

    def test_recording_bitmaps_go_on_in_the_overlay_of_a_domain_that_is_off(
        self, hypervisor: Hypervisor, world: QemuWorld, images: Images
    ) -> None:
        async def scenario() -> None:
            (base,) = world.chain("B")
            add_bitmaps_for_a_snapshot(world, base)
            plan = world.overlay(base)
            for _ in range(2):
                await images.continue_bitmaps(plan)
                assert await images.is_empty(plan.overlay, "qcow2")
            file = world.file_id(plan.overlay)
            overlay = Image(plan.overlay, "qcow2", file, base.virtual_size)
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, [overlay, base])
                assert await seen(session, live.images[0]) == {
                    "nightly": (1, True, False)
                }

        asyncio.run(scenario())


def add_bitmaps_for_a_snapshot(world: QemuWorld, image: Image) -> None:
    """One that is recording and has noted a block, and one that has ended."""
    world.add_bitmap(image, "nightly")
    world.write_block(image, 10)
    world.add_bitmap(image, "closed", recording=False)


def stored(header: ImageHeader) -> dict[str, tuple[bool, bool]]:
    """Name to whether it records and whether it is inconsistent, by the header."""
    return {one.name: (one.recording, one.inconsistent) for one in header.bitmaps}


class TestQemuBitmaps(BitmapsContract):
    """On real QEMU."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        with closing_world(tmp_path) as world:
            yield world

    @pytest.fixture
    def images(self, world: QemuWorld) -> Images:
        return QemuImages()
