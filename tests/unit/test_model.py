"""Values that the journal keeps come back as they went in."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfold.journal.model import (
    PLAN_VERSION,
    CreationPlan,
    Disk,
    DiskReversion,
    Domain,
    FileId,
    FileStamp,
    FoldPlan,
    Image,
    KeptImage,
    MemoryFile,
    OverlayPlan,
    Plan,
    RetiredImage,
    ReversionPlan,
    Snapshot,
    SnapshotDisk,
)

numbers = st.integers(0, 2**63 - 1)
#: File names are bytes: what is not UTF-8 reaches Python as lone surrogates.
texts = st.text(st.characters(), max_size=12) | st.binary(max_size=8).map(
    lambda name: name.decode("utf-8", "surrogateescape")
)
files = st.builds(FileId, numbers, numbers)
stamps = st.builds(FileStamp, numbers, st.integers(-(2**62), 2**62))
images = st.builds(Image, texts, st.sampled_from(["qcow2", "raw"]), files, numbers)
folds = st.builds(
    FoldPlan,
    target=texts,
    job=texts,
    strategy=st.sampled_from(["commit", "stream"]),
    chain=st.lists(images, min_size=1, max_size=4).map(tuple),
    first=st.integers(0, 3),
    last=st.integers(0, 3),
    link=st.none() | texts,
    copy_bytes=numbers,
    space_bytes=numbers,
    base_stamp=stamps,
    because=texts,
    is_named=st.booleans(),
    snapshots=st.lists(texts, max_size=3).map(tuple),
)
names = st.lists(texts, max_size=3).map(tuple)
plans = st.builds(
    Plan,
    domain=texts,
    snapshot=texts,
    snapshots=names,
    parent=st.none() | texts,
    power=st.sampled_from(["running", "paused", "off"]),
    place=st.sampled_from(["domain", "helper"]),
    boot_id=texts,
    folds=st.lists(folds, max_size=3).map(tuple),
    kept=st.lists(st.builds(KeptImage, texts, texts, names), max_size=2).map(tuple),
    retired=st.lists(
        st.builds(RetiredImage, target=texts, image=images, is_ours=st.booleans()),
        max_size=2,
    ).map(tuple),
    memories=st.lists(
        st.builds(MemoryFile, texts, texts, st.none() | files), max_size=2
    ).map(tuple),
    invalid_before=st.dictionaries(texts, texts, max_size=2),
    risks=names,
    has_more=st.booleans(),
)
overlays = st.builds(
    OverlayPlan,
    target=texts,
    frozen=images,
    overlay=texts,
    link=texts,
    frozen_stamp=stamps,
)
creations = st.builds(
    CreationPlan,
    domain=texts,
    snapshot=texts,
    power=st.sampled_from(["running", "paused", "off"]),
    boot_id=texts,
    overlays=st.lists(overlays, max_size=3).map(tuple),
)
reversions = st.builds(
    ReversionPlan,
    domain=texts,
    snapshot=texts,
    boot_id=texts,
    disks=st.lists(
        st.builds(
            DiskReversion,
            overlay=overlays,
            former=images,
            former_stamp=stamps,
            held=numbers,
            since=st.none() | texts,
            stays=st.none() | texts,
        ),
        max_size=3,
    ).map(tuple),
    untouched=st.lists(texts, max_size=2).map(tuple),
    missing=st.lists(texts, max_size=2).map(tuple),
    image_folders=st.lists(texts, max_size=2).map(tuple),
)


@given(plans)
def test_a_plan_comes_back_whole(plan: Plan) -> None:
    """Recovery works from the stored plan: nothing may be lost or change its type."""
    text = plan.to_json()

    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    assert text.isascii()


@given(creations | reversions)
def test_other_plans_come_back_whole(plan: CreationPlan | ReversionPlan) -> None:
    """The same for taking a snapshot, and for going back to one."""
    text = plan.to_json()

    assert type(plan).from_json(text) == plan
    assert hash(type(plan).from_json(text)) == hash(plan)
    assert text.isascii()


@pytest.mark.parametrize("version", [PLAN_VERSION + 1, 0, None, "1"])
@pytest.mark.parametrize(
    "plan",
    [
        Plan("d", "s", ("s",), None, "off", "helper", "b", ()),
        CreationPlan("d", "s", "off", "b", ()),
        ReversionPlan("d", "s", "b", ()),
    ],
    ids=["deletion", "creation", "reversion"],
)
def test_a_plan_of_another_version_is_not_guessed_at(
    plan: Plan | CreationPlan | ReversionPlan, version: Any
) -> None:
    """A field that means something else would be worse than no plan."""
    data = json.loads(plan.to_json())
    assert data["version"] == plan.version

    with pytest.raises(ValueError, match="version"):
        plan.from_json(json.dumps({**data, "version": version}))
    del data["version"]
    with pytest.raises(ValueError, match="version"):
        plan.from_json(json.dumps(data))


IMAGE = Image("/a", "qcow2", FileId(1, 2), 512)
FOLD = FoldPlan(
    "vda",
    "backfold-0-0",
    "commit",
    chain=(IMAGE, replace(IMAGE, path="/b")),
    first=0,
    last=1,
    link=None,
    copy_bytes=0,
    space_bytes=0,
    base_stamp=FileStamp(0, 0),
)


def test_a_fold_is_active_when_nothing_is_above_its_top() -> None:
    """The distinction between an active and an intermediate commit."""
    above = replace(IMAGE, path="/above")
    middle = replace(FOLD, chain=(above, *FOLD.chain), first=1, last=2)

    assert FOLD.is_active
    assert not middle.is_active
    assert FOLD.active_image == FOLD.top
    assert middle.active_image == above


def test_a_plan_finds_its_folds_by_target() -> None:
    """One that it does not have is a KeyError, never another one."""
    folds = (FOLD, replace(FOLD, target="vdb"))
    plan = Plan("d", "s", ("s",), None, "off", "helper", "b", folds)

    assert plan.fold("vdb").target == "vdb"
    with pytest.raises(KeyError):
        plan.fold("vdc")


def test_domain_and_snapshot_find_their_disks() -> None:
    """None for a disk that is not included."""
    domain = Domain("d", None, (Disk("vda", "/a", "raw"),))
    disks = (SnapshotDisk("vda", "/a", "raw"),)
    snapshot = Snapshot("d", "s", None, "now", "valid", None, True, disks)

    assert domain.disk("vda") == Disk("vda", "/a", "raw")
    assert domain.disk("vdb") is None
    assert snapshot.disk("vda") == disks[0]
    assert snapshot.disk("vdb") is None
