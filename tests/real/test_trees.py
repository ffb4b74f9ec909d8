"""Trees of snapshots: branches, what several of them share, and long ranges.

The walks look at everything after each step; see `trees.walk`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from backfold.engine.results import Deletion
from backfold.journal import catalog
from backfold.journal.errors import Refused
from real.scene import play
from sampled import sampled
from trees.real_machine import RealMachine
from trees.walk import DOMAIN, SLOWLY, Walk

Story = Callable[[Walk], Awaitable[None]]


def on(folder: Path, story: Story, *origins: str) -> None:
    """Play a story on a domain with disks of these origins."""

    async def play_it() -> None:
        walk = await Walk.begin(RealMachine(folder, origins or ("qcow2",)))
        try:
            await story(walk)
        finally:
            await walk.end()

    play(play_it())


async def grow(walk: Walk) -> None:
    """Make s1 → {s2 → s3, s4 → s5}, with writes everywhere; s5 is current."""
    for name in ("s1", "s2", "s3", "", "s4", "s5"):
        if name:
            await walk.take(name)
        else:
            await walk.revert("s1")
        await walk.write()


async def kept(walk: Walk) -> list[str]:
    """Images that stay without a snapshot."""
    store = walk.engine._driver.store
    return [p for _, p in await store.read(lambda db: catalog.kept_images(db, DOMAIN))]


async def last(walk: Walk) -> Deletion:
    """The last deletion."""
    return (await walk.engine.deletions())[0]


async def started(walk: Walk) -> list[str]:
    """The disks for which the last deletion has started a job."""
    rows = await walk.engine.log((await last(walk)).id)
    return [
        row.detail["disk"]
        for row in rows
        if (row.trigger, row.kind) == ("start_job", "announce")
    ]


@pytest.mark.parametrize(
    ("order", "power"),
    sampled(
        1,
        [
            ("s1 s4 s5 s3 s2", "on"),
            ("s1 s2 s3 s4 s5", "off"),
        ],
    ),
)
def test_five_snapshots_on_two_branches_go_in_any_order(
    tmp_path: Path, order: str, power: str
) -> None:
    """Whatever depends on them, in the active chain and outside of it."""

    async def story(walk: Walk) -> None:
        await grow(walk)
        if power == "on":
            await walk.power()
        for name in order.split():
            await walk.delete([name])
            assert (await last(walk)).state == "completed"
        assert await kept(walk) == []

    on(tmp_path, story)


def test_a_shared_image_stays_until_one_branch_is_left(tmp_path: Path) -> None:
    """Then it is folded by itself, in another pass of the same deletion."""

    async def story(walk: Walk) -> None:
        await grow(walk)
        domain = await walk.engine.catalog.domain(DOMAIN)
        first = (await walk.engine.catalog.snapshot(DOMAIN, "s1")).disks[0].frozen
        await walk.delete(["s1"])
        assert await kept(walk) == [first]
        assert await started(walk) == []
        await walk.delete(["s2", "s3"], through="s3")
        assert await kept(walk) == []
        rows = await walk.engine.log((await last(walk)).id)
        assert [row.trigger for row in rows].count("again") == 1
        after = await walk.engine.catalog.domain(DOMAIN)
        assert domain.disks == after.disks

    on(tmp_path, story)


def test_the_other_branch_is_folded_beside_a_running_domain(tmp_path: Path) -> None:
    """A helper has its images; the domain's QEMU is not touched."""

    async def story(walk: Walk) -> None:
        await grow(walk)
        await walk.power()
        plan = await walk.engine.plan(DOMAIN, "s3")
        assert (plan.power, plan.place, plan.folds) == ("running", "domain", ())
        plan = await walk.engine.plan(DOMAIN, "s2")
        assert (plan.power, plan.place) == ("running", "helper")
        await walk.delete(["s2"])
        assert await started(walk) == ["vda"]
        plan = await walk.engine.plan(DOMAIN, "s4")
        assert (plan.power, plan.place) == ("running", "domain")
        await walk.delete(["s4"])

    on(tmp_path, story)


@pytest.mark.parametrize(
    ("layers", "disks", "way", "power"),
    sampled(
        2, [(20, 1, "commit", "on"), (4, 2, "stream", "on"), (4, 2, "commit", "off")]
    ),
)
def test_many_layers_are_one_job_for_each_disk(
    tmp_path: Path, layers: int, disks: int, way: str, power: str
) -> None:
    """And one pass over the data."""

    async def story(walk: Walk) -> None:
        if power == "on":
            await walk.power()
        names = [f"s{number}" for number in range(1, layers + 1)]
        for name in names:
            await walk.engine.create_snapshot(DOMAIN, name)
            walk.model.take(walk.model.disks)
            await walk.write(1, look=False)
        await walk.delete(names[:-1], through=names[-2], way=way)
        assert sorted(await started(walk)) == ["vda", "vdb"][:disks]
        await walk.delete(names[-1:], way=way)

    on(tmp_path, story, *["qcow2"] * disks)


def test_a_stream_of_everything_leaves_the_first_image(tmp_path: Path) -> None:
    """No snapshot made it; the disk is not based on it any more, which is told."""

    async def story(walk: Walk) -> None:
        for name in ("s1", "s2"):
            await walk.take(name)
            await walk.write()
        first = walk.machine.disks[0].source
        plan = await walk.engine.plan(DOMAIN, "s1", through="s2", strategy="stream")
        (fold,) = plan.folds
        assert fold.superseded[-1].path == first
        assert fold.link is None
        await walk.delete(["s1", "s2"], through="s2", way="stream")
        assert [disk.chain for disk in await walk.engine.disks(DOMAIN)] == [
            (f"{first}.s2",)
        ]

    on(tmp_path, story)


@pytest.mark.parametrize("many", [True, False])
def test_the_cheaper_way_is_taken(tmp_path: Path, many: bool) -> None:
    """What is below is big: commit. What is on top is big: stream."""

    async def story(walk: Walk) -> None:
        await walk.take("s1")
        await walk.write(blocks=1 if not many else 12)
        await walk.take("s2")
        await walk.write(blocks=12 if not many else 1)
        plan = await walk.engine.plan(DOMAIN, "s2")
        assert plan.folds[0].strategy == ("commit" if many else "stream")
        await walk.delete(["s2"])

    on(tmp_path, story)


@pytest.mark.parametrize("scope", ["children", "children-only"])
def test_subtrees_go_at_once(tmp_path: Path, scope: str) -> None:
    """With the snapshot, or without; the domain stays where it is."""

    async def story(walk: Walk) -> None:
        await grow(walk)
        names = ["s1", "s2", "s4", "s3", "s5"]
        await walk.delete(names if scope == "children" else names[1:], scope=scope)

    on(tmp_path, story, "raw")


def test_metadata_alone(tmp_path: Path) -> None:
    """Only the name goes; parent and child can still be deleted."""

    async def story(walk: Walk) -> None:
        for name in ("s1", "s2", "s3"):
            await walk.take(name)
            await walk.write()
        before = walk.machine.files()
        await walk.delete(["s2"], metadata_only=True)
        assert walk.machine.files() == before
        await walk.delete(["s1"])
        await walk.delete(["s3"])

    on(tmp_path, story)


def test_an_image_of_somebody_else_below_which_nothing_goes(tmp_path: Path) -> None:
    """The top of a branch whose name alone was deleted is a stranger from then on."""

    async def story(walk: Walk) -> None:
        await grow(walk)
        await walk.delete(["s3"], metadata_only=True)
        with pytest.raises(Refused) as refused:
            await walk.engine.delete(DOMAIN, "s2")
        codes = {reason.code for reason in refused.value.reasons}
        assert codes == {"foreign_user_of_base"}
        await walk.look()
        await walk.delete(["s1"])
        await walk.delete(["s4"])

    on(tmp_path, story)


@pytest.mark.parametrize("power", ["off", "on"])
def test_a_stream_that_is_given_up_leaves_a_valid_snapshot(
    tmp_path: Path, power: str
) -> None:
    """Nothing was written into what it froze."""

    async def story(walk: Walk) -> None:
        for name in ("s1", "s2", "s3"):
            await walk.take(name)
            await walk.write()
        if power == "on":
            await walk.power()
        for names in (["s3"], ["s2"], ["s1", "s2", "s3"]):
            await walk.delete(names, way="stream", through=names[-1], **SLOWLY)
            assert (await last(walk)).state == "rolled_back"
            assert walk.model.invalid == set()
        await walk.delete(["s1", "s2", "s3"], way="stream", through="s3")

    on(tmp_path, story)
