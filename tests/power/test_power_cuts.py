"""A recorded deletion, its power cut everywhere; and the same without a flush.

A slice of what `make powercut` does with every kind of run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from power.powercut import Sample
from power.recording import Recording, Run, Table
from power.strace import Call

NEWEST = Run("delete", "running", "s3")


def is_overlay(call: Call) -> bool:
    """The engine's flush of the overlay in the hold; QEMU's are fdatasync."""
    return call.name == "fsync" and "/images/vda.s3" in call.descriptors()[0]


def is_folder(call: Call) -> bool:
    """Flushes of the images' directory: the fence and the removal."""
    return call.name == "fsync" and call.descriptors()[0].endswith("/images")


def is_journal(call: Call) -> bool:
    """SQLite's flushes of its log."""
    return call.name == "fdatasync" and call.descriptors()[0].endswith("-wal")


# Three things in one test: they share one recording, which is what takes the time.
@pytest.mark.timeout(900)
def test_nothing_is_lost_wherever_the_power_goes(tmp_path: Path) -> None:
    """By hand at every sixth stop, some states recovered; then without flushes."""
    recording = Recording(tmp_path / "run", NEWEST)
    table = Table(NEWEST)
    steps = ("vote.fence.done", "pivot.release_guest.noted")
    sample = Sample(recording, every=200, steps=steps)

    recording.cut_everywhere(table, tmp_path / "scratch", recover=sample, every=6)

    assert table.findings == []
    assert table.stops > 60
    assert table.states > 120
    assert table.recovered >= 2
    # The decision, and what comes before and after it, was in the recording.
    expected = {"vote.hold.noted", "vote.decide.noted", "update_metadata.unlink.noted"}
    assert expected <= table.steps
    # Writes and flushes of QEMU, of SQLite and of the engine; the fence; the removal.
    expected = {"pwrite64", "pwritev", "fdatasync", "fsync", "renameat2", "unlinkat"}
    assert expected <= set(table.causes)

    for number, is_missing in enumerate((is_overlay, is_folder, is_journal)):
        calls = [c for c in recording.calls if not is_missing(c)]
        assert len(calls) < len(recording.calls), is_missing
        table = Table(NEWEST)
        scratch = tmp_path / f"without-{number}"
        recording.cut_everywhere(
            table, scratch, calls=calls, since="vote.decide.announced"
        )
        assert table.findings != [], is_missing
