"""A scene that is made once, and copied for every case.

The journal names images by absolute paths, so a copy must lie where the original
lay: the prepared scene is moved aside, and copied back before each case.
"""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from backfold.engine.demo.guest import Ledger, export_raw
from backfold.engine.demo.machine import Machine
from backfold.journal.model import Disk
from real.scene import DOMAIN, Scene, play

#: Microseconds between two writes of the guest: without pauses its emulation takes a
#: whole processor, and the cases most of their time.
PAUSE = 8000


@dataclass(frozen=True)
class Original:
    """What a scene that was made is, besides its files.

    ``ledgers`` are the books of snapshots whose branch the guest has left, by name.
    """

    disks: list[Disk]
    ledger: Ledger
    brackets: Mapping[str, tuple[int, int]]
    ledgers: Mapping[str, Ledger]


class Copied(Scene):
    """A scene whose images and journal are there already."""

    def __init__(self, folder: Path, original: Original) -> None:
        """Nothing is started. See `Scene`, whose making of images this replaces."""
        self.folder = folder
        self.images_folder = folder / "images"
        self.journal = folder / "journal" / "journal.db"
        self.locks = folder / "locks"
        self.power = "off"
        self.monitored = True
        self.guard = None
        self.brackets = dict(original.brackets)
        self.first_disks = original.disks
        self._ledgers = original.ledgers
        self.machine = Machine(
            folder,
            [(disk.target, Path(disk.source), disk.format) for disk in original.disks],
            ledger=copy.deepcopy(original.ledger),
            pause=PAUSE,
        )
        self.engine = self.new_engine()
        #: The domain's QEMU, once it was started; a fork cannot ask `machine`.
        self.qemu: int | None = None

    def ledger_of(self, snapshot: str) -> Ledger:
        """The writes that a snapshot may hold."""
        return self._ledgers.get(snapshot, self.ledger)

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


async def _line(scene: Scene) -> dict[str, Ledger]:
    """s1, s2 and s3, one after the other."""
    for name in ("s1", "s2", "s3"):
        await scene.take(name, writes=8)
    return {}


async def _tree(scene: Scene) -> dict[str, Ledger]:
    """s1 to s5, then s6 on s3: the image of s3 has two dependents."""
    for name in ("s1", "s2", "s3", "s4", "s5"):
        await scene.take(name, writes=6)
    scene.machine.quit()
    former = copy.deepcopy(scene.ledger)
    await scene.engine.revert(DOMAIN, "s3", discard=True)
    raw = scene.folder / "reverted.raw"
    low, high = scene.brackets["s3"]
    instants = []
    for number, disk in enumerate(await scene.disks()):
        export_raw(Path(disk.source), disk.format, raw)
        verdict = scene.ledger.verify(raw, number, low=low, high=high)
        assert verdict.cut is not None, verdict.lost
        instants.append(verdict.cut[0])
    raw.unlink()
    scene.ledger.revert(max(instants))
    await scene.boot()
    await scene.take("s6", writes=6)
    return {"s4": former, "s5": former}


#: How the snapshots of a scene come to be, by the name of the stage.
STAGES: Final[Mapping[str, Callable[[Scene], Awaitable[dict[str, Ledger]]]]] = {
    "line": _line,
    "tree": _tree,
}


class Wardrobe:
    """The prepared scenes of one worker: snapshots taken, the domain off."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made yet; everything goes into ``folder``."""
        self._folder = folder
        self._made: dict[str, Original] = {}

    def scene(self, stage: str, disks: int) -> Copied:
        """A fresh copy of a stage with so many disks. The former must be closed."""
        name = f"{stage}-{disks}"
        place = self._folder / name
        original = self._folder / f"original-{name}"
        if name not in self._made:
            self._made[name] = self._make(place, stage, disks)
            for pattern in ("*.sock", "*.img"):  # The next boot makes its own.
                for file in place.glob(pattern):
                    file.unlink()
            place.rename(original)
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(original, place)
        return Copied(place, self._made[name])

    def _make(self, place: Path, stage: str, disks: int) -> Original:
        place.mkdir()
        made = []

        async def story() -> None:
            async with Scene(place, disks=disks, pause=PAUSE) as scene:
                ledgers = await STAGES[stage](scene)
                await scene.write(8)
                scene.machine.kill()
                found = [
                    Disk(disk.target, disk.source, disk.format)
                    for disk in await scene.disks()
                ]
                made.append(Original(found, scene.ledger, scene.brackets, ledgers))

        play(story())
        return made[0]
