"""`backfold` without waiting for its imports.

    python quick.py FOLDER

A page may have dozens of commands, and each is a real program in a real shell. This
process imports the command line once; ``FOLDER/backfold`` hands its arguments,
environment, working directory and streams over to it, and a fork of it does the rest.
The guard that a deletion starts is such a fork, too.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

import backfold.engine.api  # noqa: F401
from backfold.engine import cli

#: The Python that runs the client needs no packages.
CLIENT = """#!{python} -IS
import json, os, socket, sys
there = socket.socket(socket.AF_UNIX)
there.connect({address!r})
order = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
there.sendall(len(order).to_bytes(4, "big"))
there.sendall(order)
socket.send_fds(there, [b"."], [0, 1, 2])
ended = there.recv(1)
sys.exit(ended[0] if ended else 70)
"""


def serve(folder: Path) -> None:
    """Fork a command for each client, until standard input ends."""
    address = str(folder / "socket")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(16)
    client = folder / "backfold"
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o700)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    print("ready", flush=True)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            run(connection, client)
        connection.close()


def run(connection: socket.socket, client: Path) -> None:
    """Be the command that was asked for, or the guard that it starts."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    status = 70
    try:
        length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
        order = connection.recv(length, socket.MSG_WAITALL)
        arguments, cwd, environment = json.loads(order)
        _, streams, _, _ = socket.recv_fds(connection, 1, 3)
        for number, handle in enumerate(streams):
            os.dup2(handle, number)
            os.close(handle)
        sys.stdin = open(0, closefd=False)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(environment)
        if arguments[:1] == ["-m"]:
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__")
        else:
            sys.argv = ["backfold", *arguments]
            sys.executable = str(client)
            status = cli.main(arguments)
        sys.stdout.flush()
        sys.stderr.flush()
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        connection.send(bytes([status]))
        os._exit(status)


if __name__ == "__main__":
    for module in pkgutil.iter_modules(cli.__path__, f"{cli.__name__}."):
        importlib.import_module(module.name)
    serve(Path(sys.argv[1]))
