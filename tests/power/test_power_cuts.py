"""A recorded deletion, its power cut everywhere; and the same without a flush.

A slice of what `make powercut` does with every kind of run.
"""

from __future__ import annotations

from pathlib import Path

from power.powercut import Sample
from power.recording import Recording, Run, Table

NEWEST = Run("delete", "running", "s3")


def test_nothing_is_lost_wherever_the_power_goes(tmp_path: Path) -> None:
    """Every third stop by hand; a few of the states are recovered and read back."""
    recording = Recording(tmp_path / "run", NEWEST)
    table = Table(NEWEST)
    steps = ("vote.fence.done", "pivot.release_guest.noted")
    sample = Sample(recording, every=150, steps=steps)

    recording.cut_everywhere(table, tmp_path / "scratch", recover=sample, every=3)

    assert table.findings == []
    assert table.stops > 100
    assert table.states > 200
    assert table.recovered >= 2
    # The decision, and what comes before and after it, was in the recording.
    assert {"vote.hold.noted", "vote.decide.noted", "update_metadata.unlink.noted"} <= (
        table.steps
    )
    # Writes and flushes of QEMU, of SQLite and of the engine; the fence; the removal.
    assert {"pwrite64", "pwritev", "fdatasync", "fsync", "renameat2", "unlinkat"} <= (
        set(table.causes)
    )


def test_an_overlay_that_is_not_flushed_in_the_hold_is_found(tmp_path: Path) -> None:
    """Its old mtime looks as if somebody had gone on with it after the decision."""
    recording = Recording(tmp_path / "run", NEWEST, ["hold-fsync"])
    table = Table(NEWEST)

    recording.cut_everywhere(table, tmp_path / "scratch", every=5)

    assert [finding for finding in table.findings if "vda" in finding.what]
