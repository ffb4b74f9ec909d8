"""The process that is recorded: a domain, its guest, and a deletion or a creation.

    python -m power.stage FOLDER ORDER POWER SNAPSHOT DISKS [WITHOUT]...

ORDER is ``delete`` or ``create``. It marks the begin and the end of what is looked
at, and every moment that the engine's probe is told of, by writes that the trace
holds like all others. What the trace cannot tell is left in ``told.json``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from real.scene import DOMAIN, Scene

from .mutations import MUTATIONS
from .replay import BEGIN, END

#: Microseconds between two writes of the guest: the recording is to stay small.
PAUSE = 50_000
#: Writes that give the newest overlay nearly every cluster: what the guest writes
#: into the base after the switch would be seen through an overlay without them.
COVER = 110
#: The guest stands for longer while it is traced; a recording is no measurement.
DOWNTIME_MS = 60_000


class Marks:
    """A probe that writes what it is told into a file.

    ``at_switch`` is called when every disk is on its base and the guest goes on.
    """

    def __init__(self, path: Path, at_switch: Callable[[], None]) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._at_switch = at_switch

    def say(self, text: str) -> None:
        """Leave a mark in the trace."""
        os.write(self._file, text.encode() + b"\n")

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        if machine != "fold":
            self.say(f"{state}.{step}.{moment}")
        if (state, step, moment) == ("pivot", "close_images", "done"):
            self._at_switch()


async def main(folder: Path, order: str, power: str, snapshot: str, disks: int) -> None:
    """Play the scene."""
    async with Scene(folder, disks=disks, pause=PAUSE) as scene:

        def let_the_guest_write() -> None:
            """Writes that only the base has, however fast the engine goes on."""
            enough = scene.machine.acknowledged() + 3
            end = time.monotonic() + 30
            while scene.machine.acknowledged() < enough and time.monotonic() < end:
                time.sleep(0.01)

        at_switch = let_the_guest_write if power == "running" else lambda: None
        marks = Marks(folder / "marks", at_switch)
        for name in ("s1", "s2", "s3"):
            await scene.take(name, writes=3)
        await scene.write(COVER if power == "running" else 5)
        if power == "paused":
            scene.machine.qmp("stop")
        elif power == "off":
            scene.machine.quit()
        marks.say(BEGIN)
        await scene.with_probe(marks)
        if order == "create":
            await scene.take(snapshot, writes=3)
        else:
            await scene.delete(snapshot, max_downtime_ms=DOWNTIME_MS)
        if power == "running":
            await scene.write(5)
        await scene.engine.__aexit__(None, None, None)
        marks.say(END)
        scene.engine = scene.new_engine()
        await scene.engine.__aenter__()
        told = {
            "domain": DOMAIN,
            "brackets": scene.brackets,
            "targets": [disk.target for disk in scene.first_disks],
        }
        (folder / "told.json").write_text(json.dumps(told))
        if scene.is_started():
            scene.machine.quit()


if __name__ == "__main__":
    place, order, power, snapshot, disks, *without = sys.argv[1:]
    for mutation in without:
        MUTATIONS[mutation].apply()
    asyncio.run(main(Path(place), order, power, snapshot, int(disks)))
