"""What states tell of jobs and files, for rows that nobody reads again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from backfold.journal.model import DEVICE_STAMP, FileStamp
from backfold.states.ports import Clock, Images, Job
from backfold.states.told import Copying, jobs_by_disk, size_of
from written import fold

VDA, VDB = fold("vda", "/i/top", "/i/base"), fold("vdb", "/i/top", "/i/base")
JOB = Job(VDA.job, "commit", "running", 10, 40)


class Ticks:
    """A clock that goes on by one second whenever somebody looks."""

    now_is = 0.0

    def monotonic(self) -> float:
        self.now_is += 1
        return self.now_is


class Stamps:
    """Images that are asked for their stamps only."""

    def __init__(self, answer: FileStamp | Exception | None) -> None:
        self.answer = answer

    def stamp(self, path: str) -> FileStamp | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def sized(answer: FileStamp | Exception | None) -> Any:
    return size_of(cast(Images, Stamps(answer)), "/i/top")


def test_a_job_that_was_found_running_counts_from_there() -> None:
    """Its rate is of what this engine saw; its bytes are all of them."""
    copying = Copying(cast(Clock, Ticks()))
    copying.begin(VDA, JOB)
    copying.begin(VDB, None)
    copying.converged(VDA, replace(JOB, done=40))
    copying.converged(VDB, replace(JOB, id=VDB.job, done=30, total=30))

    seen = {"active": True, "seconds": 2.0}
    assert copying.told == {
        "vda": {"bytes": 40, "total": 40, "copied": 30, **seen},
        "vdb": {"bytes": 30, "total": 30, "copied": 30, **seen},
    }


def test_the_first_time_that_a_job_has_converged_counts() -> None:
    copying = Copying(cast(Clock, Ticks()))
    copying.begin(VDA, None)
    copying.converged(VDA, replace(JOB, done=40))
    copying.converged(VDA, replace(JOB, done=50))

    assert copying.told["vda"]["bytes"] == 40


def test_jobs_are_told_by_their_disks() -> None:
    failed = replace(JOB, status="concluded", error="No space left on device")

    assert jobs_by_disk({VDA.job: failed}, (VDA, VDB)) == {
        "jobs": {
            "vda": {
                "status": "concluded",
                "bytes": 10,
                "total": 40,
                "error": "No space left on device",
            },
            "vdb": {"status": "gone"},
        }
    }


def test_a_size_that_cannot_be_told_is_left_out() -> None:
    """A device has none, and a file that cannot be looked at must not end a run."""
    assert sized(FileStamp(7, 1)) == {"bytes": 7}
    assert sized(DEVICE_STAMP) == sized(None) == sized(PermissionError("no")) == {}
