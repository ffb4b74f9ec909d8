"""The small file that tells how far a run is: honest, harmless, and never needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backfold.engine.beacon import LIMIT, Beacon, look

RUN = "f825c66ac1f0"


def test_others_see_how_far_it_is(tmp_path: Path) -> None:
    assert look(tmp_path, RUN) is None
    with Beacon(tmp_path, RUN) as beacon:
        assert look(tmp_path, RUN) == {}
        beacon.tell("vda", 1_000_000, 2_000_000)
        beacon.tell("vdb", 0, 0)
        assert look(tmp_path, RUN) == {"vda": (1_000_000, 2_000_000), "vdb": (0, 0)}
        beacon.tell("vda", 3, 4)  # Shorter than before.
        assert look(tmp_path, RUN) == {"vda": (3, 4), "vdb": (0, 0)}
        assert look(tmp_path, "000000000000") is None
    assert look(tmp_path, RUN) is None
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    """What it told stays behind, and counts no more; the next one begins anew."""
    code = (
        "import sys; from pathlib import Path; from backfold.engine.beacon import *\n"
        "with Beacon(Path(sys.argv[1]), sys.argv[2]) as beacon:\n"
        "    beacon.tell('vda', 1, 2); print('told', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, RUN],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert look(tmp_path, RUN) == {"vda": (1, 2)}
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / f"run-{RUN}").exists()
    assert look(tmp_path, RUN) is None
    with Beacon(tmp_path, RUN):
        assert look(tmp_path, RUN) == {}


def link(path: Path) -> None:
    path.with_name("victim").write_text("precious")
    path.symlink_to("victim")


def hard_link(path: Path) -> None:
    path.with_name("victim").write_text("precious")
    os.link(path.with_name("victim"), path)


def fifo(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("obstacle", [link, hard_link, fifo, Path.mkdir])
def test_what_lies_in_its_way_is_left_alone(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    obstacle(tmp_path / f"run-{RUN}")
    with Beacon(tmp_path, RUN) as beacon:
        beacon.tell("vda", 1, 2)
        assert look(tmp_path, RUN) is None
    assert os.path.lexists(tmp_path / f"run-{RUN}")
    if (tmp_path / "victim").exists():
        assert (tmp_path / "victim").read_text() == "precious"


def test_no_directory_costs_nothing(tmp_path: Path) -> None:
    with Beacon(tmp_path / "none", RUN) as beacon:
        beacon.tell("vda", 1, 2)
    assert look(tmp_path / "none", RUN) is None


@pytest.mark.parametrize(
    "told",
    [
        *(b"{", b"[1]\n", b'{"vda": 1}\n', b'{"vda": [1]}\n', b'{"vda": ["x", 2]}\n'),
        *(b'{"vda": [1e999, 1]}', b"\xff\n", b"7" * LIMIT, b"[" * LIMIT),
    ],
)
def test_nonsense_is_nothing_told(tmp_path: Path, told: bytes) -> None:
    with Beacon(tmp_path, RUN):
        (tmp_path / f"run-{RUN}").write_bytes(told)
        assert look(tmp_path, RUN) == {}
