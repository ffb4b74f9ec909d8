"""An engine that is killed while a hook runs: what it left is no late second voice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backfold.journal.errors import BackfoldError
from crash.test_guard import CALM, hold_is_over, wait_for
from real.owners import Launcher
from real.scene import DOMAIN, Scene, play


def command(scene: Scene, order: str) -> subprocess.Popen[bytes]:
    """An engine in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "backfold", "--journal", scene.journal, *order.split()],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def deletion(scene: Scene) -> subprocess.Popen[bytes]:
    """`backfold delete`, with a guest that may stand for as long as the test needs."""
    order = f"delete {DOMAIN} s3 --yes --strategy commit --max-downtime 60000"
    return command(scene, order)


def test_a_hook_that_outlives_its_engine(tmp_path: Path) -> None:
    """The guard ends it and frees the guest; recovery tells the launcher again."""

    async def story() -> None:
        async with Scene(tmp_path, pause=CALM) as scene:
            owner = Launcher(tmp_path)
            await scene.engine.set_hook(DOMAIN, str(owner.hook))
            await scene.take("s3")
            await scene.write()
            former = owner.disks
            owner.forget_calls()
            owner.hang()
            process = deletion(scene)
            wait_for(lambda: len(owner.switches) == 1, "the hook was not called")
            assert scene.run_state() == "paused"
            process.kill()
            process.wait()
            wait_for(lambda: len(owner.switches) == 2, "the guard does not call it")
            assert len(owner.running) == 1, "two calls at once"
            owner.mend()
            wait_for(lambda: scene.run_state() == "running", "it still stands")
            await scene.write()
            wait_for(lambda: hold_is_over(scene), "the journal has the hold still")
            await scene.let_helpers_end()
            assert owner.running == []
            await scene.engine.recover()
            [ended] = await scene.engine.deletions()
            assert ended.state == "completed"
            assert owner.agrees(await scene.disks()) and owner.disks != former
            await scene.write()
            await scene.verify()

    play(story())


def test_a_hook_of_a_run_that_ends_without_a_call(tmp_path: Path) -> None:
    """What an engine left of it is ended with the run, before any other can begin."""

    async def story() -> None:
        async with Scene(tmp_path, power="off") as scene:
            owner = Launcher(tmp_path)
            owner.hook.write_text("#!/bin/sh\nwhile :; do sleep 0.05; done\n")
            await scene.engine.set_hook(DOMAIN, str(owner.hook))
            process = command(scene, f"snapshot create {DOMAIN} s1")
            try:
                wait_for(lambda: len(owner.running) == 1, "the hook was not called")
            finally:
                process.kill()
                process.wait()
            assert len(owner.running) == 1
            (undone,) = await scene.engine.recover()
            assert not isinstance(undone, BackfoldError) and undone.state == "undone"
            assert owner.running == []

    play(story())
