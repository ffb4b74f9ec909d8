"""The command line. `main` is the console script; commands load what they need."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status.

    0 done · 1 failed, nothing left open · 2 usage · 3 refused, nothing changed ·
    4 somebody else has the domain · 5 failed and rolled back · 6 something is left
    open, run ``recover``.
    """
    _open_standard_streams()
    try:
        signal.signal(signal.SIGTERM, _interrupt)
        if "_BACKFOLD_COMPLETE" in os.environ:
            from .completion import answer

            return answer()
        from .app import run

        return run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("backfold: interrupted; nothing was begun.", file=sys.stderr)
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Outside of the event loop, SIGTERM is met as Ctrl-C is."""
    raise KeyboardInterrupt


def _open_standard_streams() -> None:
    """Put something below closed streams: the journal must not become descriptor 1."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))
