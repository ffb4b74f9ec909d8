"""One cycle of the soak, and what it makes of a loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from real.scene import Scene
from soak.cycle import Cycle, Failed, Round
from soak.run import Books, soak


def test_one_cycle_kills_recovers_and_finds_every_write(tmp_path: Path) -> None:
    """Seed 3 kills engine and QEMU, and perhaps the recovery after that."""
    books = soak(tmp_path, seed=3, seconds=300, cycles=1)

    assert books.failures == []
    assert books.status == 0
    assert books.ends.total() == 1
    assert books.read_backs == 2
    assert books.writes > 0


def test_a_write_that_is_not_there_is_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The books have a write that no disk has: the status is 1."""

    async def lost(self: Scene) -> None:
        raise AssertionError("block 7 holds 12, not write 13")

    async def only_the_proof(self: Cycle) -> Round:
        done = Round("n1", "newest")
        await self._prove(done)
        return done

    monkeypatch.setattr(Scene, "verify_data", lost)
    monkeypatch.setattr(Cycle, "run", only_the_proof)
    books = soak(tmp_path, seed=3, seconds=300, cycles=1)

    assert books.status == 1
    assert "block 7 holds 12, not write 13" in capsys.readouterr().out


def test_the_summary_has_the_figures() -> None:
    books = Books(seed=7)
    books.add(Round("n1", "newest", ["engine", "QEMU"], 1.0, "completed", 2))
    books.writes = 12
    lines = books.lines(60)

    assert "kills: 2 (1 QEMU, 1 engine)" in lines
    assert "deletions: 1 (1 completed)" in lines
    assert "acknowledged writes: 12, read back 2 times" in lines
    assert lines[-1] == "losses: 0"
    books.failures.append(str(Failed("a loss")))
    assert books.status == 1
    assert books.lines(60)[-1] == "losses: 1"
