"""One cycle of the soak: a deletion, a kill, a recovery, and the proof by reading."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field

from real.scene import DOMAIN, DOWNTIME_MS, Scene

COMMAND = [sys.executable, "-m", "backfold"]
#: What is killed. Each is as likely as the others.
VICTIMS = ("engine", "qemu", "engine and qemu", "engine and guard", "nothing")
#: How long a command may take before it counts as hanging, in seconds.
PATIENCE = 300.0
#: How many snapshots there are when one of them is deleted.
SNAPSHOTS = 3
#: How often recovery may be killed before it is left alone.
RECOVERIES_KILLED = 2


class Failed(Exception):
    """A write is lost, or something was left open; the message has the evidence."""


@dataclass
class Round:
    """What happened in a cycle."""

    snapshot: str
    place: str
    kills: list[str] = field(default_factory=list)
    after: float = 0.0
    end: str = ""
    read_backs: int = 0
    writes: int = 0

    def __str__(self) -> str:
        """A line of the soak's output."""
        killed = ", ".join(self.kills) or "nothing"
        return (
            f"{self.snapshot} ({self.place}): killed {killed} after {self.after:.2f} s;"
            f" {self.end}; {self.writes} writes, all there"
        )


class Cycle:
    """Runs cycles on one scene."""

    def __init__(self, scene: Scene, choose: random.Random) -> None:
        self.scene = scene
        self.choose = choose
        self._taken = 0
        #: How long a deletion takes that nobody disturbs, as far as it was seen.
        self._span = 2.5

    async def run(self) -> Round:
        """One deletion with its kill. Raises `Failed`."""
        await self._take_snapshots()
        names = [s.name for s in await self.scene.engine.catalog.snapshots(DOMAIN)]
        name = self.choose.choice((names[-1], names[len(names) // 2]))
        done = Round(name, "newest" if name == names[-1] else "middle")
        began = time.monotonic()
        process = await self._start("delete", DOMAIN, name, "--yes", *_downtime())
        victim = self.choose.choice(VICTIMS)
        if victim != "nothing":
            done.after = self.choose.uniform(0, 1.2 * self._span)
            await self._wait(process, done.after)
            done.kills += self._kill(process, victim)
        await self._end(process)
        if victim == "nothing":
            self._span = (self._span + time.monotonic() - began) / 2
        done.kills += await self._recover()
        done.end = await self._state_of(name)
        await self._prove(done)
        return done

    async def _take_snapshots(self) -> None:
        missing = SNAPSHOTS - len(await self.scene.engine.catalog.snapshots(DOMAIN))
        for _ in range(missing):
            self._taken += 1
            await self.scene.take(f"n{self._taken}")
        await self.scene.write()

    async def _start(self, *arguments: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *("--journal", str(self.scene.journal), "--json"),
            *arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def _wait(self, process: asyncio.subprocess.Process, seconds: float) -> None:
        """Wait so long, or until the process has ended."""
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            pass

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Failed(f"a command did not end within {PATIENCE} s") from None

    def _kill(self, process: asyncio.subprocess.Process, victim: str) -> list[str]:
        """Kill what still runs; returns what was killed."""
        killed = []
        if "guard" in victim:
            for pid in self._guards():
                os.kill(pid, signal.SIGKILL)
                killed.append("guard")
        if "engine" in victim and process.returncode is None:
            process.kill()
            killed.append("engine")
        if "qemu" in victim:
            self.scene.machine.kill()
            killed.append("QEMU")
        return killed

    def _guards(self) -> list[int]:
        found = []
        for pid in self.scene.helpers():
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    if b"backfold.engine.guard" in file.read():
                        found.append(pid)
            except OSError:
                continue
        return found

    async def _recover(self) -> list[str]:
        """Recover by the command line, which may be killed too, until it ends."""
        killed = []
        for _ in range(self.choose.randrange(RECOVERIES_KILLED + 1)):
            process = await self._start("recover")
            await self._wait(process, self.choose.uniform(0.2, 1.2 * self._span))
            if process.returncode is None:
                process.kill()
                killed.append("recovery")
            await process.wait()
        done = await asyncio.to_thread(
            subprocess.run,
            [*COMMAND, "--journal", str(self.scene.journal), "--json", "recover"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if done.returncode not in (0, 5) or self.scene.open_runs():
            raise Failed(
                f"recovery ended with status {done.returncode}, open:"
                f" {self.scene.open_runs()}\n{done.stdout}{done.stderr}"
            )
        return killed

    async def _state_of(self, name: str) -> str:
        """How the last deletion of a snapshot ended."""
        for run in await self.scene.engine.deletions():
            if run.snapshot == name:
                return run.state.replace("_", " ")
        return "never begun"

    async def _prove(self, done: Round) -> None:
        """Read everything back, before and after a boot if QEMU was killed."""
        scene = self.scene
        await scene.let_helpers_end()
        try:
            await scene.verify_data()
            done.read_backs += 1
            if not scene.is_started():
                await scene.boot()
            if scene.run_state() != "running":
                raise Failed(f"the guest is left {scene.run_state()}")
            await scene.write()
            await scene.verify_data()
            done.read_backs += 1
        except AssertionError as error:
            rows = json.dumps(scene.rows("deletions", "id, snapshot, state, reason"))
            raise Failed(f"{done.kills} in {rows}: {error}") from error
        done.writes = scene.machine.acknowledged()


def _downtime() -> tuple[str, str]:
    return "--max-downtime", str(DOWNTIME_MS)
