"""What an adoption makes of facts: branches, living QEMUs, and reasons to refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backfold.engine.adoption import plan_adoption
from backfold.engine.adoption_facts import AdoptionFacts, DiskChain, ImageFacts
from backfold.journal.errors import Reason, Refused
from backfold.journal.model import (
    Disk,
    Domain,
    FileId,
    FileStamp,
    Snapshot,
    SnapshotDisk,
)
from backfold.states.ports import ImageHeader, LiveChain, LiveImage

NOW = "2026-01-01T00:00:00.000000+00:00"


def image(name: str, number: int, *labels: str) -> ImageFacts:
    """An image ``/i/NAME`` with this inode, older the lower the number."""
    path = f"/i/{name}"
    header = ImageHeader(path, "qcow2", FileId(1, number), 1, None, None, None)
    stamp = FileStamp(1, number)
    return ImageFacts(path, header, stamp, frozenset(labels), False, (), None, ())


def snapshot(name: str, parent: str | None, frozen: str, current: bool) -> Snapshot:
    disks = (SnapshotDisk("vda", f"/i/{frozen}", "qcow2"),)
    return Snapshot("web", name, parent, NOW, "valid", None, current, disks)


def branched() -> AdoptionFacts:
    """A chain with two nameless images in the middle, and a branch off the upper.

    web.qcow2 (a) ← web.x ← web.y ← web.b (b) ← web.top, and web.y ← web.c (c).
    """
    disk = Disk("vda", "/i/web.top", "qcow2")
    chain = (
        image("web.top", 5),
        image("web.b", 4, "b"),
        image("web.y", 3),
        image("web.x", 2),
        image("web.qcow2", 1, "a"),
    )
    lineages = {"a": {1}, "b": {4, 3, 2, 1}, "c": {6, 3, 2, 1}, "d": {7, 1}}
    return AdoptionFacts(
        domain=Domain("web", "/i/m", (disk,)),
        snapshots=(
            snapshot("a", None, "web.qcow2", False),
            snapshot("b", "a", "web.b", True),
            snapshot("c", "a", "web.c", False),
            snapshot("d", "a", "web.d", False),
        ),
        open_runs=(),
        monitor_busy=False,
        run_state=None,
        jobs=(),
        disks=(DiskChain(disk, chain, None, None),),
        lineages={
            name: frozenset(FileId(1, inode) for inode in inodes)
            for name, inodes in lineages.items()
        },
        managed={},
        insist=False,
        now=NOW,
    )


def alive(facts: AdoptionFacts, *order: int) -> AdoptionFacts:
    """The same, with a QEMU that has images of these inodes."""
    images = tuple(
        LiveImage(str(n), None, f"/i/{n}", "qcow2", FileId(1, n), True) for n in order
    )
    live = LiveChain("vda", str(order[0]), images)
    disks = tuple(replace(disk, live=live) for disk in facts.disks)
    return replace(facts, run_state="running", disks=disks)


def codes(facts: AdoptionFacts) -> list[str]:
    with pytest.raises(Refused) as refused:
        plan_adoption(facts)
    return [reason.code for reason in refused.value.reasons]


def test_branches_keep_their_place() -> None:
    adoption = plan_adoption(branched())

    # The image below web.b is web.y, so that its snapshot is called b: it is taken.
    assert [(s.name, s.parent) for s in adoption.snapshots] == [
        ("y", "a"),
        ("b-2", "y"),
    ]
    assert dict(adoption.parents) == {"b": "b-2", "c": "b-2"}
    assert adoption.current == "b"
    assert {i.path for i in adoption.images if i.ours} == {"/i/web.b", "/i/web.y"}


def test_a_living_qemu_must_have_the_same_chain() -> None:
    facts = branched()

    assert plan_adoption(alive(facts, 5, 4, 3, 2, 1)).power == "running"
    assert codes(alive(facts, 5, 4, 3, 1)) == ["chain_differs"]
    assert codes(replace(facts, run_state="paused")) == ["chain_differs"]


def test_every_reason_is_told_at_once() -> None:
    facts = branched()
    opened = Reason("deletion_open", "It is open.", "Recover it.")
    spoilt = replace(
        alive(facts, 5, 4, 3, 2, 1),
        open_runs=(opened,),
        monitor_busy=True,
        run_state="inmigrate",
        jobs=("mirror",),
        managed={FileId(1, 1): "domain x"},
    )

    assert codes(spoilt) == [
        "deletion_open",
        "monitor_busy",
        "unsafe_run_state",
        "foreign_job",
        "managed_by_libvirt",
    ]
    insisted = replace(facts, managed={FileId(1, 1): "domain x"}, insist=True)
    assert plan_adoption(insisted).current == "b"


def test_a_kept_image_stays_without_a_name() -> None:
    facts = branched()
    disk = facts.disks[0]
    images = (*disk.images[:2], replace(disk.images[2], kept=True), *disk.images[3:])
    adoption = plan_adoption(replace(facts, disks=(replace(disk, images=images),)))

    assert [s.name for s in adoption.snapshots] == ["y"]
    assert {i.path for i in adoption.images if i.ours} == {"/i/web.y"}
