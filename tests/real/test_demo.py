"""The demo: every ending of its story, and that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console

from backfold.engine.api import Engine
from backfold.engine.demo import acts, stage, story
from backfold.engine.demo.acts import Acts
from backfold.engine.demo.guest.boot import DATA_OFFSET
from backfold.engine.demo.points import KillPoint, draw, kill_points
from backfold.engine.demo.telling import Teller
from sampled import sampled


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A story with little in it; the folder that its temporary one is made in."""
    monkeypatch.setattr(acts, "WRITES", 40)
    monkeypatch.setattr(acts, "BANDWIDTH", None)
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def told(seed: int | None, keep: Path | None = None) -> tuple[int, str]:
    out = io.StringIO()
    status = story.run(seed, keep, Console(file=out, width=100))
    return status, out.getvalue()


def seed_of(point: str) -> int:
    return next(seed for seed in count() if str(draw(seed)) == point)


def damage(image: Path) -> None:
    write = f"write -q -P 1 {DATA_OFFSET} 64k"
    subprocess.run(["qemu-io", "-f", "qcow2", "-c", write, image], check=True)


def assert_nothing_runs(folder: Path) -> None:
    assert stage.emulators(folder) == []
    assert stage.guards(folder / "journal.db") == []


# Where it kills


def test_every_point_is_drawn_and_always_by_the_same_seeds() -> None:
    points = kill_points(2)

    assert draw(7) == draw(7)
    assert {draw(seed) for seed in range(1000)} == set(points)
    assert [KillPoint.parse(str(point)) for point in points] == points


def test_points_are_those_that_a_deletion_passes(quick: Path) -> None:
    """A new step of the declaration has to be looked at: can the demo kill there?"""
    seen: dict[tuple[str, str, str], int] = {}

    class Recorder:
        def reached(self, machine: str, state: str, step: str, moment: str) -> None:
            if machine == "deletion":
                point = (state, step, moment)
                seen[point] = seen.get(point, 0) + 1

    async def delete() -> None:
        teller = Teller(Console(file=io.StringIO()))
        async with Engine(quick / "journal.db", probe=Recorder()) as engine:
            play = Acts(teller, quick, engine, draw(0))
            try:
                await play.snapshots()
                await engine.delete(
                    acts.DOMAIN, "s3", strategy="commit", max_downtime_ms=5000
                )
            finally:
                await play.end()

    asyncio.run(delete())
    passed = [
        KillPoint(*point, nth)
        for point, times in seen.items()
        for nth in range(1, times + 1)
        if point[0] != "validate"
    ]

    assert sorted(passed) == sorted(kill_points(2))


# The story


@pytest.mark.parametrize(
    "point", sampled(1, ["vote.fence.done", "pivot.finalize.noted"])
)
def test_story_passes_and_leaves_nothing(quick: Path, point: str) -> None:
    seed = seed_of(point)
    status, text = told(seed)

    assert status == 0, text
    last = text.strip().splitlines()[-1]
    assert last.startswith("PASS: ")
    assert f" acknowledged writes, 0 lost; killed at {point} (seed {seed}); " in last
    assert "is completed." in text
    assert list(quick.iterdir()) == []
    assert_nothing_runs(quick)


def test_lost_write_makes_it_fail_and_keep_keeps(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prove = Acts.proof

    async def damage_and_prove(self: Acts) -> tuple[int, int]:
        damage(quick / "kept" / "vda.s1")
        return await prove(self)

    monkeypatch.setattr(Acts, "proof", damage_and_prove)
    status, text = told(seed_of("update_metadata.unlink.done#2"), quick / "kept")

    assert status == 1
    assert "FAIL: 16 blocks LOST or wrong; killed at update_metadata" in text
    names = {path.name for path in (quick / "kept").iterdir()}
    assert {"journal.db", "engine.log", "victim.log", "vda.s1", "vdb.qcow2"} <= names
    assert not any("backfold" in name or name.endswith(".s3") for name in names)
    assert [path.name for path in quick.iterdir()] == ["kept"]
    assert_nothing_runs(quick)


def test_interrupt_leaves_nothing(quick: Path) -> None:
    program = (
        f"import sys, tempfile; tempfile.tempdir = {str(quick)!r}\n"
        "from backfold.engine.demo.story import run; sys.exit(run(1, None))"
    )
    process = subprocess.Popen(
        [sys.executable, "-uc", program], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("2. "):
            break
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=30)[0]

    assert process.returncode == 130
    assert "Interrupted" in rest
    assert "PASS" not in rest and "FAIL" not in rest
    assert list(quick.iterdir()) == []
    assert_nothing_runs(quick)


def test_deletion_that_is_not_killed_fails_the_story(
    quick: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = KillPoint("pivot", "relink", "done")
    monkeypatch.setattr(story, "draw", lambda seed: never)
    status, text = told(3)

    assert status == 1
    assert "FAIL: the deletion was not killed as planned: The deletion ended" in text
    assert list(quick.iterdir()) == []
    assert_nothing_runs(quick)


# What it needs


def test_missing_qemu_names_the_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, text = told(None)

    assert status == 1
    assert "install Debian's packages qemu-system-x86 qemu-utils" in text


def test_folder_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    status, text = told(None, tmp_path)

    assert status == 2
    assert "is not empty" in text
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
