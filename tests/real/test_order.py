"""What is made durable before what: seen on a real QEMU, call by call.

A power cut shows an order that is wrong; here it is shown directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from backfold.engine.images import QemuImages
from backfold.engine.qmp.session import QmpSession
from backfold.journal.model import FileId
from backfold.states.ports import LiveImage
from real.scene import NoGuard, Scene, play


class Trace:
    """A probe that keeps moments and calls in the order in which they come."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        if machine == "deletion":
            self.seen.append(f"{state}.{step}.{moment}")

    def between(self, begin: str, end: str) -> list[str]:
        """What came after the last ``begin`` and before the last ``end``."""
        last = len(self.seen) - 1 - self.seen[::-1].index(end)
        first = len(self.seen) - 1 - self.seen[::-1].index(begin)
        assert first < last, (begin, end)
        return self.seen[first:last]


class SeenImages(QemuImages):
    """The real images, whose syncs and renames are seen."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace

    async def sync(self, paths: Sequence[str]) -> None:
        await super().sync(paths)
        self.trace.seen += [f"sync {Path(path).name}" for path in paths]

    async def rename(self, old: str, new: str, file: FileId) -> None:
        await super().rename(old, new, file)
        self.trace.seen.append(f"rename {Path(old).name}")


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """It sees when QEMU is told to flush, and to switch."""
    found = Trace()
    real_flush, real_finalize = QmpSession.flush, QmpSession.finalize

    async def flush(self: QmpSession, image: LiveImage) -> None:
        await real_flush(self, image)
        found.seen.append(f"flush {Path(image.filename).name}")

    async def finalize(self: QmpSession, job: str) -> None:
        found.seen.append("finalize")
        await real_finalize(self, job)

    monkeypatch.setattr(QmpSession, "flush", flush)
    monkeypatch.setattr(QmpSession, "finalize", finalize)
    return found


async def delete(scene: Scene, trace: Trace, snapshot: str) -> None:
    """Delete a snapshot of a running guest and see everything."""
    await scene.take_three()
    await scene.engine.__aexit__(None, None, None)
    scene.engine = scene.new_engine(probe=trace, images=SeenImages(trace))
    await scene.engine.__aenter__()
    await scene.delete(snapshot)


def test_the_base_is_durable_before_the_overlay_is_fenced(
    tmp_path: Path, trace: Trace
) -> None:
    """Then the fence is, and only then it is decided."""

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await delete(scene, trace, "s3")
            held = trace.between("vote.complete_jobs.done", "vote.fence.announced")
            assert "sync vda.s2" in held
            fenced = trace.between("vote.fence.announced", "vote.decide.announced")
            assert "rename vda.s3" in fenced
            assert fenced.index("rename vda.s3") < fenced.index(
                "vote.look_again.announced"
            )
            decided = trace.seen.index("vote.decide.noted")
            assert trace.seen.index("finalize") > decided
            await scene.verify()

    play(story())


def test_what_was_copied_is_flushed_and_durable_before_a_link_changes(
    tmp_path: Path, trace: Trace
) -> None:
    """QEMU rewrites the link first and flushes later: so it is flushed before.

    An intermediate commit, then a stream.
    """

    async def story() -> None:
        async with Scene(tmp_path, guard=NoGuard()) as scene:
            await delete(scene, trace, "s2")
            before = trace.between("vote.flush_copied.announced", "vote.hold.announced")
            names = [name for name in before if name.startswith(("flush", "sync"))]
            assert names.index("flush vda.s1") < names.index("sync vda.s1")
            after = trace.between("pivot.finalize.done", "pivot.proceed.announced")
            assert "sync vda.s3" in after
            await scene.delete("s3", strategy="stream")
            before = trace.between("vote.flush_copied.announced", "vote.hold.announced")
            names = [name for name in before if name.startswith(("flush", "sync"))]
            assert names == ["flush vda.s3", "sync vda.s3"]
            after = trace.between("pivot.finalize.done", "pivot.proceed.announced")
            assert "sync vda.s3" in after
            await scene.verify(leaks=True)

    play(story())
