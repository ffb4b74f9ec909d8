"""The whole story on a real QEMU: snapshots, deletions, a kill, a recovery, a proof.

`run` is what `backfold demo` calls. Which point is killed at is drawn from the seed;
the guest writes as fast as it can, so that no two runs write the same.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from ...journal.errors import BackfoldError, UsageError
from ..api import Engine
from . import stage
from .acts import Acts
from .killing import Failed
from .points import KillPoint, draw
from .telling import Teller

#: What can go wrong on the way: Backfold, QEMU and its tools, files, time.
TROUBLE = (Failed, BackfoldError, RuntimeError, OSError, subprocess.SubprocessError)
#: Seeds that are drawn, so that they are easy to type.
_SEEDS = 10_000


def drawn() -> int:
    """A seed that is easy to type."""
    return secrets.randbelow(_SEEDS)


def run(seed: int | None, keep: Path | None, console: Console | None = None) -> int:
    """Tell the story and return the exit status: 0 when no write was lost.

    Args:
        seed: Decides where QEMU and the engine are killed; drawn when it is None.
        keep: A new or empty folder that keeps images, journal and logs; without it
            everything is removed at the end, also after Ctrl-C.
        console: Where to print.
    """
    console = Console() if console is None else console
    teller = Teller(console)
    if missing := stage.missing_programs():
        names = " and ".join(missing)
        teller.line(
            f"The demo needs {names}: install Debian's packages {stage.PACKAGES}."
        )
        return 1
    seed = drawn() if seed is None else seed
    try:
        with stage.folder_for(keep) as folder, stage.log_to(folder / "engine.log"):
            try:
                return asyncio.run(_told(teller, folder, seed, keep is not None))
            except KeyboardInterrupt:
                status = 128 + signal.SIGINT
            except asyncio.CancelledError:
                status = 128 + signal.SIGTERM
            teller.say("\nInterrupted; the guest was ended.")
            return status
    except stage.NotEmpty as error:
        teller.line(str(error))
        return UsageError.exit_status


async def _told(teller: Teller, folder: Path, seed: int, kept: bool) -> int:
    """The story with its verdict; SIGTERM cancels it as Ctrl-C does."""
    task = asyncio.current_task()
    assert task is not None
    with suppress(ValueError, RuntimeError):  # Only the main thread has signals.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    began = time.monotonic()
    point = draw(seed)
    teller.line(f"Seed {seed}. Everything is in {folder}.")
    try:
        count, lost = await _play(teller, folder, point)
        problem = f"{lost} blocks LOST or wrong" if lost else None
    except TROUBLE as error:
        if task.cancelling():
            # The engine told how it left the run that the cancel interrupted.
            raise asyncio.CancelledError from error
        count, problem = 0, str(error)
    seconds = time.monotonic() - began
    killed = f"killed at {point} (seed {seed}); {seconds:.1f} s"
    if problem is None:
        line = f"PASS: {count} acknowledged writes, 0 lost; {killed}"
    else:
        line = f"FAIL: {problem}; {killed}"
    teller.verdict(line, passed=problem is None)
    if kept:
        teller.line(f"Images, journal and logs are kept in {folder}.")
    return 0 if problem is None else 1


async def _play(teller: Teller, folder: Path, point: KillPoint) -> tuple[int, int]:
    """All acts; how many writes there were, and how many blocks are not right."""
    journal = folder / "journal.db"
    async with Engine(journal) as engine:
        acts = Acts(teller, folder, engine, point)
        try:
            await acts.snapshots()
            await acts.delete_middle()
            await acts.delete_newest_and_kill()
            await acts.recover()
            await acts.boot_again()
            return await acts.proof()
        finally:
            try:
                await acts.end()
                await _finish(engine)
            finally:
                for left in await asyncio.to_thread(stage.clear, folder, journal):
                    teller.say(f"{left} was left over, and was killed.")


async def _finish(engine: Engine) -> None:
    """Finish what was begun if the story was cut short: a helper may be at work."""
    if await engine.deletions(only_open=True):
        with suppress(BackfoldError):
            await engine.recover()
