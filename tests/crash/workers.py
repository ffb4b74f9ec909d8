"""Workers that play cases side by side, each with a folder and a nursery."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Final, TypeVar

import structlog

from crash.nursery import Nursery
from crash.stage import Wardrobe

T = TypeVar("T")
#: Longer than any case takes, in seconds.
LIMIT: Final = 900
#: Memory is faster than a disk, and a SIGKILL loses neither.
MEMORY: Final = Path("/dev/shm")
#: How much of it has to be free, in bytes; containers often have very little.
ROOM: Final = 1 << 30

Job = Callable[[T, Wardrobe, Nursery], Any]
_FORK = multiprocessing.get_context("fork")


def played(jobs: int, work: Job[T], todo: Sequence[T]) -> Iterator[tuple[T, Any]]:
    """Do the work on each item, in ``jobs`` processes; yields results as they come.

    A worker that ends is a fault of the tests, and raises `EOFError`.
    """
    left = list(reversed(todo))
    busy: dict[Connection, T] = {}
    processes = []
    try:
        for _ in range(min(jobs, len(left))):
            ours, theirs = _FORK.Pipe()
            parents = (ours, *busy)
            process = _FORK.Process(target=_live, args=(theirs, work, parents))
            process.start()
            theirs.close()
            processes.append(process)
            busy[ours] = left.pop()
            ours.send(busy[ours])
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                item = busy.pop(ready)
                result = ready.recv()
                if left:
                    busy[ready] = left.pop()
                    ready.send(busy[ready])
                else:
                    ready.send(None)
                yield item, result
    finally:
        for process in processes if busy else ():
            process.terminate()
        for process in processes:
            process.join()


def _live(orders: Connection, work: Job[Any], parents: Sequence[Connection]) -> None:
    """Take orders until there are no more, or nobody who could give them.

    The ends of the parent, which a fork copies, are closed: while one is open here,
    the parent's death would not be seen.
    """
    for copied in parents:
        copied.close()
    signal.signal(signal.SIGALRM, _too_long)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR)
    )
    folder = Path(tempfile.mkdtemp(prefix="backfold-crash-", dir=_place()))
    programs = Path(tempfile.mkdtemp(prefix="backfold-crash-"))
    nursery = Nursery(programs)
    try:
        wardrobe = Wardrobe(folder)
        while (item := orders.recv()) is not None:
            signal.alarm(LIMIT)
            result = work(item, wardrobe, nursery)
            signal.alarm(0)
            orders.send(result)
    except (EOFError, ConnectionError):
        pass  # The parent was killed.
    finally:
        nursery.close()
        for made in (folder, programs):
            shutil.rmtree(made, ignore_errors=True)


def _place() -> Path | None:
    """Where scenes are played: in memory if there is enough, else where temp is."""
    if not os.access(MEMORY, os.W_OK):
        return None
    found = os.statvfs(MEMORY)
    return MEMORY if found.f_bavail * found.f_frsize >= ROOM else None


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"the case takes longer than {LIMIT} s")
