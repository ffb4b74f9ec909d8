"""Booting by hand, as docs/rescue.md says, after a kill at any moment of a run.

One machine lives through everything. At each moment that the engine tells its probe
of, QEMU is stopped by a signal, and journal and images are copied: what a SIGKILL of
everything at this moment would leave. Then each copy is put in the place of the
images, the page is followed, and the disks that it names are read back.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from backfold.engine.demo.guest import export_raw, qemu_img
from docs.byhand import Page, rescue, without_journal
from real.scene import DOMAIN, NoGuard, Scene
from sampled import EVERY

#: The runs, and what each does.
RUNS = ("create", "active", "commit", "stream", "revert")
UNLINK = "update_metadata.unlink.done"
#: The moments that `make test` looks at; `make every-case` looks at all.
TELLING = {
    "create": ("overlays_made.switch.announced", "overlays_made.switch.done"),
    "active": (
        "commit_per_disk.start_job.done",
        "vote.complete_jobs.done",
        "vote.fence.done",
        "vote.decide.announced",
        "vote.decide.noted",
        "pivot.finalize.done",
        "pivot.release_guest.done",
        "update_metadata.record.noted",
        UNLINK,
    ),
    "commit": ("vote.decide.noted", "pivot.finalize.done", UNLINK),
    "revert": ("overlays_made.recorded.announced", "overlays_made.recorded.noted"),
    "stream": ("vote.decide.noted", "pivot.finalize.done", UNLINK),
}


#: From here on a revert has given up what was written since its snapshot.
RECORDED = "overlays_made.recorded.noted"


@dataclass(frozen=True)
class Moment:
    """What a kill at this moment leaves."""

    run: str
    place: str
    folder: Path
    #: The last acknowledged write that the disks must have, and the last they may.
    low: int
    high: int


class Copier:
    """A probe that copies everything at the moments that are wanted."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self.scene = scene
        self.folder = folder
        self.run = ""
        self.moments: list[Moment] = []

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Copy, while nobody writes."""
        place = f"{state}.{step}.{moment}"
        if machine == "fold" or (not EVERY and place not in TELLING[self.run]):
            return
        folder = self.folder / str(len(self.moments))
        folder.mkdir(parents=True)
        with self._nobody_writes():
            low = self.scene.machine.acknowledged()
            for source in (self.scene.images_folder, self.scene.journal.parent):
                subprocess.run(["cp", "-a", source, folder], check=True)
        high = low + 1
        if (self.run == "revert" and state == "recorded") or place == RECORDED:
            low, high = self.scene.brackets["s3"]
        self.moments.append(Moment(self.run, place, folder, low, high))

    @contextmanager
    def _nobody_writes(self) -> Iterator[None]:
        """QEMU stands still, if it runs."""
        if not self.scene.is_started():
            yield
            return
        pid = self.scene.machine.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            while "T" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]:
                pass
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@dataclass
class Past:
    """All moments, and the machine that lived through them."""

    scene: Scene
    moments: list[Moment]

    def at(self, run: str, place: str) -> Moment:
        """The first moment of this name."""
        return next(m for m in self.moments if (m.run, m.place) == (run, place))

    def put_back(self, moment: Moment) -> Path:
        """Put the images of a moment in their place; returns the journal's copy."""
        shutil.rmtree(self.scene.images_folder)
        images = moment.folder / self.scene.images_folder.name
        subprocess.run(["cp", "-a", images, self.scene.images_folder], check=True)
        journal = moment.folder / "looked-at"
        shutil.copytree(moment.folder / "journal", journal, dirs_exist_ok=True)
        return journal / self.scene.journal.name

    def lost(self, number: int, image: Path, format: str, moment: Moment) -> int:
        """How many of the acknowledged writes an image lacks."""
        raw = self.scene.folder / "by-hand.raw"
        export_raw(image, format, raw)
        verdict = self.scene.ledger.verify(
            raw, number, low=moment.low, high=moment.high
        )
        return len(verdict.lost)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """A machine with two disks whose snapshots are taken and deleted in every way."""
    folder = tmp_path_factory.mktemp("past")
    scene = Scene(folder, disks=2, guard=NoGuard())
    copier = Copier(scene, folder / "moments")

    async def live() -> None:
        async with scene:
            await scene.take_three()
            await scene.with_probe(copier)
            copier.run = "create"
            await scene.take("s4")
            await scene.write()
            copier.run = "active"
            await scene.delete("s4", strategy="commit")
            await scene.write()
            copier.run = "commit"
            await scene.delete("s1", strategy="commit")
            await scene.write()
            copier.run = "stream"
            await scene.delete("s2", strategy="stream")
            scene.machine.quit()
            copier.run = "revert"
            await scene.engine.revert(DOMAIN, "s3", discard=True)

    asyncio.run(live())
    yield Past(scene, copier.moments)


def test_every_write_is_in_the_images_that_the_page_names(past: Past) -> None:
    page = Page()
    wrong = []
    for moment in past.moments:
        journal = past.put_back(moment)
        told = rescue(page, journal, DOMAIN)
        assert sorted(told) == ["vda", "vdb"]
        for number, disk in enumerate(told[target] for target in ("vda", "vdb")):
            lost = past.lost(number, disk.image, disk.format, moment)
            if lost or disk.in_doubt:
                wrong.append((moment.run, moment.place, disk, lost))

    assert wrong == []
    seen = {(moment.run, moment.place) for moment in past.moments}
    assert seen >= {(run, place) for run in RUNS for place in TELLING[run]}


def write(image: Path) -> None:
    """Somebody has booted this image and written where no guest of ours does."""
    order = ["qemu-io", "-f", "qcow2", "-c", "write -q -P 9 12M 64K", str(image)]
    subprocess.run(order, check=True, capture_output=True)


@pytest.mark.parametrize(
    ("run", "place", "images"),
    [
        ("commit", "vote.decide.noted", 4),
        ("commit", "pivot.finalize.done", 4),
        ("commit", UNLINK, 3),
        ("stream", "vote.decide.noted", 3),
        ("stream", "pivot.finalize.done", 3),
        ("stream", UNLINK, 2),
    ],
)
def test_links_lead_to_images_that_hold_everything(
    past: Past, run: str, place: str, images: int
) -> None:
    """To the old ones until the switch is recorded: the new one may not be durable."""
    told = rescue(Page(), past.put_back(past.at(run, place)), DOMAIN)

    image = str(told["vda"].image)
    chain = qemu_img("info", "--backing-chain", "-f", "qcow2", image)
    assert chain.count("image: ") == images


@pytest.mark.parametrize(
    ("booted", "expected"),
    [
        ((), "base"),
        (("base",), "base"),
        (("overlay",), "overlay"),
        (("base", "overlay"), "nobody can tell"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else value,
)
def test_who_went_on_after_the_decision(
    past: Past, booted: tuple[str, ...], expected: str
) -> None:
    """Of the first disk; the other one is as the decision left it."""
    journal = past.put_back(past.at("active", "vote.decide.noted"))
    images = past.scene.images_folder
    base, overlay = images / "vda.s3", images / "vda.s4"
    (fence,) = images.glob("vda.s4.backfold-*")
    for image in booted:
        write(base if image == "base" else fence)

    told = rescue(Page(), journal, DOMAIN)

    assert told["vdb"].image == images / "vdb.s3"
    if expected == "nobody can tell":
        assert told["vda"].in_doubt
        assert fence.exists()
    else:
        boot = overlay if expected == "overlay" else base
        assert (told["vda"].image, told["vda"].in_doubt) == (boot, False)
        assert overlay.exists() == (expected == "overlay")


@pytest.mark.parametrize("booted", ["overlays", "old images", "both"])
def test_who_went_on_while_a_snapshot_was_taken(past: Past, booted: str) -> None:
    journal = past.put_back(past.at("create", "overlays_made.switch.announced"))
    images = past.scene.images_folder
    if booted != "old images":
        write(images / "vda.s4")
    if booted != "overlays":
        write(images / "vdb.s3")

    told = rescue(Page(), journal, DOMAIN)

    assert {disk.in_doubt for disk in told.values()} == {booted == "both"}
    if booted != "both":
        name = "s4" if booted == "overlays" else "s3"
        assert told["vda"].image == images / f"vda.{name}"
        assert told["vdb"].image == images / f"vdb.{name}"


@pytest.mark.parametrize(
    "place", ["vote.complete_jobs.done", "vote.fence.done", "pivot.release_guest.done"]
)
def test_without_a_journal(past: Past, place: str) -> None:
    moment = past.at("active", place)
    past.put_back(moment)
    for number, target in enumerate(("vda", "vdb")):
        overlay = past.scene.images_folder / f"{target}.s4"
        image = without_journal(overlay, overlay.with_suffix(".s3"))
        assert past.lost(number, image, "qcow2", moment) == 0
