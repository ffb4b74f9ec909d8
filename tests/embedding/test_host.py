"""The engine changes nothing of the program that embeds it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from backfold.engine.demo.guest import qemu_img

HOST = Path(__file__).with_name("host.py")


def test_nothing_of_the_host_is_changed(tmp_path: Path) -> None:
    """Neither by the import, nor while runs go on, nor afterwards.

    Signals, loggers, warnings, the event loop's policy, environment, umask, folder:
    a library that changes them changes them for everybody in the process. Nothing
    is printed, and no thread, descriptor or child is left.
    """
    (tmp_path / "images").mkdir()
    qemu_img("create", "-q", "-f", "qcow2", tmp_path / "images" / "web.qcow2", "16M")
    done = subprocess.run(
        [sys.executable, "-W", "error", HOST, tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {
        "import": {},
        "meanwhile": {},
        "afterwards": {},
        "structlog": {"configured": False},
    }
