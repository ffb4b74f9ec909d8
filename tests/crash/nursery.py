"""Guards by fork: the engine starts its guard as ever, and waits for no import.

The engine runs `PYTHON -m backfold.engine.guard ...`. Victims have this file's
client for their PYTHON: it hands the command line and its three standard streams to
the nursery, a process that has imported everything, and that forks the guard. So the
guard is the real one, with its real pipes; only its start is cheap.
"""

from __future__ import annotations

import fcntl
import os
import runpy
import select
import signal
import socket
import stat
import sys
import threading
import traceback
from pathlib import Path

_CLIENT = """#!{python} -IS
import socket, sys
there = socket.socket(socket.AF_UNIX)
there.connect({address!r})
socket.send_fds(there, ["\\0".join(sys.argv[1:]).encode()], [0, 1, 2])
ended = there.recv(1)
sys.exit(ended[0] if ended else 1)
"""


class Nursery:
    """Forks guards for the victims of one worker."""

    def __init__(self, folder: Path) -> None:
        """Start it; its client is ``folder/python``."""
        assert threading.active_count() == 1, threading.enumerate()
        self.program = folder / "python"
        self._busy = folder / "guards.lock"
        self._busy.touch()
        address = str(folder / "nursery.sock")
        self.program.write_text(_CLIENT.format(python=sys.executable, address=address))
        self.program.chmod(0o700)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen(16)
        self._log = folder / "guards.log"
        parent, self._alive = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                _close_all_but(parent, listener.fileno())
                self._serve(listener, parent)
            finally:
                os._exit(1)
        os.close(parent)
        listener.close()

    def close(self) -> None:
        """End it, as this process's death does. Guards end by themselves."""
        os.close(self._alive)
        os.waitpid(self._pid, 0)

    def wait(self) -> None:
        """Wait until no guard is left. Each ends when its hold has ended."""
        handle = os.open(self._busy, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        finally:
            os.close(handle)

    def _serve(self, listener: socket.socket, parent: int) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for guards.
        while True:
            waiting = [listener.fileno(), parent]
            ready, _, _ = select.select(waiting, [], [])
            if parent in ready:
                return
            client, _ = listener.accept()
            words, streams, _, _ = socket.recv_fds(client, 65536, 3)
            # Taken before the guard says that it is ready: `wait` cannot miss it.
            busy = os.open(self._busy, os.O_RDWR)
            fcntl.flock(busy, fcntl.LOCK_SH)
            if os.fork() == 0:
                listener.close()
                status = 1
                try:
                    status = self._live(words.decode().split("\0"), streams)
                except BaseException:
                    with self._log.open("a") as log:
                        traceback.print_exc(file=log)
                finally:
                    client.send(bytes([status]))
                    os._exit(status)
            for handle in (busy, *streams):
                os.close(handle)
            client.close()

    def _live(self, words: list[str], streams: list[int]) -> int:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        os.chdir("/")
        for number, handle in enumerate(streams):
            os.dup2(handle, number)
            os.close(handle)
        if stat.S_ISCHR(os.fstat(2).st_mode):  # Nobody reads it: keep it here.
            log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 2)
        sys.stdin = os.fdopen(0)
        sys.stdout = os.fdopen(1, "w")
        assert words[0] == "-m", words
        sys.argv = words[1:]
        try:
            runpy.run_module(words[1], run_name="__main__")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 1
        return 0


def _close_all_but(*kept: int) -> None:
    """Keep nothing of the parent's: a lock in it would not end with the parent."""
    low = 3
    for handle in sorted(kept):
        os.closerange(low, handle)
        low = handle + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
