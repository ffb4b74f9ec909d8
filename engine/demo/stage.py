"""Where the demo plays: its folder, its log, and the processes that it must not leave.

Nothing of this is Backfold's own: an operator has folders and processes already.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil
import structlog

from .. import guard

#: Programs that the demo runs, as Debian packages them.
PROGRAMS: Final = ("qemu-system-x86_64", "qemu-img")
PACKAGES: Final = "qemu-system-x86 qemu-utils"
_TICK: Final = 0.05


class NotEmpty(Exception):
    """The folder that was given holds something already, or cannot be made."""


def missing_programs() -> list[str]:
    """The programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def folder_for(keep: Path | None) -> Iterator[Path]:
    """A new folder: ``keep``, which stays, or a temporary one, which goes.

    Raises `NotEmpty`.
    """
    if keep is not None:
        try:
            keep.mkdir(parents=True, exist_ok=True)
            filled = any(keep.iterdir())
        except OSError as error:
            raise NotEmpty(f"{keep} cannot be used: {error.strerror}.") from error
        if filled:
            raise NotEmpty(f"{keep} is not empty; name a folder that is, or a new one.")
        yield keep.resolve()
        return
    # Resolved: the journal has the real paths, and so have the processes.
    folder = Path(tempfile.mkdtemp(prefix="backfold-demo-")).resolve()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send the library's log events to a file, and afterwards where they went."""
    before = structlog.get_config() if structlog.is_configured() else None
    with path.open("a", encoding="utf-8") as file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(default=str),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
            logger_factory=structlog.WriteLoggerFactory(file),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.reset_defaults()
            if before is not None:
                structlog.configure(**before)


def guards(journal: Path) -> list[psutil.Process]:
    """The guards of runs in this journal that are still there."""
    return _processes(lambda words: {guard.__name__, str(journal)} <= set(words))


def emulators(folder: Path) -> list[psutil.Process]:
    """The QEMUs that have a file below this folder open or on their command line."""

    def is_qemu(words: list[str]) -> bool:
        return Path(words[0]).name.startswith("qemu-system")

    def has_files(process: psutil.Process) -> bool:
        with suppress(psutil.Error):
            named = any(str(folder) in word for word in process.cmdline())
            return named or any(
                Path(file.path).is_relative_to(folder) for file in process.open_files()
            )
        return False

    return [process for process in _processes(is_qemu) if has_files(process)]


def wait_for_guards(journal: Path, timeout: float) -> bool:
    """Wait until no guard is at work; whether there was one.

    Raises:
        TimeoutError: One is still there.
    """
    deadline = time.monotonic() + timeout
    seen = False
    while guards(journal):
        seen = True
        if time.monotonic() > deadline:
            raise TimeoutError(f"a guard is still at work after {timeout:.0f} s")
        time.sleep(_TICK)
    return seen


def clear(folder: Path, journal: Path) -> list[str]:
    """End what is left of the story; what had to be killed, in words.

    The folder was empty at the beginning, so a QEMU with files in it is ours.
    """
    left = []
    with suppress(TimeoutError):
        wait_for_guards(journal, 10.0)
    for process in [*guards(journal), *emulators(folder)]:
        with suppress(psutil.Error):
            left.append(f"{process.name()} {process.pid}")
            process.kill()
            process.wait(5.0)
    return left


def _processes(wanted: Callable[[list[str]], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if words and process.status() != psutil.STATUS_ZOMBIE and wanted(words):
                found.append(process)
    return found
