"""What a state tells of the world's answers: plain values for the rows of the journal.

Nothing here is read again by a state: it is for whoever wants to know what happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ..journal.errors import WorldError
from ..journal.model import FoldPlan
from .ports import Clock, Images, Job


def jobs_by_disk(
    jobs: Mapping[str, Job], folds: Iterable[FoldPlan]
) -> Mapping[str, Any]:
    """How the job of each disk stands: QEMU's status, and bytes; ``gone`` is no job."""
    told: dict[str, Mapping[str, Any]] = {}
    for fold in folds:
        job = jobs.get(fold.job)
        if job is None:
            told[fold.target] = {"status": "gone"}
            continue
        facts = {"status": job.status, "bytes": job.done, "total": job.total}
        told[fold.target] = (
            facts if job.error is None else {**facts, "error": job.error}
        )
    return {"jobs": told}


def size_of(images: Images, path: str) -> Mapping[str, Any]:
    """The size of a file in bytes; nothing when it cannot be told, as of a device."""
    with suppress(OSError, WorldError):
        stamp = images.stamp(path)
        if stamp is not None and not stamp.is_silent:
            return {"bytes": stamp.size}
    return {}


class Copying:
    """How much the job of each disk has copied, and in which time."""

    def __init__(self, clock: Clock) -> None:
        """No job was looked at yet."""
        self._clock = clock
        self._began: dict[str, tuple[int, float]] = {}
        #: Of each disk that has converged: all ``bytes`` that its job has copied, the
        #: ``total`` of it, and what this engine saw of that, ``copied`` in ``seconds``.
        #: Only of an ``active`` commit QEMU leaves out what needs no copy.
        self.told: dict[str, Mapping[str, Any]] = {}

    def begin(self, fold: FoldPlan, job: Job | None) -> None:
        """A job was found, or was started just now (None)."""
        done = 0 if job is None else job.done
        self._began[fold.target] = (done, self._clock.monotonic())

    def converged(self, fold: FoldPlan, job: Job) -> None:
        """A job has copied all that there was; the first time counts."""
        if fold.target in self.told:
            return
        before, began = self._began[fold.target]
        self.told[fold.target] = {
            "bytes": job.done,
            "total": job.total,
            "copied": max(0, job.done - before),
            "active": fold.is_active,
            "seconds": round(self._clock.monotonic() - began, 6),
        }
