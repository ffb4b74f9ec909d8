"""The command line, with the QEMU that it works with standing still at the switch.

For tests of what an operator can do after the decision, which is over in a moment.
"""

from __future__ import annotations

import os
import signal
import sys

import psutil

from backfold.engine import api
from backfold.engine.cli import main


class Probe(api.NoProbe):
    """Stops every QEMU that this process has started, before it is told to switch."""

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """Act at the first moment of the switch."""
        if (state, step, moment) == ("pivot", "finalize", "announced"):
            for child in psutil.process_iter(["name", "cmdline"]):
                named = " ".join(child.info["cmdline"] or ())
                if "qemu" in child.info["name"] and os.environ["FOLDER"] in named:
                    os.kill(child.pid, signal.SIGSTOP)


if __name__ == "__main__":
    setattr(api, "NoProbe", Probe)  # noqa: B010
    sys.exit(main())
