"""Record a real session at a terminal, and take a still picture of it.

    .venv/bin/python tools/recording.py docs/assets

writes `backfold.cast` (asciicast v2, recorded by asciinema) and `backfold.svg`. The
session runs in namespaces of its own, with nothing of this machine on the screen: its
host is called vmhost, and its images lie in an empty /srv. A real QEMU runs a guest
that writes to two disks without pause.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pyte
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.style import Style
from rich.text import Text

from backfold.engine.demo.guest import qemu_img
from backfold.engine.demo.machine import Machine

WIDTH, HEIGHT = 100, 30
SRV = Path("/srv")
HOST = "vmhost"
PROMPT = f"\x1b[1;32mroot@{HOST}\x1b[0m:\x1b[1;34m~\x1b[0m# "
#: Seconds between two keys, and to look at what was printed.
KEY, LOOK = 0.035, 1.6

DISKS = {"vda": SRV / "web.qcow2", "vdb": SRV / "data.qcow2"}
ADD = "backfold domain add web --monitor /srv/web.qmp " + " ".join(
    f"--disk {target}={path}" for target, path in DISKS.items()
)
DELETE = "backfold delete web before-upgrade --yes --bandwidth 40M"


def session() -> None:
    """Play the session on the terminal that this process has."""
    for path in DISKS.values():
        qemu_img("create", "-q", "-f", "qcow2", path, "1G")
    guest = SRV / ".guest"
    guest.mkdir()
    disks = [(target, path, "qcow2") for target, path in DISKS.items()]
    with Machine(guest, disks, pause=2000) as machine:
        (SRV / "web.qmp").symlink_to(machine.monitor)
        run(ADD)
        run("backfold snapshot create web before-upgrade")
        say("the guest is upgraded, and writes on")
        for target, amount in (("vda", "280M"), ("vdb", "170M")):
            write = f'qemu-io drive-{target} "write -P 5 512M {amount}"'
            machine.qmp("human-monitor-command", **{"command-line": write})
        run("backfold plan web before-upgrade")
        say("somebody kills it in the middle")
        run(f"timeout -s KILL 4 {DELETE}")
        run("backfold status")
        run("backfold recover")
        run("backfold domain show web")
        run(f"backfold log {last_run()[:4]}")
    sys.stdout.write(PROMPT)


def last_run() -> str:
    """The id of the deletion."""
    status = ["backfold", "--json", "status"]
    told = subprocess.run(status, check=True, capture_output=True)
    return str(json.loads(told.stdout)["deletions"][0]["deletion"])


def say(words: str) -> None:
    """A comment at the prompt."""
    type_in(f"# {words}")


def run(command: str) -> None:
    """Type a command, run it, and leave time to read."""
    type_in(command)
    ended = subprocess.run(["bash", "-c", command], check=False)
    if ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        sys.stdout.write("\nKilled\n")  # As a shell says it.
    time.sleep(LOOK)


def type_in(line: str) -> None:
    """A prompt, and a line that is typed."""
    sys.stdout.write(PROMPT)
    for key in line:
        sys.stdout.write(key)
        sys.stdout.flush()
        time.sleep(KEY)
    time.sleep(10 * KEY)
    sys.stdout.write("\n")
    sys.stdout.flush()


def record(cast: Path) -> None:
    """Let asciinema record the session, with an empty /srv and another host name."""
    python, here = shlex.quote(sys.executable), shlex.quote(str(Path(__file__)))
    path = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    inside = (
        f"mount -t tmpfs srv /srv && hostname {HOST} && cd /srv && exec env -i"
        f" PATH={shlex.quote(path)}"
        " HOME=/srv TERM=xterm-256color LANG=C.UTF-8 USER=root SHELL=/bin/bash"
        f" BACKFOLD_JOURNAL=/srv/.backfold/journal.db {python} {here} --session"
    )
    command = ["asciinema", "rec", "--overwrite", "--quiet", "--idle-time-limit", "2"]
    command += ["--cols", str(WIDTH), "--rows", str(HEIGHT), "--env", "TERM"]
    command += ["--title", "Backfold: delete a snapshot, be killed, recover"]
    spaces = ["unshare", "--map-root-user", "--mount", "--uts", "sh", "-c", inside]
    subprocess.run(
        [*command, "--command", shlex.join(spaces), str(cast)],
        check=True,
        env={**os.environ, "TERM": "xterm-256color"},
    )


def cleaned(cast: Path) -> None:
    """Drop what asciinema notes of this machine; raise if the session names it."""
    header, *events = cast.read_text().splitlines()
    kept = {
        k: v for k, v in json.loads(header).items() if k not in ("timestamp", "env")
    }
    told = "\n".join([json.dumps(kept), *events]) + "\n"
    for word in (socket.gethostname(), str(Path.home()), str(Path.cwd()), "/tmp"):
        if re.search(rf"(?<!\w){re.escape(word)}\b", told):
            raise SystemExit(f"{cast} names {word}, which is of this machine")
    cast.write_text(told)


def frames(cast: Path) -> Iterator[tuple[float, pyte.Screen]]:
    """The screen after each event; it is the same object, as it is then."""
    screen = pyte.Screen(WIDTH, HEIGHT)
    stream = pyte.Stream(screen)
    for line in cast.read_text().splitlines()[1:]:
        at, kind, text = json.loads(line)
        if kind == "o":
            stream.feed(text)
            yield at, screen


def picture(cast: Path, svg: Path) -> None:
    """The screen when the recovery has just finished what was killed."""
    shown: list[Text] = []
    for _, screen in frames(cast):
        said = [line for line in screen.display if line.strip()]
        if len(said) > 2 and re.match(r".* of web: completed, ", said[-3]):
            shown = [styled(screen, row) for row in range(HEIGHT)]
    if not shown:
        raise SystemExit(f"{cast} shows no recovery")
    while shown and not shown[-1].plain.strip():
        shown.pop()
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"))
    for line in shown:
        console.print(line, no_wrap=True, crop=True)
    # The page must not fetch a font.
    template = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S)
    svg.write_text(console.export_svg(title="backfold recover", code_format=template))


def styled(screen: pyte.Screen, row: int) -> Text:
    """A line of the screen with its colours."""
    chars = [screen.buffer[row][column] for column in range(WIDTH)]
    line = Text()
    for (color, bold), group in groupby(chars, key=lambda char: (char.fg, char.bold)):
        text = "".join(char.data for char in group)
        line.append(text, Style(color=_color(color), bold=bold))
    line.rstrip()
    return line


def _color(name: str) -> str | None:
    """A colour as Rich calls it."""
    if name == "default":
        return None
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return name.replace("bright", "bright_").replace("brown", "yellow")


def main() -> None:
    """Record, clean, and take the picture."""
    if sys.argv[1:] == ["--session"]:
        session()
        return
    (folder,) = map(Path, sys.argv[1:])
    if shutil.which("asciinema") is None:
        raise SystemExit("asciinema is missing; `make recording` installs it.")
    cast = folder / "backfold.cast"
    record(cast.absolute())
    cleaned(cast)
    picture(cast, folder / "backfold.svg")


if __name__ == "__main__":
    main()
