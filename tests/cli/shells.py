"""Real shells on a terminal, in which somebody types and presses Tab."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

BACKFOLD = str(Path(sys.executable).with_name("backfold"))
PATIENCE = 60.0
_END = "that is all"

#: How each shell is started without anybody's settings, and made ready.
_COMMANDS = {
    "bash": ["bash", "--noprofile", "--norc", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-i"],
}
_READY = {
    "bash": "source <(backfold completion bash)",
    "zsh": "autoload -Uz compinit; compinit -D; bindkey -e;"
    " source <(backfold completion zsh)",
    "fish": "backfold completion fish | source",
}


class Shell:
    """A shell with the completion script loaded, in a folder of its own."""

    def __init__(self, name: str, folder: Path, journal: Path) -> None:
        self.name = name
        self.terminal, inner = pty.openpty()
        environment = {
            "PATH": f"{Path(BACKFOLD).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "BACKFOLD_JOURNAL": str(journal),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "PS1": "",
        }
        self.process = subprocess.Popen(
            # Job control needs a controlling terminal, and fish insists on it.
            ["setsid", "--ctty", "--wait", *_COMMANDS[name]],
            cwd=folder,
            env=environment,
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        os.close(inner)
        self.run(_READY[name])

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)

    def run(self, line: str) -> str:
        """Type a line, and return all that was shown until it was done."""
        # The end is written so that the echo of the line is not mistaken for it.
        first, rest = _END[:4], _END[4:]
        text = f"{line}\rprintf '%s%s\\n' '{first}' '{rest}'\r"
        os.write(self.terminal, text.encode())
        return self._read_until(_END)

    def complete(self, line: str) -> list[str]:
        """Type, press Tab, and return the words that the line has then."""
        # Ctrl-A goes to the begin of the line.
        shown = self.run(f"{line}\t\x01printf '\\n<%s>\\n' ")
        words = [text for text in shown.splitlines() if text.startswith("<")]
        return [text[1:-1] for text in words if text.endswith(">")]

    def offered(self, line: str, *expected: str) -> str:
        """Type, press Tab twice, and return what was shown; the line is dropped.

        A shell that has more to read may not show what it found: it is given time to
        show what is ``expected``.
        """
        os.write(self.terminal, f"{line}\t\t".encode())
        shown = self._read_until(*expected)
        return shown + self.run("\x15")

    def _read_until(self, *words: str) -> str:
        shown, deadline = b"", time.monotonic() + PATIENCE
        while not all(word.encode() in shown.replace(b"\r", b"") for word in words):
            left = deadline - time.monotonic()
            if left < 0 or not select.select([self.terminal], [], [], left)[0]:
                raise TimeoutError(f"{self.name}: {shown!r}, not {words}")
            shown += os.read(self.terminal, 1 << 16)
        return shown.decode(errors="replace").replace("\r", "")
