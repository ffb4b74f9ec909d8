"""The story of runs on a real QEMU: what it says is what QEMU, guest and rows say."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backfold.engine.events import DowntimeEvent, Event, ProgressEvent
from backfold.engine.story import Entry, Story
from backfold.engine.words import size
from backfold.journal.errors import Interrupted, RolledBack
from real.scene import DOMAIN, At, NoGuard, Scene, play

WHO = f":{os.getpid()} began it."


def entries(story: Story, *names: str) -> list[Entry]:
    """What is told of these steps, edges and remarks, in order."""
    return [e for c in story.chapters for e in c.entries if e.name in names]


def said(story: Story, name: str) -> str:
    """The one sentence about a step, an edge or a remark."""
    (entry,) = entries(story, name)
    return entry.what


def test_a_deletion_of_a_running_domain(tmp_path: Path) -> None:
    """Bytes are those of QEMU's jobs, the downtime that of row and event."""
    heard: list[Event] = []

    async def run() -> None:
        async with Scene(tmp_path, guard=NoGuard(), pause=2000) as scene:
            await scene.take("s1")
            await scene.write(30)
            held = sum(path.stat().st_size for path in scene.images_folder.glob("*.s1"))
            deletion = await scene.delete(
                "s1", strategy="commit", on_event=heard.append
            )
            story = await scene.engine.story(deletion.id[:6])
            rows = await scene.engine.log(deletion.id)
        (disk,) = story.disks
        copied = {e.done for e in heard if isinstance(e, ProgressEvent)}
        (downtime,) = [e.downtime_ms for e in heard if isinstance(e, DowntimeEvent)]
        (at,) = [row.at for row in rows if row.trigger == "decide"]

        assert [chapter.state for chapter in story.chapters] == [
            *("validate", "prepare", "commit_per_disk", "vote", "pivot"),
            *("update_metadata", "completed"),
        ]
        assert said(story, "claim").endswith(WHO)
        assert story.downtime_ms == deletion.downtime_ms == downtime
        assert f"it stood still for {downtime:.0f} ms." in said(story, "release_guest")
        converged = entries(story, "converge")[0].facts["bytes"]
        assert converged in copied
        assert f"{size(converged)} copied in " in said(story, "converge")
        assert disk.copied_bytes is not None
        assert disk.copied_bytes >= converged > 0
        assert f"vda pending at {size(disk.copied_bytes)}" in said(
            story, "complete_jobs"
        )
        assert story.bytes == disk.copied_bytes
        assert story.decided == at
        assert entries(story, "decide")[0].kind == "decision"
        assert said(story, "stop_guest") == "QEMU stopped the guest, which was running."
        assert said(story, "look_again").endswith("; QEMU is paused.")
        assert "vda concluded" in said(story, "finalize")
        removed = entries(story, "unlink")[0]
        assert removed.what == f"Removed vda.s1 ({size(removed.facts['bytes'])})."
        assert removed.facts["bytes"] >= held > 0

    play(run())


def fill(image: Path) -> None:
    """Put 4 MiB of data into an image that nobody has open."""
    order = ["qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4M", str(image)]
    subprocess.run(order, check=True, capture_output=True)


def test_one_that_was_given_up(tmp_path: Path) -> None:
    """How far the job was is what QEMU said when it was cancelled."""

    async def run() -> None:
        async with Scene(tmp_path, power="off") as scene:
            await scene.take("s1")
            await asyncio.to_thread(fill, scene.images_folder / "vda.s1")
            with pytest.raises(RolledBack) as caught:
                await scene.delete(
                    "s1", strategy="commit", timeout=0.001, bandwidth=64 << 10
                )
            story = await scene.engine.story(caught.value.deletion.id)

        assert story.outcome == (
            "Rolled back: the time-out of 0.001 s was reached. The domain is as before."
        )
        assert said(story, "abandon").startswith("Given up: the time-out of")
        (job,) = entries(story, "cancel_jobs")[0].facts["jobs"].values()
        assert said(story, "cancel_jobs") == (
            f"Cancelled the jobs: vda {job['status']} at {size(job['bytes'])}."
        )
        assert job["bytes"] <= job["total"] <= 4 << 20
        assert story.decided is None
        assert story.chapters[-1].state == "rolled_back"

    play(run())


def interrupting(scene: Scene) -> Callable[[], object]:
    """An act that makes the next check of an image fail for good."""

    def act() -> None:
        (scene.images_folder / "vda.qcow2").rename(scene.folder / "away")

    return act


def test_one_that_was_left_open_and_then_finished(tmp_path: Path) -> None:
    """Why it was left open is in the journal, with what helps."""

    async def run() -> None:
        async with Scene(tmp_path, power="off") as scene:
            await scene.take("s1")
            await scene.with_probe(
                At("stop.end_helper.noted", interrupting(scene)),
            )
            with pytest.raises(Interrupted) as caught:
                await scene.delete("s1", strategy="commit")
            (open_run,) = await scene.engine.deletions(only_open=True)
            before = await scene.engine.story(open_run.id)
            (scene.folder / "away").rename(scene.images_folder / "vda.qcow2")
            await scene.engine.recover()
            after = await scene.engine.story(open_run.id)

        assert before.outcome == (
            "Open in stop; it is decided, there is only forward."
            f" `backfold recover {open_run.id}` finishes it."
        )
        assert caught.value.what in said(before, "left_open")
        assert caught.value.remedy in said(before, "left_open")
        assert before.chapters[-1].took_seconds is None
        assert after.outcome == f"Completed: s1 of {DOMAIN} is gone."
        assert entries(after, "claim")[1].kind == "takeover"
        last = entries(after, "check_bases")[-1]
        assert last.what == "qemu-img check: vda.qcow2 sound."
        assert {e.kind for e in entries(before, "check_bases")} == {"unfinished"}

    play(run())
