"""A session on the terminal at its input, whose job asks and ends in the background.

Its exit status is 0 when the job has come to its end, and was not stopped.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import termios
import time

from backfold.engine.cli import asking


def main() -> int:
    """Begin the job in the foreground, and let it leave in the background."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.alarm(60)
    begun, begin = os.pipe()
    ended, end = os.pipe()
    job = os.fork()
    if job == 0:
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.setpgid(0, 0)
        os.read(begun, 1)

        async def ask() -> None:
            with asking.keys(lambda key: None):
                os.write(end, b"!")
                os.read(begun, 1)

        asyncio.run(ask())
        return 0
    while os.getpgid(job) != job:
        time.sleep(0.01)
    os.tcsetpgrp(0, job)
    os.write(begin, b"!")
    os.read(ended, 1)
    os.tcsetpgrp(0, os.getpgrp())
    os.write(begin, b"!")
    _, status = os.waitpid(job, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        os.kill(job, signal.SIGKILL)
    return status and 1


if __name__ == "__main__":
    sys.exit(main())
