"""Which image to boot from, whatever the fold of a disk has come to."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from backfold.engine.results import ON_BASE
from backfold.engine.truth import BootSource, boot_sources
from backfold.journal.model import (
    DEVICE_STAMP,
    Disk,
    Domain,
    FileId,
    FileStamp,
    FoldPlan,
    Image,
    Plan,
)
from backfold.journal.runs import DeletionRow, FoldRow
from backfold.states.fold import ALLOWED, FOLD
from backfold.states.ports import Images
from backfold.states.stamps import WentOn, went_on

RUN = "0123456789ab"
STAMP = FileStamp(512, 1)
LATER = FileStamp(1024, 2)
TOP = Image("/i/top", "qcow2", FileId(1, 10), 512)
BASE = Image("/i/base", "raw", FileId(1, 20), 512)
ABOVE = Image("/i/above", "qcow2", FileId(1, 30), 512)
FENCE = f"/i/top.backfold-{RUN}"
DOMAIN = Domain("d", None, (Disk("vda", "/i/top", "qcow2"), Disk("vdb", "/b", "raw")))


class Files:
    """Files by name, as far as `boot_sources` asks for them."""

    def __init__(self, **files: Image) -> None:
        self._files = {f"/i/{name}": image for name, image in files.items()}
        self.stamps: dict[str, FileStamp] = {}

    def fence(self) -> Files:
        self._files[FENCE] = self._files.pop("/i/top")
        return self

    def identify(self, path: str) -> FileId | None:
        image = self._files.get(path)
        return None if image is None else image.file

    def stamp(self, path: str) -> FileStamp | None:
        return self.stamps.get(path, STAMP) if path in self._files else None

    def fence_name(self, path: str, run: str) -> str:
        return f"{path}.backfold-{run}"


def files() -> Files:
    return Files(top=TOP, base=BASE)


def deletion(state: str, fold: str, *, active: bool = True) -> DeletionRow:
    """An open deletion that folds vda alone."""
    plan = FoldPlan(
        "vda",
        f"backfold-{RUN}-0",
        "commit",
        (TOP, BASE) if active else (ABOVE, TOP, BASE),
        0 if active else 1,
        1 if active else 2,
        None,
        0,
        0,
        STAMP,
    )
    stamps = (STAMP, STAMP) if fold in ON_BASE else (None, None)
    return DeletionRow(
        id=RUN,
        domain="d",
        snapshot="s",
        state=state,
        generation=1,
        options={},
        plan=Plan("d", "s", ("s",), None, "off", "helper", "boot", (plan,)),
        helper=None,
        hold=None,
        cancel_requested=False,
        downtime_ms=None,
        reason=None,
        started="",
        finished=None,
        folds=(FoldRow("vda", fold, *stamps),),
    )


def source(
    row: DeletionRow | None, files: Files, domain: Domain = DOMAIN
) -> BootSource:
    """What vda boots from; the other disk is never touched."""
    vda, vdb = boot_sources(domain, row, cast(Images, files))
    assert vdb == BootSource(DOMAIN.disks[1])
    return vda


def boot(row: DeletionRow | None, files: Files, domain: Domain = DOMAIN) -> Disk:
    """What vda boots from, beyond doubt."""
    found = source(row, files, domain)
    assert found.doubt is None
    return found.disk


def test_without_a_deletion_the_catalog_is_the_truth() -> None:
    """And before a plan is made, nothing can have changed."""
    unplanned = replace(deletion("validate", "planned"), plan=None, folds=())

    assert boot(None, files()) == DOMAIN.disks[0]
    assert boot(unplanned, files()) == DOMAIN.disks[0]


@pytest.mark.parametrize("fold", sorted({s.name for s in FOLD.states} - ON_BASE))
def test_without_a_decision_the_overlay_is_the_truth(fold: str) -> None:
    """Under the name that it has: `recover` takes a fence back."""
    row = deletion("vote", fold)

    assert boot(row, files()) == Disk("vda", "/i/top", "qcow2")
    assert boot(row, files().fence()) == Disk("vda", FENCE, "qcow2")


@pytest.mark.parametrize("fold", sorted(ON_BASE))
@pytest.mark.parametrize("fenced", [False, True])
def test_with_the_decision_the_base_is_the_truth(fold: str, fenced: bool) -> None:
    """With the format of the base, whether the overlay is still there or not."""
    row = deletion("pivot", fold)
    here = files().fence() if fenced else files()

    if fold == "voted" and not fenced:  # Somebody took the fence back by hand.
        assert boot(row, here) == Disk("vda", "/i/top", "qcow2")
    else:
        assert boot(row, here) == Disk("vda", "/i/base", "raw")
    assert boot(row, Files(base=BASE)) == Disk("vda", "/i/base", "raw")


def test_after_the_catalog_has_it_the_base_stays_the_truth() -> None:
    """`update_metadata` changes the source first and retires images later."""
    recorded = replace(DOMAIN, disks=(Disk("vda", "/i/base", "raw"), DOMAIN.disks[1]))

    for fold in ("switched", "retired"):
        row = deletion("update_metadata", fold)
        assert boot(row, files().fence(), recorded) == recorded.disks[0]


@pytest.mark.parametrize("fold", [state.name for state in FOLD.states])
def test_an_intermediate_fold_does_not_change_what_is_booted(fold: str) -> None:
    """The active image lies above it; its link is changed, not its name."""
    domain = replace(DOMAIN, disks=(Disk("vda", "/i/above", "qcow2"), DOMAIN.disks[1]))
    here = Files(top=TOP, base=BASE, above=ABOVE)

    assert boot(deletion("pivot", fold, active=False), here, domain) == domain.disks[0]


def test_another_file_of_the_fences_name_is_not_booted() -> None:
    """Compared by device and inode: a name proves nothing."""
    here = files()
    here._files[FENCE] = ABOVE

    assert boot(deletion("vote", "converged"), here).source == "/i/top"


def test_the_base_is_the_truth_exactly_from_the_decision_on() -> None:
    """The set agrees with the table of folds: voted states exist in decided runs."""
    assert ON_BASE == {"voted", "switched", "retired"}
    undecided = ("prepare", "start_paused", "commit_per_disk", "vote", "roll_back")

    for state in undecided:
        assert not ALLOWED[state] & ON_BASE
    for state in ("update_metadata", "stop"):
        assert ALLOWED[state] <= ON_BASE


def changed(fenced: bool, *names: str) -> Files:
    """Both images, of which the named ones went on since the decision."""
    here = files().fence() if fenced else files()
    top = FENCE if fenced else "/i/top"
    here.stamps = {{"top": top, "base": "/i/base"}[name]: LATER for name in names}
    return here


@pytest.mark.parametrize("fenced", [False, True])
def test_an_overlay_that_went_on_after_the_decision_is_the_truth(fenced: bool) -> None:
    """Invariant 2: the overlay changed and the base not, so somebody cancelled."""
    here = changed(fenced, "top")
    name = FENCE if fenced else "/i/top"

    assert boot(deletion("pivot", "voted"), here) == Disk("vda", name, "qcow2")


@pytest.mark.parametrize("fenced", [False, True])
def test_a_base_that_went_on_after_the_decision_is_the_truth(fenced: bool) -> None:
    """As it should: the guest writes there."""
    here = changed(fenced, "base")

    assert boot(deletion("pivot", "voted"), here) == Disk("vda", "/i/base", "raw")


@pytest.mark.parametrize("fenced", [False, True])
def test_when_both_went_on_there_is_doubt(fenced: bool) -> None:
    """Two writers: nobody can tell, and nobody is told that one is right."""
    found = source(deletion("pivot", "voted"), changed(fenced, "top", "base"))

    assert found.disk == Disk("vda", "/i/base", "raw")
    assert found.doubt is not None
    assert "/i/top" in found.doubt


@pytest.mark.parametrize("fold", sorted(ON_BASE - {"voted"}))
def test_after_the_switch_the_stamps_do_not_count(fold: str) -> None:
    """The base was read back: what was written to the overlay is nobody's."""
    for names in (("top",), ("top", "base")):
        here = changed(False, *names)
        assert boot(deletion("pivot", fold), here) == Disk("vda", "/i/base", "raw")


@pytest.mark.parametrize("fenced", [False, True])
@pytest.mark.parametrize(
    ("names", "outcome"),
    [
        ((), WentOn.NOTHING),
        (("base",), WentOn.BASE),
        (("top",), WentOn.OVERLAY),
        (("top", "base"), WentOn.BOTH),
    ],
)
def test_the_stamps_tell_which_image_went_on(
    fenced: bool, names: tuple[str, ...], outcome: WentOn
) -> None:
    """By size and mtime, under whichever name the overlay has.

    An overlay that has its own name again is kept even unchanged: somebody took the
    fence back by hand.
    """
    if outcome is WentOn.NOTHING and not fenced:
        outcome = WentOn.OVERLAY

    assert went(changed(fenced, *names)) is outcome


@pytest.mark.parametrize("how", ["another file", "cut"])
def test_an_image_that_was_replaced_or_cut_is_nobodys_truth(how: str) -> None:
    """A base that is not the one of the decision did not go on; nor did an overlay."""
    for name, stamp_of, outcome in (
        ("/i/base", "/i/base", WentOn.BASE_REPLACED),
        (FENCE, FENCE, WentOn.OVERLAY_REPLACED),
    ):
        here = files().fence()
        if how == "another file":
            here._files[name] = ABOVE
        here.stamps[stamp_of] = FileStamp(511, 2) if how == "cut" else LATER

        assert went(here) is outcome
        assert source(deletion("pivot", "voted"), here).doubt is not None

    here.stamps["/i/base"] = LATER  # It went on; what became of the other is nothing.
    assert went(here) is WentOn.BASE


def test_a_device_as_base_does_not_tell() -> None:
    """The base is the truth while the overlay is fenced and unchanged, or gone."""
    for here, outcome in (
        (changed(True), WentOn.NOTHING),
        (Files(base=BASE), WentOn.NOTHING),
        (changed(True, "top"), WentOn.UNTOLD),
        (changed(False), WentOn.UNTOLD),
        (changed(False, "top"), WentOn.UNTOLD),
    ):
        here.stamps["/i/base"] = DEVICE_STAMP
        row = deletion("pivot", "voted")
        plan = row.plan
        assert plan is not None
        silent = replace(row.folds[0], base_stamp=DEVICE_STAMP)
        row = replace(row, folds=(silent,))
        images = cast(Images, here)

        assert went_on(plan.folds[0], silent, images, RUN) is outcome
        assert (source(row, here).doubt is None) == (outcome is WentOn.NOTHING)


def test_an_image_that_is_gone_is_told_apart() -> None:
    """Without the base there is no answer; without the overlay only the base's."""
    gone = Files(base=BASE)
    assert went(gone) is WentOn.NOTHING
    gone.stamps["/i/base"] = LATER
    assert went(gone) is WentOn.BASE
    for here in (Files(top=TOP), Files(top=TOP).fence(), Files()):
        assert went(here) is WentOn.BASE_MISSING


def went(files: Files) -> WentOn:
    """What `went_on` says of vda, decided with the same stamp for both images."""
    row = deletion("pivot", "voted")
    assert row.plan is not None
    return went_on(row.plan.folds[0], row.folds[0], cast(Images, files), RUN)
