"""A host program that uses the engine, and looks whether anything of its own changed.

Run by `test_host.py` in a process of its own: ``python host.py FOLDER``. It prints
nothing but a JSON object: what changed, by what. Before the engine is imported it is
a plain program; nothing here may import Backfold at the top.
"""

from __future__ import annotations

import asyncio
import json
import locale
import logging
import os
import resource
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import Any


def set_up(logger: logging.Logger | logging.PlaceHolder) -> list[str]:
    """What somebody has set of a logger.

    A `NullHandler` does nothing: libraries add it to loggers of their own.
    """
    if isinstance(logger, logging.PlaceHolder):
        return []
    handlers = [h for h in logger.handlers if not isinstance(h, logging.NullHandler)]
    found = [f"level {logger.level}"] if logger.level else []
    return [*found, *map(repr, handlers), *([] if logger.propagate else ["alone"])]


def process_wide() -> dict[str, Any]:
    """What a library must leave alone."""
    os.umask(umask := os.umask(0))
    known = logging.root.manager.loggerDict
    return {
        "signals": {
            str(number): id(signal.getsignal(number))
            for number in signal.valid_signals()
        },
        "signal mask": repr(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "wakeup descriptor": repr(signal.set_wakeup_fd(-1)),
        "root logger": [logging.root.level, repr(logging.root.handlers)],
        "levels and handlers of loggers": {
            name: seen
            for name, logger in sorted(known.items())
            if (seen := set_up(logger))
        },
        "logging.disable": logging.root.manager.disable,
        "logger class": repr(logging.getLoggerClass()),
        "warnings": [repr(each) for each in warnings.filters],
        "loop policy": repr(asyncio.get_event_loop_policy()),
        "environment": dict(os.environ),
        "umask": umask,
        "folder": os.getcwd(),
        "locale": repr(locale.setlocale(locale.LC_ALL)),
        "hooks": repr((sys.excepthook, threading.excepthook, sys.unraisablehook)),
        "path": sys.path.copy(),
        "recursion": sys.getrecursionlimit(),
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "streams": repr((sys.stdin, sys.stdout, sys.stderr)),
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "children": Path("/proc/thread-self/children").read_text(),
    }


def changed(before: dict[str, Any]) -> dict[str, Any]:
    after = process_wide()
    return {key: after[key] for key in after if after[key] != before[key]}


async def use(folder: Path) -> None:
    """A snapshot, a deletion by a helper, a deletion that is refused, a revert."""
    from backfold import Disk, Engine, Refused

    images, journal = folder / "images", folder / "journal" / "journal.db"
    async with Engine(journal, locks=folder / "locks", managed=dict) as engine:
        source = str(images / "web.qcow2")
        monitor = str(folder / "nobody.qmp")
        await engine.add_domain("web", [Disk("vda", source, "qcow2")], monitor)
        await engine.create_snapshot("web", "s1")
        await engine.delete("web", "s1", strategy="commit")
        await engine.create_snapshot("web", "s2")
        await engine.revert("web", "s2")
        try:
            await engine.delete("web", "nope")
        except Refused:
            return
        raise AssertionError("a snapshot that does not exist was deleted")


async def watched(folder: Path) -> dict[str, Any]:
    """What changes while the engine works, seen from the host's own loop."""
    before = process_wide()
    found: dict[str, Any] = {}
    # It has a thread for its journal, children and connections, and only then.
    own = ("threads", "descriptors", "children", "wakeup descriptor")
    task = asyncio.ensure_future(use(folder))
    while not task.done():
        await asyncio.sleep(0.01)
        found |= changed(before)
    await task
    return {key: found[key] for key in found if key not in own}


def main(folder: Path) -> None:
    import structlog

    asyncio.run(asyncio.sleep(0))  # Whatever asyncio itself sets up.
    before = process_wide()
    told: dict[str, Any] = {"import": {}, "meanwhile": {}, "afterwards": {}}
    import backfold.engine.api  # noqa: F401

    told["import"] = changed(before)
    told["meanwhile"] = asyncio.run(watched(folder))
    told["afterwards"] = changed(before)
    told["structlog"] = {"configured": structlog.is_configured()}
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
