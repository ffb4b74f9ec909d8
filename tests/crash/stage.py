"""A scene that is made once, and copied for every case.

The journal names images by absolute paths, so a copy must lie where the original
lay: the prepared scene is moved aside, and copied back before each case.
"""

from __future__ import annotations

import copy
import shutil
import time
from pathlib import Path

from backfold.engine.demo.guest import Ledger
from backfold.engine.demo.machine import Machine
from backfold.journal.model import Disk
from real.scene import Scene, play

#: Microseconds between two writes of the guest: without pauses its emulation takes a
#: whole processor, and the cases most of their time.
PAUSE = 8000


class Copied(Scene):
    """A scene whose images and journal are there already."""

    def __init__(
        self,
        folder: Path,
        disks: list[Disk],
        ledger: Ledger,
        brackets: dict[str, tuple[int, int]],
    ) -> None:
        """Nothing is started. See `Scene`, whose making of images this replaces."""
        self.folder = folder
        self.images_folder = folder / "images"
        self.journal = folder / "journal" / "journal.db"
        self.locks = folder / "locks"
        self.power = "off"
        self.monitored = True
        self.guard = None
        self.brackets = dict(brackets)
        self.first_disks = disks
        self.machine = Machine(
            folder,
            [(disk.target, Path(disk.source), disk.format) for disk in disks],
            ledger=ledger,
            pause=PAUSE,
        )
        self.engine = self.new_engine()
        #: The domain's QEMU, once it was started; a fork cannot ask `machine`.
        self.qemu: int | None = None

    def power_up(self, writes: int = 5) -> None:
        """Boot the guest, and wait until it writes."""
        self.machine.start()
        self.qemu = self.machine.pid
        self.machine.wait_for_writes(writes)

    def wait_for_run_state(self, wanted: str, seconds: float = 60) -> str:
        """Wait for what others do; returns the run state at the end."""
        end = time.monotonic() + seconds
        while (found := self.run_state()) != wanted and time.monotonic() < end:
            time.sleep(0.01)
        return found


class Wardrobe:
    """The prepared scenes of one worker: s1, s2 and s3 taken, the domain off."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made yet; everything goes into ``folder``."""
        self._folder = folder
        self._made: dict[int, tuple[list[Disk], Ledger, dict[str, tuple[int, int]]]]
        self._made = {}

    def scene(self, disks: int) -> Copied:
        """A fresh copy with so many disks. The former copy must be closed."""
        place = self._folder / f"scene-{disks}"
        original = self._folder / f"original-{disks}"
        if disks not in self._made:
            self._make(place, disks)
            for pattern in ("*.sock", "*.img"):  # The next boot makes its own.
                for file in place.glob(pattern):
                    file.unlink()
            place.rename(original)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(original, place)
        found, ledger, brackets = self._made[disks]
        return Copied(place, found, copy.deepcopy(ledger), brackets)

    def _make(self, place: Path, disks: int) -> None:
        place.mkdir()

        async def story() -> None:
            async with Scene(place, disks=disks, pause=PAUSE) as scene:
                for name in ("s1", "s2", "s3"):
                    await scene.take(name, writes=8)
                await scene.write(8)
                scene.machine.kill()
                found = [
                    Disk(disk.target, disk.source, disk.format)
                    for disk in await scene.disks()
                ]
                self._made[disks] = (found, scene.ledger, scene.brackets)

        play(story())
