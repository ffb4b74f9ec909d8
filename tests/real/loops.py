"""Loop devices for tests: block devices that anybody with root can make."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def loop_devices(folder: Path, *sizes: int) -> Iterator[tuple[str, ...]]:
    """New loop devices of these sizes (bytes); their files lie in ``folder``.

    They are detached at the end. Where none can be made the test fails: nothing here
    is skipped.
    """
    made: list[str] = []
    try:
        for number, size in enumerate(sizes):
            file = folder / f"device-{number}"
            file.touch()
            os.truncate(file, size)
            done = subprocess.run(
                ["losetup", "--find", "--show", str(file)],
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                raise AssertionError(
                    "this test needs a loop device (root, and /dev/loop-control in a"
                    f" container): {done.stderr.strip()}"
                )
            made.append(done.stdout.strip())
        yield tuple(made)
    finally:
        for device in made:
            subprocess.run(["losetup", "--detach", device], check=True)
