"""Which images went on while a snapshot was being taken, told by data and times."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from backfold.journal.model import (
    CreationPlan,
    FileId,
    FileStamp,
    Image,
    OverlayPlan,
)
from backfold.states.new_overlays import (
    Taken,
    identify_overlays_again,
    stamped,
    which_went_on,
)
from backfold.states.ports import Images

OLD = FileStamp(512, 10)


def plan_of(disks: int) -> CreationPlan:
    overlays = tuple(
        OverlayPlan(
            f"vd{n}", Image(f"/o{n}", "raw", FileId(1, n), 512), f"/n{n}", f"/o{n}", OLD
        )
        for n in range(disks)
    )
    return CreationPlan("web", "s1", "running", "this boot", overlays)


class Files:
    """Old images ``/oN`` and overlays ``/nN``; those in ``written`` hold data."""

    def __init__(self, stamps: dict[str, int], written: tuple[str, ...] = ()) -> None:
        self._stamps = stamps
        self._written = written
        self.device = 1

    def stamp(self, path: str) -> FileStamp | None:
        return FileStamp(512, self._stamps[path]) if path in self._stamps else None

    def identify(self, path: str) -> FileId | None:
        return FileId(self.device, int(path[2:])) if path in self._stamps else None

    async def is_empty(self, path: str, format: str, secret: str | None = None) -> bool:
        return path not in self._written


def judge(plan: CreationPlan, files: Files) -> Taken:
    return asyncio.run(which_went_on(plan, cast(Images, files)))


@pytest.mark.parametrize(
    ("old", "new", "written", "found"),
    [
        (10, 20, (), Taken.EITHER),
        (15, 20, ("/n0",), Taken.OVERLAYS),
        (30, 20, (), Taken.OLD_IMAGES),
        (30, 20, ("/n0",), Taken.BOTH),
        (20, 20, ("/n0",), Taken.OVERLAYS),
    ],
)
def test_before_the_switch_is_recorded_the_order_counts(
    old: int, new: int, written: tuple[str, ...], found: Taken
) -> None:
    """A running guest changed the old image until the switch: that alone is no sign."""
    assert judge(plan_of(1), Files({"/o0": old, "/n0": new}, written)) is found


@pytest.mark.parametrize(
    ("old", "written", "found"),
    [
        (10, (), Taken.EITHER),
        (10, ("/n0",), Taken.OVERLAYS),
        (11, (), Taken.OLD_IMAGES),
        (11, ("/n0",), Taken.BOTH),
    ],
)
def test_afterwards_the_recorded_stamps_count(
    old: int, written: tuple[str, ...], found: Taken
) -> None:
    plan = replace(plan_of(1), is_stamped=True)

    assert judge(plan, Files({"/o0": old, "/n0": 99}, written)) is found


def test_all_disks_are_judged_together() -> None:
    """One overlay with data is enough: the switch is one transaction."""
    files = {"/o0": 1, "/n0": 2, "/o1": 1, "/n1": 2}

    assert judge(plan_of(2), Files(files, ("/n1",))) is Taken.OVERLAYS
    assert judge(plan_of(2), Files({**files, "/o0": 3}, ("/n1",))) is Taken.BOTH


def test_a_guest_that_wrote_to_one_disk_only_since_the_switch_was_switched() -> None:
    """Its other disks were written to after their overlays were made, before it."""
    files = {"/o0": 5, "/n0": 2, "/o1": 1, "/n1": 6}

    assert judge(plan_of(2), Files(files, ("/n1",))) is Taken.OVERLAYS
    assert judge(plan_of(2), Files({**files, "/o0": 7}, ("/n1",))) is Taken.BOTH


def test_an_overlay_that_is_gone_holds_nothing() -> None:
    assert judge(plan_of(1), Files({"/o0": 50}, ("/n0",))) is Taken.EITHER


def test_stamps_are_taken_anew_after_the_switch() -> None:
    plan = stamped(plan_of(2), cast(Images, Files({"/o0": 77})))

    assert plan.is_stamped
    assert [one.frozen_stamp for one in plan.overlays] == [FileStamp(512, 77), OLD]
    assert CreationPlan.from_json(plan.to_json()) == plan


def test_after_a_reboot_the_same_inode_is_the_same_image() -> None:
    files = Files({"/o0": 1, "/o1": 1})
    files.device = 8
    replaced = replace(
        plan_of(2).overlays[1], frozen=Image("/o1", "raw", FileId(1, 9), 1)
    )
    plan = replace(plan_of(2), overlays=(plan_of(2).overlays[0], replaced))

    same = identify_overlays_again(plan, cast(Images, files), "this boot")
    again = identify_overlays_again(plan, cast(Images, files), "another boot")

    assert same is plan
    assert [one.frozen.file for one in again.overlays] == [FileId(8, 0), FileId(1, 9)]


def test_an_overlay_that_is_still_empty_does_not_date_the_switch() -> None:
    """The guest wrote to /o0 until the switch, and to /n1 first after it."""
    stamps = {"/o0": 25, "/n0": 20, "/o1": 24, "/n1": 30}

    assert judge(plan_of(2), Files(stamps, ("/n1",))) is Taken.OVERLAYS
    stamps["/o0"] = 31
    assert judge(plan_of(2), Files(stamps, ("/n1",))) is Taken.BOTH
