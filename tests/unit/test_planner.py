"""Facts into plans: names, links, sizes and risks."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfold.engine.facts import ChainFacts, DiskFacts, Facts, FoldFacts
from backfold.engine.planner import FoldPlanner, link, plan_from
from backfold.engine.reader import Reader
from backfold.engine.sizes import commit_sizes
from backfold.journal.errors import Reason, Refused
from backfold.journal.model import Domain, FileId, FileStamp, Snapshot
from backfold.states.options import Options
from backfold.states.ports import Extent, ImageHeader, Images, ImageUser

RUN = "0123456789ab"
DATA = Extent(0, 4096, True, True)


def identify(path: str) -> FileId | None:
    """Device and inode of a real file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return FileId(found.st_dev, found.st_ino)


def header(path: Path | str, backing: str | None = None, **more: object) -> ImageHeader:
    """The header of an image; its file is made if it can be."""
    path = Path(path)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    file = identify(str(path))
    assert file is not None
    plain = ImageHeader(str(path), "qcow2", file, 1 << 20, backing, "qcow2", None)
    return replace(plain, **more)  # type: ignore[arg-type]


def test_a_relative_link_stays_relative(tmp_path: Path) -> None:
    """A directory of images can be moved as a whole, before and after."""
    base = header(tmp_path / "base")

    assert link(header(tmp_path / "o2", "o1"), base, identify) == "base"
    above = header(tmp_path / "vm" / "o2", "../o1")
    assert link(above, base, identify) == "../base"
    below = header(tmp_path / "templates" / "base")
    assert link(header(tmp_path / "o3", "o1"), below, identify) == "templates/base"


def test_an_absolute_link_stays_absolute(tmp_path: Path) -> None:
    """And one that was absent is not invented relative."""
    base = header(tmp_path / "base")

    for backing in (str(tmp_path / "o1"), None):
        above = header(tmp_path / "o2", backing)
        assert link(above, base, identify) == str(tmp_path / "base")


def test_a_relative_name_that_leads_elsewhere_is_not_used(tmp_path: Path) -> None:
    """Seen from a linked directory, `..` is another place than by its name."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "vm").symlink_to(tmp_path / "real" / "deep")
    base = header(tmp_path / "base")
    above = header(tmp_path / "vm" / "o2", "o1")

    assert link(above, base, identify) == str(tmp_path / "base")

    header(tmp_path / "real" / "base")
    assert link(above, base, identify) == str(tmp_path / "base")


def test_a_name_with_a_colon_is_not_used_relative(tmp_path: Path) -> None:
    """QEMU takes `nbd:x` in a header for a protocol."""
    base = header(tmp_path / "nbd:x")

    assert link(header(tmp_path / "o2", "o1"), base, identify) == str(
        tmp_path / "nbd:x"
    )


@given(
    above=st.lists(st.sampled_from("abc"), max_size=3),
    base=st.lists(st.sampled_from("abc"), max_size=3),
)
def test_a_link_always_leads_to_the_base(above: list[str], base: list[str]) -> None:
    """Read as QEMU reads it: from the directory of the image that has it."""
    top = ImageHeader(
        os.path.join("/i", *above, "top"), "qcow2", FileId(1, 1), 1, "x", "raw", None
    )
    below = replace(top, path=os.path.join("/i", *base, "base"), file=FileId(1, 2))

    def known(path: str) -> FileId | None:
        return below.file if os.path.normpath(path) == below.path else None

    found = link(top, below, known)

    joined = os.path.join(os.path.dirname(top.path), found)
    assert os.path.normpath(joined) == below.path
    assert not os.path.isabs(found)


# Plans


def disk(folder: Path, target: str, depth: int = 1) -> DiskFacts:
    """A disk with three images whose frozen one lies at ``depth``."""
    base = header(folder / target / "base")
    middle = header(folder / target / "middle", "base", backing_path=base.path)
    active = header(folder / target / "active", "middle", backing_path=middle.path)
    chain = ChainFacts((active, middle, base))
    fold = FoldFacts(
        chain=chain,
        first=depth - 1,
        last=depth,
        in_domain=True,
        is_ours=False,
        is_known=True,
        is_named=True,
        snapshots=("s",),
        extents=([DATA], []),
        base_stamp=FileStamp(1, 2),
        free_above=(1 << 40, 1),
        free_below=(1 << 40, 1),
    )
    return DiskFacts(target, chain, fold=fold)


def folded(disk: DiskFacts) -> FoldFacts:
    """Its fold."""
    assert disk.fold is not None
    return disk.fold


def but(disk: DiskFacts, **changes: Any) -> DiskFacts:
    """The disk with other facts of its fold."""
    return replace(disk, fold=replace(folded(disk), **changes))


def facts(*disks: DiskFacts, run_state: str | None = None) -> Facts:
    return Facts(
        run=RUN,
        domain=Domain("d", None, ()),
        named="s",
        snapshots=(Snapshot("d", "s", "p", "", "invalid", "written into", False, ()),),
        disks=disks,
        open_runs=(),
        monitor_busy=False,
        run_state=run_state,
        jobs={},
        exports=frozenset(),
        managed={},
        options=Options(),
        boot_id="boot",
    )


def test_a_plan_folds_the_image_above_into_the_frozen_one(tmp_path: Path) -> None:
    """Of each disk: active when that image is the top of the chain."""
    active, middle = disk(tmp_path, "vda"), disk(tmp_path, "vdb", depth=2)

    plan = plan_from(facts(active, middle), identify)

    first, second = plan.folds
    assert (first.target, first.is_active) == ("vda", True)
    assert first.top.path == active.chain.images[0].path
    assert first.base.path == folded(active).base.path
    assert first.link is None
    assert (second.target, second.is_active) == ("vdb", False)
    assert second.above is not None
    assert second.above.path == middle.chain.images[0].path
    assert second.top.path == middle.chain.images[1].path
    assert second.link == "base"
    assert [len(fold.chain) for fold in plan.folds] == [3, 3]
    assert (plan.parent, plan.invalid_before) == ("p", {"s": "written into"})


def test_job_names_are_derived_from_the_run(tmp_path: Path) -> None:
    """Recovery knows its jobs by their names, and two disks never share one."""
    plan = plan_from(facts(disk(tmp_path, "vda"), disk(tmp_path, "vdb")), identify)

    assert [fold.job for fold in plan.folds] == [
        f"backfold-{RUN}-0",
        f"backfold-{RUN}-1",
    ]


def test_a_plan_carries_what_is_copied_and_the_stamp_of_the_base(
    tmp_path: Path,
) -> None:
    """The stamp tells a roll back whether the snapshot was written into."""
    (fold,) = plan_from(facts(disk(tmp_path, "vda")), identify).folds
    sizes = commit_sizes([[DATA], []])

    assert (fold.copy_bytes, fold.space_bytes) == (sizes.copy_bytes, sizes.space_bytes)
    assert fold.base_stamp == FileStamp(1, 2)


@pytest.mark.parametrize(
    ("run_state", "power"),
    [
        (None, "off"),
        ("running", "running"),
        ("paused", "paused"),
        ("prelaunch", "paused"),
        ("shutdown", "paused"),
        ("io-error", "paused"),
    ],
)
def test_a_guest_that_does_not_run_is_not_taken_for_running(
    tmp_path: Path, run_state: str | None, power: str
) -> None:
    """What was not running is never resumed."""
    plan = plan_from(facts(disk(tmp_path, "vda"), run_state=run_state), identify)

    assert plan.power == power


def test_risks_are_told_when_they_exist(tmp_path: Path) -> None:
    """A changed image name, a snapshot that is spent, a guest that stands still."""

    def risks(*disks: DiskFacts, run_state: str | None) -> str:
        return " ".join(plan_from(facts(*disks, run_state=run_state), identify).risks)

    active, middle = disk(tmp_path, "vda"), disk(tmp_path, "vdb", depth=2)

    assert "stands still" in risks(active, run_state="running")
    assert "image name changes" in risks(active, run_state="running")
    assert "stands still" not in risks(active, run_state="paused")
    assert "image name changes" not in risks(middle, run_state="running")
    assert "stands still" not in risks(middle, run_state="running")
    assert "reverted" in risks(middle, run_state=None)
    assert risks(run_state="running") == ""


# The planner


def planner(found: Facts) -> FoldPlanner:
    """One that reads these facts."""

    class Known:
        images = cast(Images, type("Files", (), {"identify": staticmethod(identify)}))

        async def read(self, *_: object) -> Facts:
            return found

    return FoldPlanner(cast(Reader, Known()))


def test_a_plan_is_what_the_facts_allow(tmp_path: Path) -> None:
    """Nothing is in the way: a plan."""
    found = facts(disk(tmp_path, "vda"))

    plan = asyncio.run(planner(found).plan(RUN, "d", "s", Options()))

    assert plan == plan_from(found, identify)


def test_all_reasons_are_told_at_once(tmp_path: Path) -> None:
    """An operator mends them in one go; 4 when somebody else has the images."""
    full = but(disk(tmp_path, "vda"), free_below=(0, 2))
    used = but(disk(tmp_path, "vdb"), users=[("/x", ImageUser(1, "qemu", True))])
    fixed = but(disk(tmp_path, "vdc"), fence_obstacle="it has two hard links")
    other = Reason("deletion_open", "open", "recover")
    found = replace(facts(full, used, fixed), open_runs=(other,))

    with pytest.raises(Refused) as caught:
        asyncio.run(planner(found).plan(RUN, "d", "s", Options()))

    codes = [(reason.code, reason.disk) for reason in caught.value.reasons]
    assert ("deletion_open", None) in codes
    assert ("image_in_use", "vdb") in codes
    assert ("no_space", "vda") in codes
    assert ("fence_impossible", "vdc") in codes
    assert "/x is in use: qemu." in caught.value.what
    assert caught.value.exit_status == 4


@pytest.mark.parametrize("which", ["base", "above"])
def test_an_image_that_could_not_be_flushed_is_not_trusted_again(
    tmp_path: Path, which: str
) -> None:
    """Another deletion would ask the kernel again, which has forgotten it."""
    middle = disk(tmp_path, "vda", depth=2)
    image = folded(middle).base if which == "base" else middle.chain.images[0]
    found = replace(facts(middle), failed_flushes={image.path: "then"})

    with pytest.raises(Refused) as caught:
        asyncio.run(planner(found).plan(RUN, "d", "s", Options()))

    (reason,) = caught.value.reasons
    assert (reason.code, reason.disk) == ("flush_failed", "vda")
    assert image.path in reason.message
    top = replace(facts(middle), failed_flushes={folded(middle).top.path: "then"})
    asyncio.run(planner(top).plan(RUN, "d", "s", Options()))
