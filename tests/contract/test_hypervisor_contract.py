"""What every `Hypervisor` and its `Session`s must do, and what only QEMU's can do."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import os
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from backfold.engine import helper, helper_process
from backfold.engine.helper import QemuHypervisor
from backfold.engine.qmp import monitor as qmp_monitor
from backfold.engine.qmp.monitor import Monitor
from backfold.journal.errors import (
    CommandFailed,
    Disconnected,
    MonitorBusy,
    OutcomeUnknown,
)
from backfold.journal.model import FoldPlan, Image
from backfold.states.ports import HelperRecord, Hypervisor, LiveChain, Session
from contract.qemu_world import (
    SIZE,
    QemuWorld,
    closing_world,
    drive,
    file_id,
    files,
    fold_plan,
    only_chain,
    raw,
    reach,
    run,
)

JOB = "backfold-test-0"


@contextlib.asynccontextmanager
async def new_helper(
    hypervisor: Hypervisor,
) -> AsyncIterator[tuple[HelperRecord, Session]]:
    """A helper and a session with it; both are gone afterwards."""
    path = hypervisor.helper_socket("test")
    record: HelperRecord | None = None
    session: Session | None = None
    try:
        record = await hypervisor.start_helper(path)
        session = await hypervisor.attach_helper(record)
        assert session is not None
        yield record, session
    finally:
        if session is not None:
            await session.close()
        await hypervisor.end_helper(path, record)


@contextlib.asynccontextmanager
async def attached(hypervisor: Hypervisor, monitor: str) -> AsyncIterator[Session]:
    session = await hypervisor.attach(monitor)
    assert session is not None
    try:
        yield session
    finally:
        await session.close()


async def opened(
    session: Session, chain: Sequence[Image], *writable: Image
) -> LiveChain:
    paths = frozenset(image.path for image in writable)
    root = await session.open_chain(chain, paths)
    found = await only_chain(session)

    assert found.root == root
    return found


class HypervisorContract:
    """The contract. A subclass says which world it runs in.

    `simulator.test_contract` runs it on the simulated QEMU.
    """

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        raise NotImplementedError

    @pytest.fixture
    def hypervisor(self, world: QemuWorld) -> Hypervisor:
        return world.hypervisor()

    # --- helpers come and go

    def test_helper_starts_attaches_and_ends(self, hypervisor: Hypervisor) -> None:
        async def scenario() -> None:
            path = hypervisor.helper_socket("test")
            record = await hypervisor.start_helper(path)
            session = await hypervisor.attach_helper(record)
            assert session is not None
            assert session.is_helper
            assert await session.run_state() == "prelaunch"
            assert await session.chains({}) == ()
            assert await session.jobs() == {}
            assert await session.exports() == frozenset()
            await session.close()
            await hypervisor.end_helper(path, record)
            assert await hypervisor.attach_helper(record) is None
            await hypervisor.end_helper(path, record)

        asyncio.run(scenario())

    def test_every_helper_gets_a_socket_of_its_own(
        self, hypervisor: Hypervisor
    ) -> None:
        assert hypervisor.helper_socket("test") != hypervisor.helper_socket("test")

    def test_helper_can_quit(self, hypervisor: Hypervisor) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (record, session):
                await session.quit()
                assert await hypervisor.attach_helper(record) is None

        asyncio.run(scenario())

    def test_helper_without_a_record_is_found_by_its_socket(
        self, hypervisor: Hypervisor
    ) -> None:
        async def scenario() -> None:
            path = hypervisor.helper_socket("test")
            record = await hypervisor.start_helper(path)
            await hypervisor.end_helper(path, None)
            assert await hypervisor.attach_helper(record) is None

        asyncio.run(scenario())

    def test_helper_that_was_never_started_is_ended_already(
        self, hypervisor: Hypervisor
    ) -> None:
        asyncio.run(hypervisor.end_helper(hypervisor.helper_socket("test"), None))

    @pytest.mark.parametrize(
        "change",
        [{"start_time": 1.0}, {"boot_id": "another boot"}, {"socket": "/other.sock"}],
    )
    def test_another_process_with_the_same_pid_is_no_helper(
        self, hypervisor: Hypervisor, change: dict[str, object]
    ) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (record, session):
                await session.close()
                other = dataclasses.replace(record, **change)  # type: ignore[arg-type]
                assert await hypervisor.attach_helper(other) is None
                await hypervisor.end_helper("/nowhere/else.sock", other)
                again = await hypervisor.attach_helper(record)
                assert again is not None
                await again.close()

        asyncio.run(scenario())

    def test_nobody_listens(self, hypervisor: Hypervisor, world: QemuWorld) -> None:
        stale = world.sockets / "stale.sock"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(stale))

        assert asyncio.run(hypervisor.attach(str(stale))) is None
        assert asyncio.run(hypervisor.attach(str(world.sockets / "none.sock"))) is None
        assert asyncio.run(hypervisor.attach("/no/such/folder/x.sock")) is None

    def test_monitor_serves_one_at_a_time(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            monitor = world.domain(world.chain("B"))
            async with attached(hypervisor, monitor):
                with pytest.raises(MonitorBusy):
                    await hypervisor.attach(monitor)
            async with attached(hypervisor, monitor) as session:
                assert not session.is_helper
                assert await session.run_state() == "prelaunch"

        asyncio.run(scenario())

    def test_process_is_the_same_for_every_connection_and_never_again(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            names = []
            monitor = world.domain(world.chain("B"))
            for _ in range(2):
                async with attached(hypervisor, monitor) as session:
                    names.append(session.process)
            assert names[0] is not None and names[0] == names[1]
            for _ in range(2):
                async with new_helper(hypervisor) as (record, session):
                    names.append(session.process)
                    assert session.process == (
                        f"{record.boot_id}:{record.pid}@{record.start_time}"
                    )
            assert len(set(names)) == 3

        asyncio.run(scenario())

    def test_every_call_notices_that_qemu_died(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (record, session):
                began = time.monotonic()
                waiting = asyncio.create_task(session.wait(20))
                await asyncio.sleep(0)
                world.kill(record)
                with pytest.raises(Disconnected):
                    await waiting
                assert time.monotonic() - began < 5
                for call in (session.jobs, session.run_state, session.stop):
                    with pytest.raises(Disconnected):
                        await call()
                with pytest.raises(Disconnected):
                    await session.wait(1)
                assert await hypervisor.attach_helper(record) is None

        asyncio.run(scenario())

    # --- opening images

    def test_open_chain_is_what_was_asked_for_and_idempotent(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1", "O2")
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain)
                assert [i.filename for i in live.images] == [i.path for i in chain]
                assert files(live) == [i.file for i in chain]
                assert [i.format for i in live.images] == ["qcow2"] * 3
                assert all(image.read_only for image in live.images)
                again = await opened(session, chain, chain[0])
                assert again.root == live.root
                assert [i.read_only for i in again.images] == [False, True, True]

        asyncio.run(scenario())

    def test_raw_base(self, hypervisor: Hypervisor, world: QemuWorld) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1", format="raw")
            before = world.content(chain[0])
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                assert [i.format for i in live.images] == ["qcow2", "raw"]
                await session.start(fold_plan(chain, *chain), live, None)
                await reach(session, JOB, "ready")
                await session.complete(JOB)
                await reach(session, JOB, "pending")
                await session.flush(live.images[1])
                await session.finalize(JOB)
                await reach(session, JOB, "concluded")
            assert world.content(chain[1]) == before

        asyncio.run(scenario())

    def test_open_chain_refuses_another_file(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            other = dataclasses.replace(chain[1], file=file_id(world.folder))
            async with new_helper(hypervisor) as (_, session):
                with pytest.raises(CommandFailed):
                    await session.open_chain([chain[0], other], frozenset())

        asyncio.run(scenario())

    def test_open_chain_says_which_image_is_missing(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            world.remove(chain[1].path)
            async with new_helper(hypervisor) as (_, session):
                with pytest.raises(CommandFailed, match=chain[1].path):
                    await session.open_chain(chain, frozenset())

        asyncio.run(scenario())

    def test_images_turn_writable_and_back(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, world.chain("B", "O1"))
                for writable in (True, True, False, False):
                    for image in live.images:
                        await session.set_writable(image, writable)
                    states = [i.read_only for i in (await only_chain(session)).images]
                    assert states == [not writable] * 2

        asyncio.run(scenario())

    # --- the life of a fold

    def test_active_fold(self, hypervisor: Hypervisor, world: QemuWorld) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            before = world.content(chain[0])
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                await session.start(fold_plan(chain, *chain), live, None)
                ready = await reach(session, JOB, "ready")
                assert (ready.type, ready.error, ready.stuck) == ("commit", None, None)
                assert ready.remaining == 0
                with pytest.raises(CommandFailed, match="job-finalize"):
                    await session.finalize(JOB)
                await session.complete(JOB)
                await reach(session, JOB, "pending")
                await session.flush(live.images[1])
                await session.finalize(JOB)
                assert (await reach(session, JOB, "concluded")).error is None
                await session.dismiss(JOB)
                assert await session.jobs() == {}
                await session.drop(live.images[:1])
                left = await only_chain(session)
                assert files(left) == [chain[1].file]
                await session.drop(left.images)
                assert await session.chains({}) == ()
            world.remove(chain[0].path)
            assert world.content(chain[1]) == before

        asyncio.run(scenario())

    @pytest.mark.parametrize("phase", ["running", "ready", "pending"])
    def test_cancelled_fold_leaves_the_overlay_complete(
        self, hypervisor: Hypervisor, world: QemuWorld, phase: str
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            before, link = world.content(chain[0]), world.link(chain[0])
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                bandwidth = 1 if phase == "running" else None
                await session.start(fold_plan(chain, *chain), live, bandwidth)
                await reach(session, JOB, "running" if bandwidth else "ready")
                if phase == "pending":
                    await session.complete(JOB)
                    await reach(session, JOB, "pending")
                await session.cancel(JOB)
                assert (await reach(session, JOB, "concluded")).error
                await session.dismiss(JOB)
                assert files(await only_chain(session)) == [i.file for i in chain]
                await session.set_writable(live.images[1], False)
            assert world.content(chain[0]) == before
            assert world.link(chain[0]) == link

        asyncio.run(scenario())

    def test_cancelled_intermediate_fold_leaves_the_link(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1", "O2")
            before, link = world.content(chain[0]), world.link(chain[0])
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                await session.start(fold_plan(chain, *chain[1:]), live, None)
                await reach(session, JOB, "pending")
                await session.cancel(JOB)
                assert (await reach(session, JOB, "concluded")).error
            assert world.content(chain[0]) == before
            assert world.link(chain[0]) == link

        asyncio.run(scenario())

    def test_flushed_intermediate_fold_survives_a_kill(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        """QEMU changes the link before it has written what it copied."""

        async def scenario() -> None:
            chain = world.chain("B", "O1", "O2")
            before = world.content(chain[0])
            async with new_helper(hypervisor) as (record, session):
                live = await opened(session, chain, *chain)
                plan = fold_plan(chain, chain[1], chain[2], link="./B")
                await session.start(plan, live, None)
                await reach(session, JOB, "pending")
                assert world.link(chain[0]) == chain[1].path
                await session.flush(live.images[2])
                await session.finalize(JOB)
                assert (await reach(session, JOB, "concluded")).error is None
                world.kill(record)
            assert world.link(chain[0]) == "./B"
            world.remove(chain[1].path)
            assert world.content(chain[0]) == before

        asyncio.run(scenario())

    def test_range_of_images_is_folded_and_dropped(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1", "O2", "O3")
            before = world.content(chain[0])
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                await session.start(fold_plan(chain, chain[1], chain[3]), live, None)
                await reach(session, JOB, "pending")
                await session.flush(live.images[3])
                await session.finalize(JOB)
                await reach(session, JOB, "concluded")
                await session.dismiss(JOB)
                with pytest.raises(CommandFailed, match="still open"):
                    await session.drop(live.images[3:])
                await session.drop(live.images[1:3])
                left = await only_chain(session)
                assert files(left) == [chain[0].file, chain[3].file]
            for image in chain[1:3]:
                world.remove(image.path)
            assert world.content(chain[0]) == before

        asyncio.run(scenario())

    def test_job_is_found_again_by_the_next_session(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            async with new_helper(hypervisor) as (record, first):
                live = await opened(first, chain, *chain)
                await first.start(fold_plan(chain, *chain), live, None)
                await first.close()
                second = await hypervisor.attach_helper(record)
                assert second is not None
                await reach(second, JOB, "ready")
                assert (
                    await second.open_chain(chain, frozenset()) == live.images[0].node
                )
                with pytest.raises(CommandFailed, match="block-commit: "):
                    await second.start(fold_plan(chain, *chain), live, None)
                await second.complete(JOB)
                await reach(second, JOB, "pending")
                await second.close()
                third = await hypervisor.attach_helper(record)
                assert third is not None
                await third.finalize(JOB)
                await reach(third, JOB, "concluded")
                await third.close()

        asyncio.run(scenario())

    def test_bandwidth_limits_the_copy(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                await session.start(fold_plan(chain, *chain), live, 1)
                await asyncio.sleep(0.3)
                assert (await session.jobs())[JOB].status == "running"

        asyncio.run(scenario())

    def test_fold_of_a_stranger_is_refused(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain, other = world.chain("B", "O1"), world.chain("X", "Y")
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                with pytest.raises(CommandFailed, match="not in the chain"):
                    await session.start(fold_plan(other, *other), live, None)
                assert await session.jobs() == {}

        asyncio.run(scenario())

    def test_wait_wakes_at_an_event(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                await session.wait(0)
                began = time.monotonic()
                await session.wait(0.05)
                assert time.monotonic() - began >= 0.04
                await session.start(fold_plan(chain, *chain), live, None)
                began = time.monotonic()
                await session.wait(10)
                assert time.monotonic() - began < 5

        asyncio.run(scenario())

    # --- a domain's own QEMU

    def test_domain_pivots_and_is_left_running(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            before = world.content(chain[0])
            monitor = world.domain(chain)
            async with attached(hypervisor, monitor) as session:
                await session.cont()
                assert await session.run_state() == "running"
                live = await only_chain(session)
                assert files(live) == [i.file for i in chain]
                assert not live.filters
                await session.start(fold_plan(chain, *chain), live, None)
                await reach(session, JOB, "ready")
                during = await only_chain(session)
                assert files(during) == files(live)
                assert during.filters
                assert during.root == during.filters[0]
                await session.stop()
                assert await session.run_state() == "paused"
                await session.complete(JOB)
                await reach(session, JOB, "pending")
                await session.flush(live.images[1])
                assert files(await only_chain(session)) == files(live)
                await session.finalize(JOB)
                assert (await reach(session, JOB, "concluded")).error is None
                after = await only_chain(session)
                assert files(after) == [chain[1].file]
                assert not after.images[0].read_only
                await session.cont()
                await session.dismiss(JOB)
                await session.drop(live.images[:1])
                assert await session.run_state() == "running"
                with pytest.raises(CommandFailed):
                    await session.quit()
                with pytest.raises(CommandFailed):
                    await session.open_chain(chain, frozenset())
            world.stop_machines()
            assert world.content(chain[1]) == before

        asyncio.run(scenario())

    def test_foreign_soft_cancel_looks_like_success_but_the_chain_stays(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1")
            monitor = world.domain(chain)
            async with attached(hypervisor, monitor) as session:
                live = await only_chain(session)
                await session.start(fold_plan(chain, *chain), live, None)
                await reach(session, JOB, "ready")
                await world.soft_cancel(session, JOB)
                await reach(session, JOB, "pending")
                await session.finalize(JOB)
                assert (await reach(session, JOB, "concluded")).error is None
                assert files(await only_chain(session)) == [i.file for i in chain]

        asyncio.run(scenario())

    def test_intermediate_fold_in_a_domain(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "O1", "O2")
            before = world.content(chain[0])
            monitor = world.domain(chain)
            async with attached(hypervisor, monitor) as session:
                live = await only_chain(session)
                await session.start(fold_plan(chain, *chain[1:]), live, None)
                await reach(session, JOB, "pending")
                during = await only_chain(session)
                assert files(during) == files(live)
                assert len(during.filters) == 1
                assert during.root == live.root
                await session.flush(live.images[2])
                await session.finalize(JOB)
                assert (await reach(session, JOB, "concluded")).error is None
                await session.dismiss(JOB)
                await session.drop(live.images[1:2])
                left = await only_chain(session)
                assert files(left) == [chain[0].file, chain[2].file]
            world.stop_machines()
            world.remove(chain[1].path)
            assert world.content(chain[0]) == before

        asyncio.run(scenario())

    def test_overlays_are_put_on_all_disks_or_none(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            disks = [world.chain("A", "A1"), world.chain("B")]
            before = [world.content(disk[0]) for disk in disks]
            monitor = world.domain(*disks)
            async with attached(hypervisor, monitor) as session:
                live = await session.chains({})
                pairs = [
                    (world.overlay(disk[0]), chain.images[0])
                    for disk, chain in zip(disks, live, strict=True)
                ]
                missing = dataclasses.replace(pairs[1][0], overlay="/no/overlay")
                with pytest.raises(CommandFailed):
                    await session.switch_to_overlays([pairs[0], (missing, pairs[1][1])])
                assert await session.chains({}) == live

                await session.switch_to_overlays(pairs)
                switched = await session.chains({})
                for (plan, _), old, new in zip(pairs, live, switched, strict=True):
                    assert files(new) == [world.file_id(plan.overlay), *files(old)]
                    assert [i.read_only for i in new.images[:2]] == [False, True]

                # And down again, as a deletion of that snapshot does.
                folds = []
                for number, ((plan, _), disk) in enumerate(
                    zip(pairs, disks, strict=True)
                ):
                    overlay = Image(
                        plan.overlay, "qcow2", world.file_id(plan.overlay), SIZE
                    )
                    chain = (overlay, *disk)
                    job = f"backfold-test-{number}"
                    folds.append(fold_plan(chain, overlay, disk[0], job=job))
                await _pivot_all(session, folds, switched)
                assert [files(c) for c in await session.chains({})] == [
                    files(c) for c in live
                ]
            world.stop_machines()
            assert [world.content(disk[0]) for disk in disks] == before

        asyncio.run(scenario())


async def _pivot_all(
    session: Session, folds: Sequence[FoldPlan], chains: Sequence[LiveChain]
) -> None:
    for plan, chain in zip(folds, chains, strict=True):
        await session.start(plan, chain, None)
    for plan in folds:
        await reach(session, plan.job, "ready")
    for plan in folds:
        await session.complete(plan.job)
    for plan in folds:
        await reach(session, plan.job, "pending")
    for plan in folds:
        await session.finalize(plan.job)
    for plan, chain in zip(folds, chains, strict=True):
        await reach(session, plan.job, "concluded")
        await session.dismiss(plan.job)
        await session.drop(chain.images[:1])


class TestQemuHypervisor(HypervisorContract):
    """The contract on real QEMU, and what only a real process can show."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        with closing_world(tmp_path) as world:
            yield world

    # --- processes, sockets

    def test_helper_is_paused_private_and_alone(self, hypervisor: Hypervisor) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (record, _):
                folder = os.path.dirname(record.socket)
                assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
                assert os.getsid(record.pid) == record.pid != os.getsid(0)
                assert os.readlink(f"/proc/{record.pid}/cwd") == "/"
                assert os.readlink(f"/proc/{record.pid}/fd/0") == "/dev/null"
                assert os.readlink(f"/proc/{record.pid}/fd/1") == "/dev/null"
            name = os.path.basename(record.socket)
            assert not [n for n in os.listdir(folder) if n.startswith(name)]
            assert helper_process.start_time(record.pid) is None

        asyncio.run(scenario())

    def test_an_error_is_told_in_words_of_qemu(self, hypervisor: Hypervisor) -> None:
        """And by its class, where that says more."""

        async def scenario() -> None:
            async with new_helper(hypervisor) as (_, session):
                with pytest.raises(CommandFailed, match=r"found \(CommandNotFound\)$"):
                    await raw(session).execute("no-such")

        asyncio.run(scenario())

    def test_helper_inherits_nothing(self, hypervisor: Hypervisor) -> None:
        async def scenario() -> None:
            handle = os.open("/etc/hostname", os.O_RDONLY)
            try:
                os.set_inheritable(handle, True)
                async with new_helper(hypervisor) as (record, _):
                    fds = f"/proc/{record.pid}/fd"
                    opened = [os.readlink(f"{fds}/{n}") for n in os.listdir(fds)]
                    assert "/etc/hostname" not in opened
            finally:
                os.close(handle)

        asyncio.run(scenario())

    def test_missing_qemu_is_named_with_its_package(self) -> None:
        lacking = QemuHypervisor(program="qemu-system-none")
        with pytest.raises(CommandFailed, match="not installed") as caught:
            asyncio.run(lacking.start_helper(lacking.helper_socket("test")))

        assert "qemu-system-x86" in caught.value.remedy

    def test_qemu_that_ends_at_once_says_why(self, tmp_path: Path) -> None:
        program = tmp_path / "qemu"
        program.write_text("#!/bin/sh\necho no such accelerator >&2\nexit 1\n")
        program.chmod(0o700)
        broken = QemuHypervisor(program=str(program))
        path = broken.helper_socket("test")
        with pytest.raises(CommandFailed, match="no such accelerator"):
            asyncio.run(broken.start_helper(path))

        assert not os.path.exists(f"{path}.log")

    def test_stranger_with_the_helpers_pid_is_not_killed(
        self, hypervisor: Hypervisor
    ) -> None:
        path = hypervisor.helper_socket("test")
        argument = f"unix:{path},server=on,wait=off"
        waiting = [sys.executable, "-c", "input()"]
        strangers = [
            subprocess.Popen(command, stdin=subprocess.PIPE)
            for command in (waiting, [*waiting, "-qmp", argument])
        ]
        try:
            for stranger in strangers:
                started = helper_process.start_time(stranger.pid)
                assert started is not None
                boot = helper_process.boot_id()
                record = HelperRecord(path, stranger.pid, started, boot)
                asyncio.run(hypervisor.end_helper(path, record))
                assert asyncio.run(hypervisor.attach_helper(record)) is None
            asyncio.run(hypervisor.end_helper(path, None))
            assert [stranger.poll() for stranger in strangers] == [None, None]
        finally:
            for stranger in strangers:
                stranger.communicate(b"\n")

    def test_killed_helper_counts_as_gone_only_without_its_threads(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        """A zombie's threads may still hold its files, and QEMU's locks on them."""

        async def scenario() -> None:
            chain = world.chain("B", "O1")
            for _ in range(8):
                async with new_helper(hypervisor) as (record, session):
                    await opened(session, chain, *chain)
                    handle = os.pidfd_open(record.pid)
                    os.kill(record.pid, signal.SIGKILL)
                    assert await hypervisor.attach_helper(record) is None
                    assert select.select([handle], [], [], 0)[0], "it still dies"
                    os.close(handle)

        asyncio.run(scenario())

    def test_helper_whose_monitor_is_taken_is_ended_by_signal(
        self, hypervisor: Hypervisor
    ) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (record, _):
                await hypervisor.end_helper(record.socket, record)
                assert helper_process.start_time(record.pid) is None

        asyncio.run(scenario())

    def test_helper_whose_socket_was_removed_counts_as_gone_and_is_ended(
        self, hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (record, session):
                await session.close()
                os.unlink(record.socket)
                assert await hypervisor.attach_helper(record) is None
                assert helper_process.start_time(record.pid) is None

        monkeypatch.setattr(helper, "REACH_SECONDS", 0.1)
        asyncio.run(scenario())

    def test_unsafe_socket_folders_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shared, link = tmp_path / "shared", tmp_path / "link"
        shared.mkdir()
        shared.chmod(0o755)
        private = tmp_path / "private"
        private.mkdir(0o700)
        link.symlink_to(private)
        folders = [str(shared), str(link), str(tmp_path / ("x" * 100)), "relative"]
        monkeypatch.setattr(helper, "_folders", lambda: folders)
        with pytest.raises(CommandFailed) as caught:
            QemuHypervisor().helper_socket("test")

        for words in ("open to others", "not a directory", "too long", "not absolute"):
            assert words in str(caught.value)
        folders.append(str(tmp_path / "n"))
        assert os.path.dirname(QemuHypervisor().helper_socket("t")) == folders[-1]

    def test_monitor_that_is_no_qmp_monitor(self, world: QemuWorld) -> None:
        async def scenario() -> None:
            async def talk(_: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
                w.write(b"QEMU 7.2.22 monitor - type 'help'\r\n")
                await w.drain()
                w.close()

            async def hang_up(_: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
                w.close()

            talking, hanging = world.sockets / "talk", world.sockets / "hang"
            async with (
                await asyncio.start_unix_server(talk, talking),
                await asyncio.start_unix_server(hang_up, hanging),
            ):
                with pytest.raises(CommandFailed, match="not a QMP monitor"):
                    await Monitor.connect(str(talking), 1)
                with pytest.raises(MonitorBusy):
                    await Monitor.connect(str(hanging), 0.2)

        asyncio.run(scenario())

    def test_connection_that_qemu_forgot_is_made_anew(
        self, world: QemuWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A QEMU that is starting may accept and never greet, and greet the next."""
        seen = 0

        async def serve(reader: asyncio.StreamReader, w: asyncio.StreamWriter) -> None:
            nonlocal seen
            seen += 1
            if seen > 1:
                w.write(b'{"QMP": {"version": {}, "capabilities": []}}\r\n')
                await reader.read(1)
                w.write(b'{"return": {}}\r\n')
            await reader.read()
            w.close()

        async def scenario() -> None:
            path = world.sockets / "forgetful"
            async with await asyncio.start_unix_server(serve, path):
                connected = await Monitor.connect(str(path), 5)
                assert connected is not None
                await connected.close()

        monkeypatch.setattr(qmp_monitor, "ATTEMPT_SECONDS", 0.1)
        asyncio.run(scenario())
        assert seen == 2

    def test_queue_of_connections_that_is_full_is_busy(self, world: QemuWorld) -> None:
        path = str(world.sockets / "full")
        with socket.socket(socket.AF_UNIX) as listening, contextlib.ExitStack() as all_:
            listening.bind(path)
            listening.listen(0)
            waiting = all_.enter_context(socket.socket(socket.AF_UNIX))
            waiting.connect(path)
            with pytest.raises(MonitorBusy):
                asyncio.run(Monitor.connect(path, 0.2))

    def test_monitor_with_a_long_path(self, world: QemuWorld) -> None:
        deep = world.folder / ("d" * 120)
        deep.mkdir()
        where = deep / "q.sock"
        monitor = world.machine()
        os.rename(monitor, where)

        async def scenario() -> None:
            async with attached(world.hypervisor(), str(where)) as session:
                assert await session.run_state() == "prelaunch"

        asyncio.run(scenario())

    def test_no_answer_in_time_is_unknown_and_the_connection_lives_on(
        self, hypervisor: Hypervisor
    ) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (record, session):
                os.kill(record.pid, signal.SIGSTOP)
                try:
                    with pytest.raises(OutcomeUnknown) as caught:
                        await raw(session).execute("query-status", within=0.1)
                    assert not isinstance(caught.value, Disconnected)
                finally:
                    os.kill(record.pid, signal.SIGCONT)
                assert await session.run_state() == "prelaunch"

        asyncio.run(scenario())

    def test_cancelled_calls_leave_a_session_that_works(
        self, hypervisor: Hypervisor
    ) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (_, session):
                for call in (session.run_state, session.jobs):
                    task = asyncio.create_task(call())
                    await asyncio.sleep(0)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                waiting = asyncio.create_task(session.wait(10))
                await asyncio.sleep(0)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                assert await session.run_state() == "prelaunch"

        asyncio.run(scenario())

    def test_events_do_not_pile_up(self, hypervisor: Hypervisor) -> None:
        async def scenario() -> None:
            async with new_helper(hypervisor) as (_, session):
                for _ in range(20):
                    await session.cont()
                    await session.stop()
                client = raw(session)._client
                for listener in client._listeners:
                    assert listener.history == ()
                    assert listener.empty()

        asyncio.run(scenario())

    # --- graphs

    def test_chain_is_the_same_however_it_was_opened(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        chain = world.chain("B", "O1", "O2")
        for image, below in itertools.pairwise(chain):
            name = os.path.basename(below.path)
            run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", name, image.path)
        plain = "driver=qcow2,file.driver=file"
        top = f"{plain},file.filename=O2"
        explicit = [
            f"driver=file,node-name=f{n},filename={n}" for n in ("B", "O1", "O2")
        ]
        explicit += [
            "driver=qcow2,node-name=nB,file=fB,read-only=on",
            "driver=qcow2,node-name=nO1,file=fO1,read-only=on,backing=nB",
            "driver=qcow2,node-name=n,file=fO2,backing=nO1",
        ]
        throttle = "driver=throttle,throttle-group=t,node-name=n"
        openings = {
            "drive": ["-drive", drive("O2", "n")],
            "drive, absolute": ["-drive", drive(chain[0].path, "n")],
            "blockdev": ["-blockdev", f"{top},node-name=n"],
            "explicit nodes": [x for o in explicit for x in ("-blockdev", o)],
            "throttle": [
                *("-object", "throttle-group,id=t"),
                *("-blockdev", f"{top},node-name=m", "-blockdev", f"{throttle},file=m"),
            ],
            "copy on read": ["-drive", drive("O2", "n", more=",copy-on-read=on")],
        }
        found: dict[str, LiveChain] = {}

        async def scenario(name: str, options: list[str]) -> None:
            device = ["-device", "virtio-blk-pci,drive=n,id=vda"]
            monitor = world.machine(*options, *device, cwd=world.folder)
            async with attached(hypervisor, monitor) as session:
                found[name] = await only_chain(session)
            world.stop_machines()

        for name, options in openings.items():
            asyncio.run(scenario(name, options))

        for name, live in found.items():
            assert files(live) == [i.file for i in chain], name
            assert [i.filename for i in live.images] == [i.path for i in chain], name
            assert [i.format for i in live.images] == ["qcow2"] * 3, name
            assert bool(live.filters) == (name == "throttle"), name
            assert live.root == (live.filters or (live.images[0].node,))[0], name

    def test_fold_below_a_throttle_filter(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        chain = world.chain("B", "O1")
        monitor = world.machine(
            *("-object", "throttle-group,id=t"),
            *("-blockdev", _blockdev(chain[0].path, "m")),
            *("-blockdev", "driver=throttle,throttle-group=t,node-name=n,file=m"),
            *("-device", "virtio-blk-pci,drive=n"),
        )

        async def scenario() -> None:
            async with attached(hypervisor, monitor) as session:
                live = await only_chain(session)
                overlay = world.overlay(chain[0])
                await session.switch_to_overlays([(overlay, live.images[0])])
                live = await only_chain(session)
                assert live.filters == ("n",)
                image = Image(overlay.overlay, "qcow2", file_id(overlay.overlay), SIZE)
                full = (image, *chain)
                await _pivot_all(session, [fold_plan(full, *full[:2])], [live])
                after = await only_chain(session)
                assert files(after) == [i.file for i in chain]
                assert after.filters == ("n",)

        asyncio.run(scenario())

    def test_renamed_image_is_found_by_its_alias_only(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        chain = world.chain("B", "O1")
        monitor = world.domain(chain)
        old, new = chain[0].path, f"{chain[0].path}.backfold-x"

        async def scenario() -> None:
            async with attached(hypervisor, monitor) as session:
                os.rename(old, new)
                live = await only_chain(session)
                assert files(live) == [None, chain[1].file]
                live = await only_chain(session, {old: new})
                assert files(live) == [chain[0].file, chain[1].file]
                assert live.images[0].filename == old
                # Another file under the old name is not the one that QEMU has.
                shutil.copy(chain[1].path, old)
                assert files(await only_chain(session))[0] is None
                live = await only_chain(session, {old: new})
                assert files(live)[0] == chain[0].file

        asyncio.run(scenario())

    def test_export_is_seen(self, hypervisor: Hypervisor, world: QemuWorld) -> None:
        chain = world.chain("B", "O1")
        monitor = world.domain(chain)

        async def scenario() -> None:
            async with attached(hypervisor, monitor) as session:
                live = await only_chain(session)
                execute = raw(session).execute
                where = {"path": str(world.sockets / "nbd")}
                await execute("nbd-server-start", addr={"type": "unix", "data": where})
                await execute(
                    "block-export-add",
                    type="nbd",
                    id="e",
                    node_name=live.images[1].node,
                )
                assert await session.exports() == {live.images[1].node}
                assert len(await session.chains({})) == 1

        asyncio.run(scenario())

    def test_empty_drive_has_no_chain(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        monitor = world.machine("-device", "ide-cd,id=cd")

        async def scenario() -> None:
            async with attached(hypervisor, monitor) as session:
                assert await session.chains({}) == ()

        asyncio.run(scenario())

    def test_superseded_nodes_can_be_found_and_dropped_later(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        chain = world.chain("B", "O1")
        monitor = world.machine(
            *("-blockdev", f"driver=file,node-name=f,filename={chain[0].path}"),
            *("-blockdev", "driver=qcow2,node-name=n,file=f"),
            *("-device", "virtio-blk-pci,drive=n"),
        )

        async def scenario() -> None:
            async with attached(hypervisor, monitor) as session:
                live = await only_chain(session)
                await session.start(fold_plan(chain, *chain), live, None)
                await reach(session, JOB, "ready")
                await session.complete(JOB)
                await reach(session, JOB, "pending")
                await session.finalize(JOB)
                await reach(session, JOB, "concluded")
                await session.dismiss(JOB)
                assert files(await only_chain(session)) == [chain[1].file]
                images = {i.file: i for i in await session.open_images({})}
                assert set(images) == {image.file for image in chain}
                left = images[chain[0].file]
                assert left == live.images[0]
                # The engine died here between the two nodes of the image.
                await raw(session).execute("blockdev-del", node_name="n")
                images = {i.file: i for i in await session.open_images({})}
                assert images[chain[0].file].node == left.file_node
                await session.drop([left])
                assert len(await session.open_images({})) == 1

        asyncio.run(scenario())

    # --- streams

    def test_stream_of_a_stranger_does_not_crash_qemu(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        async def scenario() -> None:
            chain = world.chain("B", "D")
            async with attached(hypervisor, world.domain(chain)) as session:
                live = await only_chain(session)
                await raw(session).execute(
                    "block-stream",
                    job_id="theirs",
                    device=live.root,
                    auto_dismiss=False,
                )
                await reach(session, "theirs", "concluded")
                with pytest.raises(CommandFailed, match="theirs"):
                    await session.chains({})
                await session.dismiss("theirs")
                assert files(await only_chain(session)) == [chain[0].file]

        asyncio.run(scenario())

    # --- faults

    def test_flush_that_fails_is_told(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        """QEMU's own `qemu-io flush` says nothing when it fails."""
        (image,) = world.chain("B")
        monitor = world.machine(
            *("-blockdev", f"driver=file,node-name=f,filename={image.path}"),
            *("-blockdev", _faulty("flush", errno=5)),
            *("-blockdev", "driver=qcow2,node-name=n,file=faulty"),
        )

        async def scenario() -> None:
            async with attached(hypervisor, monitor) as session:
                (live,) = await session.open_images({})
                assert live.file == image.file
                await session.flush(live)
                await raw(session).human('qemu-io n "write -q 1M 64k"')
                assert await raw(session).human("qemu-io n flush") == ""
                with pytest.raises(CommandFailed, match="Input/output error"):
                    await session.flush(live)

        asyncio.run(scenario())

    def test_flush_and_reopen_keep_the_options_of_a_node(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        chain = world.chain("B", "O1")

        async def details(session: Session) -> dict[str, list[object]]:
            nodes = await raw(session).execute("query-named-block-nodes", flat=True)
            return {
                n["node-name"]: [n[k] for k in ("ro", "detect_zeroes", "cache", "drv")]
                for n in nodes
            }

        async def scenario() -> None:
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                before = await details(session)
                assert any("unmap" in values for values in before.values())
                for image in live.images:
                    await session.flush(image)
                    assert await details(session) == before
                    await session.set_writable(image, False)
                    await session.flush(image)
                    await session.set_writable(image, True)
                    assert await details(session) == before

        asyncio.run(scenario())

    def test_job_that_lacks_room_is_stuck_until_resumed(
        self, hypervisor: Hypervisor, world: QemuWorld
    ) -> None:
        chain = world.chain("B", "O1")
        monitor = world.machine(
            *("-blockdev", f"driver=file,node-name=f,filename={chain[1].path}"),
            *("-blockdev", _faulty("write", errno=28)),
            *("-blockdev", "driver=qcow2,node-name=b,file=faulty,read-only=on"),
            *("-blockdev", f"{_blockdev(chain[0].path, 'n')},backing=b"),
            *("-device", "virtio-blk-pci,drive=n"),
        )

        async def scenario() -> None:
            async with attached(hypervisor, monitor) as session:
                live = await only_chain(session)
                await session.start(fold_plan(chain, *chain), live, None)
                job = await reach(session, JOB, "paused", "standby")
                assert job.stuck == "nospace"
                await session.resume(JOB)
                assert (await reach(session, JOB, "ready")).stuck is None

        asyncio.run(scenario())


def _blockdev(path: str, node: str) -> str:
    return f"driver=qcow2,node-name={node},file.driver=file,file.filename={path}"


def _faulty(kind: str, errno: int) -> str:
    once = "on" if kind == "write" else "off"
    return (
        "driver=blkdebug,node-name=faulty,image=f,inject-error.0.event=none,"
        f"inject-error.0.iotype={kind},inject-error.0.errno={errno},"
        f"inject-error.0.once={once}"
    )
