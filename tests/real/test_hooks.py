"""The owner of a definition is told in time, and its failure is no second truth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from backfold.engine.results import Deletion, Run
from backfold.journal.errors import BackfoldError, Interrupted, RolledBack
from backfold.states.ports import HookCall
from committing import CommittingEngine
from real.owners import Launcher
from real.scene import DOMAIN, At, NoGuard, Scene, nobody_manages, play
from sampled import sampled


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that fails is called again at once."""
    monkeypatch.setattr("backfold.states.owner._PAUSE", 0)


async def owned(scene: Scene) -> Launcher:
    """A domain with an owner, three snapshots, and a guest that goes on if it runs."""
    owner = Launcher(scene.folder)
    await scene.engine.set_hook(DOMAIN, str(owner.hook))
    await scene.take_three()
    owner.forget_calls()
    return owner


async def recovered(scene: Scene) -> Run:
    """`recover`, which comes to an end."""
    (end,) = await scene.engine.recover()
    assert not isinstance(end, BackfoldError), end
    return end


async def boots_by_itself(scene: Scene, owner: Launcher) -> None:
    """The launcher alone starts the guest, which goes on; then everything is proved."""
    assert owner.agrees(await scene.disks())
    scene.machine.kill()
    scene.machine.disks = owner.boots()
    await asyncio.to_thread(scene.machine.start)
    await scene.write()
    await scene.verify(leaks=True)


def sources(disks: list[dict[str, str]]) -> dict[str, str]:
    """The images of a call, by target."""
    return {disk["target"]: disk["source"] for disk in disks}


class Looks:
    """A probe that looks at something at some moments."""

    def __init__(self, look: Callable[[], tuple[object, ...]], *places: str) -> None:
        """What to look at, and when: ``state.step.moment``."""
        self.look = look
        self.places = places
        self.seen: list[tuple[object, ...]] = []

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Look."""
        if f"{state}.{step}.{moment}" in self.places:
            self.seen.append(self.look())


def test_the_owner_is_told_between_the_decision_and_the_first_write(
    tmp_path: Path,
) -> None:
    """Not before it is decided, and before the guest can write into the base.

    Then once more, with a disk that somebody keeps on its overlay: that is told; and
    with an owner that takes its time: the guest need not wait for it.
    """

    async def story() -> None:
        async with Scene(tmp_path, disks=2, guard=NoGuard()) as scene:
            owner = await owned(scene)
            before = owner.disks
            assert owner.agrees(await scene.disks())
            base = (await scene.engine.catalog.snapshot(DOMAIN, "s3")).disks[1].frozen

            def look() -> tuple[object, ...]:
                return Path(base).stat().st_mtime_ns, scene.run_state(), owner.disks

            looks = Looks(
                look, "vote.decide.announced", "pivot.release_guest.announced"
            )
            await scene.with_probe(looks)
            await scene.delete("s3", strategy="commit")
            after = {disk.target: disk.source for disk in await scene.disks()}
            [undecided, free] = looks.seen
            assert undecided[1:] == ("paused", before)
            assert free == (undecided[0], "paused", after)
            assert before.keys() == after.keys() and before != after
            [early, asked, switched] = owner.calls
            assert early == asked and switched["call"] == "switch"
            assert asked["call"] == "prepare"
            assert sources(asked["planned"]) == sources(switched["disks"]) == after
            assert sources(asked["disks"]) == before

            def cancel() -> None:
                for job in scene.machine.qmp("query-jobs"):
                    scene.machine.qmp("job-cancel", id=job["id"])

            await scene.with_probe(At("vote.decide.noted", cancel))
            owner.forget_calls()
            await scene.delete("s2", strategy="commit")
            kept, before = after, owner.disks
            assert owner.switches == [kept, before]
            assert owner.agrees(await scene.disks())

            freed = asyncio.Event()
            await scene.with_probe(At("pivot.release_guest.noted", freed.set))
            owner.forget_calls()
            owner.hang()
            running = asyncio.ensure_future(scene.delete("s1", max_downtime_ms=1500))
            await asyncio.wait_for(freed.wait(), 60)
            await scene.write()
            [row] = await scene.engine.deletions(only_open=True)
            assert row.state == "pivot" and owner.disks == before
            owner.mend()
            assert (await running).state == "completed"
            assert len(owner.switches) == 1
            await scene.write()
            await boots_by_itself(scene, owner)

    play(story())


def test_a_failing_owner_leaves_one_truth(tmp_path: Path) -> None:
    """One that cannot is asked in time: nothing changes. One that fails later:

    the guest runs on, what the launcher names is gone, and `recover` tells it again.
    """

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            owner = await owned(scene)
            former, disks = owner.disks, await scene.disks()
            owner.fail("prepare")
            with pytest.raises(RolledBack, match="no room for it") as given_up:
                await scene.delete("s3", strategy="commit")
            assert given_up.value.exit_status == 5
            assert await scene.disks() == disks
            assert (owner.disks, owner.switches) == (former, [])
            # It was asked before anything was copied.
            kept = await scene.engine.catalog.snapshot(DOMAIN, "s3")
            assert kept.status == "valid"

            owner.mend()
            owner.fail()
            with pytest.raises(Interrupted, match="exit status 3") as caught:
                await scene.delete("s3", strategy="commit")
            error = caught.value
            assert error.exit_status == 6
            assert "no room for it" in error.what and "--remove" in error.remedy
            [disk] = await scene.disks()
            assert disk.source in error.data and "runs on" in error.data
            await scene.write()
            assert owner.disks == former != {"vda": disk.source}
            assert not Path(former["vda"]).exists()
            [row] = await scene.engine.deletions(only_open=True)
            assert row.state == "pivot"
            owner.mend()
            assert (await recovered(scene)).state == "completed"
            await scene.write()
            await boots_by_itself(scene, owner)

    play(story())


def test_a_domain_that_is_off(tmp_path: Path) -> None:
    """Its launcher boots nothing until it was told; a hook can be let go of."""

    async def story() -> None:
        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            owner = await owned(scene)
            assert owner.agrees(await scene.disks())
            former = owner.disks
            owner.fail()
            with pytest.raises(Interrupted) as caught:
                await scene.delete("s3", strategy="commit")
            assert "Boot " in caught.value.data
            assert not Path(former["vda"]).exists()
            await scene.engine.set_hook(DOMAIN, None)
            assert (await recovered(scene)).state == "completed"
            owner.mend()
            await scene.engine.set_hook(DOMAIN, str(owner.hook))
            await scene.delete("s2", strategy="commit")
            await boots_by_itself(scene, owner)

    play(story())


@pytest.mark.parametrize("power", sampled(1, ["running", "off"]))
def test_a_snapshot_that_the_owner_refuses(tmp_path: Path, power: str) -> None:
    """It had half worked; it goes back, and the overlay is removed only then."""

    async def story() -> None:
        async with Scene(tmp_path, power=power, guard=NoGuard()) as scene:
            owner = await owned(scene)
            before, files = owner.disks, scene.images()
            owner.refuse(f"{before['vda'].rpartition('.')[0]}.s4")
            with pytest.raises(RolledBack) as caught:
                await scene.take("s4")
            assert "half of it is written" in caught.value.what
            assert owner.disks == before
            assert scene.images() == files
            assert [s.name for s in await scene.engine.catalog.snapshots(DOMAIN)] == [
                "s1",
                "s2",
                "s3",
            ]
            owner.fail()
            with pytest.raises(Interrupted) as open_run:
                await scene.take("s4")
            assert "overlays are empty" in open_run.value.data
            assert len(scene.images()) == len(files) + 1
            owner.mend()
            assert (await recovered(scene)).state == "undone"
            assert owner.disks == before and scene.images() == files
            await scene.take("s4")
            assert owner.agrees(await scene.disks())
            if power == "off":
                await scene.boot()
            await scene.write()
            await boots_by_itself(scene, owner)

    play(story())


def test_a_program_that_owns_its_domains(tmp_path: Path) -> None:
    """It is called for each; a recovery that is not the program's leaves it to it."""

    async def story() -> None:
        told: list[HookCall] = []
        failing = False

        async def hook(call: HookCall) -> None:
            told.append(call)
            if failing and call.call == "switch":
                raise RuntimeError("the control plane is down")

        async with Scene(tmp_path, power="off", guard=NoGuard()) as scene:
            await scene.engine.__aexit__(None, None, None)
            mine = CommittingEngine(
                scene.journal,
                guard=scene.guard,
                managed=nobody_manages,
                locks=scene.locks,
                hook=hook,
            )
            other, scene.engine = scene.engine, mine
            await scene.engine.__aenter__()
            await scene.take("s1")
            await scene.take("s2")
            failing = True
            with pytest.raises(Interrupted, match="control plane is down"):
                await scene.delete("s2", strategy="commit")
            async with other:
                (end,) = await other.recover()
            assert isinstance(end, Interrupted)
            assert "not that program" in end.what and "PATH" in end.remedy
            failing = False
            end = await recovered(scene)
            assert isinstance(end, Deletion) and end.state == "completed"
            [disk] = await scene.disks()
            assert told[-1].disks[0].source == disk.source
            assert told[-1].hook is None and told[-1].machine == "deletion"

    play(story())
