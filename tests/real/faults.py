"""I/O errors of real system calls, in QEMU and in every other process of a test.

A small library is built once per test session and preloaded. A rule makes calls on
one file fail until it is taken back, so that a test decides when storage breaks and
when the operator has mended it. Needs a C compiler and no privileges.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from backfold.engine.images import QemuImages
from backfold.journal.errors import FlushFailed

SOURCE = Path(__file__).with_name("faults.c")
QEMU = "qemu-system"


def build(folder: Path) -> Path:
    """Compile the library; a missing compiler fails by name."""
    library = folder / "faults.so"
    subprocess.run(
        ["cc", "-O1", "-shared", "-fPIC", "-o", library, SOURCE], check=True, timeout=60
    )
    return library


class Faults:
    """The rules of one test; processes that start from now on obey them."""

    def __init__(
        self, library: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Preload ``library`` into processes that are started later."""
        self.control = folder / "faults"
        monkeypatch.setenv("LD_PRELOAD", str(library))
        monkeypatch.setenv("FAULTS", str(self.control))

    def fail(self, operation: str, number: int, path: str, program: str = QEMU) -> None:
        """From now on ``write``, ``read`` or ``flush`` of a file fails.

        ``number`` is the error, ``program`` the beginning of a program's name. The
        rule appears at once: a reader sees all of it or nothing.
        """
        new = self.control.with_suffix(".new")
        new.write_text(self.rule(operation, number, path, program))
        new.rename(self.control)

    def rule(self, operation: str, number: int, path: str, program: str) -> str:
        """The line that makes an operation fail, for the file ``control``."""
        return f"{operation} {number} {program} {Path(path).resolve()}\n"

    def mend(self) -> None:
        """Nothing fails any more."""
        self.control.unlink(missing_ok=True)


class FailingSync(QemuImages):
    """Images whose files cannot be flushed by this engine while they are named."""

    def __init__(self) -> None:
        """Nothing fails yet."""
        super().__init__()
        self.broken: set[str] = set()
        self.synced: list[str] = []

    async def sync(self, paths: Sequence[str]) -> None:
        """Fail as `files.sync` does, or note and do it."""
        for path in paths:
            self.synced.append(path)
            if path in self.broken:
                raise FlushFailed(path, "Input/output error")
        await super().sync(paths)
