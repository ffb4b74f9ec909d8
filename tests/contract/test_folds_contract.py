"""Folds of many layers, down and up: what every `Session` must do with them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from backfold.journal.model import FoldPlan
from backfold.states.ports import Hypervisor, Session
from contract.qemu_world import (
    QemuWorld,
    closing_world,
    files,
    fold_plan,
    only_chain,
    reach,
)
from contract.test_hypervisor_contract import JOB, attached, new_helper, opened

ALL = ("B", "O1", "O2", "O3")


@dataclass(frozen=True, slots=True)
class Case:
    """The depths of the highest and the lowest layer in the chain of `ALL`."""

    strategy: str
    first: int
    last: int

    @property
    def is_stream(self) -> bool:
        return self.strategy == "stream"

    @property
    def is_active(self) -> bool:
        return not self.is_stream and not self.first

    @property
    def survivor(self) -> int:
        return self.first if self.is_stream else self.last

    @property
    def relinked(self) -> int | None:
        if self.is_active:
            return None
        return self.first if self.is_stream else self.first - 1

    @property
    def gone(self) -> range:
        if self.is_stream:
            return range(self.first + 1, self.last + 1)
        return range(self.first, self.last)


CASES = {
    "commit of two active layers": Case("commit", 0, 2),
    "commit of all": Case("commit", 0, 3),
    "commit of two lower layers": Case("commit", 1, 3),
    "stream into the active image": Case("stream", 0, 1),
    "stream of two layers": Case("stream", 0, 2),
    "stream of all": Case("stream", 0, 3),
    "stream below the active image": Case("stream", 1, 2),
    "stream of all below the active image": Case("stream", 1, 3),
}


def of(*names: str) -> pytest.MarkDecorator:
    """A parameter for each of these cases."""
    return pytest.mark.parametrize("case", [CASES[name] for name in names], ids=names)


of_links = of(
    "commit of two lower layers",
    "stream into the active image",
    "stream of all below the active image",
)

END: Mapping[str, Callable[[Session, str], Awaitable[None]]] = {
    "finalize": lambda session, job: session.finalize(job),
    "cancel": lambda session, job: session.cancel(job),
}


async def converge(session: Session, case: Case) -> None:
    """To the last moment before the graph changes."""
    if case.is_active:
        await reach(session, JOB, "ready")
        await session.complete(JOB)
    await reach(session, JOB, "pending")


async def end_of(session: Session, plan: FoldPlan) -> str | None:
    """Wait for the end of a job, and forget it; its error.

    A stream is forgotten as soon as it has ended: QEMU 7.2 dies when anybody lists
    its nodes while a stream has ended and is not dismissed.
    """
    if plan.is_stream:
        async with asyncio.timeout(10):
            while plan.job in await session.jobs():
                await session.wait(0.05)
        return None
    found = await reach(session, plan.job, "concluded")
    await session.dismiss(plan.job)
    return found.error


class FoldsContract:
    """The contract. A subclass says which world it runs in."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        raise NotImplementedError

    @pytest.fixture
    def hypervisor(self, world: QemuWorld) -> Hypervisor:
        return world.hypervisor()

    @of(*CASES)
    def test_layers_become_one(
        self, hypervisor: Hypervisor, world: QemuWorld, case: Case
    ) -> None:
        """Flushed in PENDING, it survives a kill; old nodes stay until dropped."""

        async def scenario() -> None:
            chain = world.chain(*ALL)
            before = [world.content(image) for image in chain]
            links = [world.link(image) for image in chain]
            wanted = [image.file for image in chain]
            plan = fold_plan(
                chain, chain[case.first], chain[case.last], strategy=case.strategy
            )
            # The helper opens read-only what nothing has to write to.
            open_for_writing = {case.survivor, case.relinked} - {None}
            async with new_helper(hypervisor) as (record, session):
                live = await opened(
                    session, chain, *(chain[depth or 0] for depth in open_for_writing)
                )
                await session.start(plan, live, None)
                await converge(session, case)
                found = (await session.jobs())[JOB]
                assert (found.type, found.remaining) == (case.strategy, 0)
                during = await only_chain(session)
                assert files(during) == wanted
                assert len(during.filters) == 1
                assert [world.link(image) for image in chain] == links
                await session.flush(live.images[case.survivor])
                await session.finalize(JOB)
                assert await end_of(session, plan) is None
                still = {image.file for image in await session.open_images({})}
                assert still == set(wanted)
                left = [f for n, f in enumerate(wanted) if n not in case.gone]
                if not case.is_active:
                    assert left in [files(c) for c in await session.chains({})]
                await session.drop([live.images[depth] for depth in case.gone])
                after = await only_chain(session)
                assert files(after) == left
                assert not after.filters
                world.kill(record)
            for depth in case.gone:
                world.remove(chain[depth].path)
            for depth, image in enumerate(chain):
                if depth in case.gone:
                    continue
                new = plan.link if depth == case.relinked else links[depth]
                assert world.link(image) == new
                if depth < case.last or case.is_stream:
                    assert world.content(image) == before[depth]
            if not case.is_stream:
                assert world.content(chain[case.last]) == before[case.first]

        asyncio.run(scenario())

    @of_links
    def test_what_was_not_flushed_is_lost(
        self, hypervisor: Hypervisor, world: QemuWorld, case: Case
    ) -> None:
        """The link is changed before the tables are written; the old layers help."""

        async def scenario() -> None:
            chain = world.chain(*ALL)
            before = world.content(chain[0])
            top, base = chain[case.first], chain[case.last]
            plan = fold_plan(chain, top, base, strategy=case.strategy)
            async with new_helper(hypervisor) as (record, session):
                live = await opened(session, chain, *chain)
                await session.start(plan, live, None)
                await converge(session, case)
                await session.finalize(JOB)
                await end_of(session, plan)
                world.kill(record)
            assert case.relinked is not None
            assert world.link(chain[case.relinked]) == plan.link
            assert world.content(chain[0]) != before
            world.relink(chain[case.relinked], chain[case.relinked + 1])
            assert world.content(chain[0]) == before

        asyncio.run(scenario())

    @of("commit of two lower layers", "stream of two layers")
    @pytest.mark.parametrize("phase", ["running", "pending"])
    def test_cancelled_fold_leaves_links_and_content(
        self, hypervisor: Hypervisor, world: QemuWorld, case: Case, phase: str
    ) -> None:
        async def scenario() -> None:
            chain = world.chain(*ALL)
            before = [world.content(image) for image in chain]
            links = [world.link(image) for image in chain]
            top, base = chain[case.first], chain[case.last]
            plan = fold_plan(chain, top, base, strategy=case.strategy)
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, *chain)
                await session.start(plan, live, 1 if phase == "running" else None)
                if phase == "pending":
                    await converge(session, case)
                await session.cancel(JOB)
                assert bool(await end_of(session, plan)) is not case.is_stream
                after = await only_chain(session)
                assert files(after) == files(live)
                assert not after.filters
            assert [world.link(image) for image in chain] == links
            # A commit writes into its base, and what it shows of itself is lost.
            intact = range(4 if case.is_stream else case.first + 1)
            for depth in intact:
                assert world.content(chain[depth]) == before[depth]

        asyncio.run(scenario())

    @of_links
    def test_fold_in_a_running_domain(
        self, hypervisor: Hypervisor, world: QemuWorld, case: Case
    ) -> None:
        """A device has the disk, and nobody holds the guest."""

        async def scenario() -> None:
            chain = world.chain(*ALL)
            before = world.content(chain[0])
            top, base = chain[case.first], chain[case.last]
            plan = fold_plan(chain, top, base, link="./new", strategy=case.strategy)
            monitor = world.domain(chain)
            async with attached(hypervisor, monitor) as session:
                await session.cont()
                live = await only_chain(session)
                assert [i.read_only for i in live.images] == [False, True, True, True]
                assert case.relinked is not None
                if case.relinked:
                    await session.set_writable(live.images[case.relinked], True)
                await session.start(plan, live, None)
                await reach(session, JOB, "pending")
                during = await only_chain(session)
                assert files(during) == files(live)
                assert not during.images[case.survivor].read_only
                for _ in range(2):
                    await session.flush(live.images[case.survivor])
                assert await session.run_state() == "running"
                await session.finalize(JOB)
                assert await end_of(session, plan) is None
                await session.drop([live.images[depth] for depth in case.gone])
                after = await only_chain(session)
                left = [i for n, i in enumerate(chain) if n not in case.gone]
                assert files(after) == [image.file for image in left]
                assert after.root == live.root and not after.filters
                for image in after.images[1:]:
                    if not image.read_only:
                        await session.set_writable(image, False)
                assert await session.run_state() == "running"
            world.stop_machines()
            whole = case.is_stream and case.last == 3
            assert world.link(chain[case.relinked]) == (None if whole else "./new")
            if not whole:
                under = chain[case.last + 1] if case.is_stream else chain[case.last]
                world.relink(chain[case.relinked], under)
            for depth in case.gone:
                world.remove(chain[depth].path)
            assert world.content(chain[0]) == before

        asyncio.run(scenario())

    @pytest.mark.parametrize("end", ["finalize", "cancel"])
    def test_base_that_was_read_only_is_so_again(
        self, hypervisor: Hypervisor, world: QemuWorld, end: str
    ) -> None:
        async def scenario() -> None:
            chain = world.chain(*ALL)
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, chain[0])
                await session.start(fold_plan(chain, chain[1], chain[3]), live, None)
                await reach(session, JOB, "pending")
                assert not (await only_chain(session)).images[3].read_only
                await END[end](session, JOB)
                await reach(session, JOB, "concluded")
                await session.run_state()
                assert [
                    image.read_only
                    for image in await session.open_images({})
                    if image.node == live.images[3].node
                ] == [True]

        asyncio.run(scenario())

    @pytest.mark.parametrize("end", ["finalize", "cancel"])
    def test_stream_into_a_read_only_image_leaves_it_so(
        self, hypervisor: Hypervisor, world: QemuWorld, end: str
    ) -> None:
        """And whoever looks at the images of QEMU then does not crash it."""

        async def scenario() -> None:
            chain = world.chain(*ALL)
            before = world.content(chain[0])
            plan = fold_plan(chain, chain[1], chain[2], strategy="stream")
            async with new_helper(hypervisor) as (_, session):
                live = await opened(session, chain, chain[0])
                await session.start(plan, live, None)
                await reach(session, JOB, "pending")
                await session.flush((await only_chain(session)).images[1])
                await END[end](session, JOB)
                await end_of(session, plan)
                assert [
                    image.read_only
                    for image in await session.open_images({})
                    if image.node == live.images[1].node
                ] == [True]
            assert world.content(chain[0]) == before

        asyncio.run(scenario())


class TestQemuFolds(FoldsContract):
    """The contract on real QEMU."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> Iterator[QemuWorld]:
        with closing_world(tmp_path) as world:
            yield world
