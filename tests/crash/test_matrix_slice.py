"""The moments that decide over data, out of the matrix that `make crash` plays whole.

The last quarter of each group is left to `make every-case`.

Each group is played by a process of its own, since cases fork, and pytest has
threads. The names are those that `make crash ARGS=--list` prints.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crash.case import Case
from crash.cases import CASCADES
from crash.points import declared
from crash.report import ELSEWHERE
from crash.scenarios import STORIES
from sampled import sampled

TESTS = Path(__file__).parents[1]

GROUPS = {
    "the active image of a guest that writes": """
        running-newest-1-noted engine resume vote.carry_bitmaps.done once
        running-newest-1-noted engine roll_back vote.carry_bitmaps.done once
        running-newest-1 engine roll_back vote.fence.done cascade
        running-newest-1 both resume vote.fence.done once
        running-newest-1 both resume vote.decide.noted once
        running-newest-1 both resume pivot.finalize.done once
        running-newest-1 engine resume vote.decide.noted once
        running-newest-1 both resume update_metadata.record.noted once
        running-newest-1 engine resume commit_per_disk.start_job.done once
        running-newest-1 both resume commit_per_disk.start_job.done once
        running-newest-1 engine resume vote.stop_guest.done once
        running-newest-1 qemu resume vote.complete_jobs.done once
        running-newest-1 engine roll_back vote.decide.noted once
    """,
    "links in the middle of their chains": """
        running-middle-1-kept both resume pivot.keep.noted once
        running-middle-2 engine resume commit_per_disk.start_job.done once
        running-middle-2 both resume vote.flush_copied.done once
        running-middle-2 both resume vote.decide.noted once
        running-middle-2 both resume pivot.finalize.done once
        running-middle-2 both resume update_metadata.set_aside.done once
        running-middle-1-kept engine resume pivot.start_job.noted once
    """,
    "two active images that are decided over together": """
        running-newest-2 both resume vote.decide.noted once
        paused-newest-2 engine resume vote.complete_jobs.done cascade
        paused-newest-2 engine resume pivot.finalize.announced once
    """,
    "streams, ranges and branches": """
        running-stream-newest-1 both resume pivot.finalize.done once
        running-stream-newest-1 engine roll_back vote.look_again.noted once
        running-stream-first-1-gone engine resume pivot.relink.announced once
        running-range-newest-1 both resume vote.decide.noted once
        running-fork-1 both resume vote.decide.noted#2 once
        running-branch-1-cloned engine resume prepare.finish.announced once
        running-branch-1-spoiled engine resume roll_back.finish.announced once
    """,
    "a definition that lives elsewhere": """
        running-newest-2-owned both resume vote.ask_owner.done once
        running-newest-2-owned engine resume pivot.call_hook.announced once
        running-newest-2-owned both resume pivot.call_hook.done once
        off-newest-1-owned both resume pivot.tell_owner.announced once
        off-newest-1-owned engine resume pivot.tell_owner.done once
    """,
    "a domain that is off": """
        off-newest-1 engine resume start_paused.start_helper.done once
        off-newest-1 both resume vote.fence.done once
        off-newest-1 both resume vote.decide.noted once
        off-newest-1 engine resume pivot.finalize.done once
        off-newest-1 both roll_back vote.complete_jobs.done once
        off-middle-1 both resume vote.decide.noted once
        off-middle-1 both resume pivot.finalize.done once
        off-middle-1 engine resume stop.end_helper.done once
    """,
}


@pytest.mark.parametrize("group", GROUPS)
def test_nothing_is_lost(group: str) -> None:
    """Killed there, recovered, and read back."""
    every = [line.strip() for line in GROUPS[group].strip().splitlines()]
    names = sampled(math.ceil(len(every) * 3 / 4), every)
    options = [word for name in names for word in ("--case", name)]
    process = subprocess.Popen(
        [sys.executable, "-m", "crash.matrix", "--jobs", "1", *options],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=280)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()

    assert process.returncode == 0, said
    assert f"{len(names)} cases" in said.splitlines()[-1], said


def test_every_named_moment_is_declared() -> None:
    """A step that gets another name must not fall out of the matrix unseen."""
    moments = {str(point) for point in declared()}
    steps = {f"{point.state}.{point.step}" for point in declared()}
    names = [line.strip() for group in GROUPS.values() for line in group.split("\n")]
    points = [Case.parse(name).point for name in names if name]
    sliced = {str(point._replace(nth=1)) for point in points}

    assert frozenset().union(*CASCADES.values()) <= moments
    assert {str(story.point) for story in STORIES.values()} <= moments
    assert sliced <= moments
    assert set(ELSEWHERE) <= steps
