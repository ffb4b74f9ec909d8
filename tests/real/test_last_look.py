"""The round trip right before the decision: a vote that was taken back counts not."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from backfold.journal.errors import RolledBack
from real.scene import At, Scene, play


def test_a_vote_that_was_taken_back_is_not_decided(tmp_path: Path) -> None:
    """Somebody cancels the job when the fence is up: released, and never decided."""

    async def story() -> None:
        async with Scene(tmp_path) as scene:
            await scene.take_three()

            def cancel() -> None:
                (job,) = scene.machine.qmp("query-jobs")
                scene.machine.qmp("job-cancel", id=job["id"])
                end = time.monotonic() + 20
                while scene.machine.qmp("query-jobs")[0]["status"] != "concluded":
                    assert time.monotonic() < end

            await scene.with_probe(At("vote.fence.done", cancel))
            with pytest.raises(RolledBack):
                await scene.delete("s3")
            triggers = [row[1] for row in scene.rows("transitions", "id, trigger")]
            assert "release_votes" in triggers and "decide" not in triggers
            assert scene.run_state() == "running"
            await scene.write()
            await scene.verify()

    play(story())
