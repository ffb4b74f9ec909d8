"""An owner of a definition that lives elsewhere: a script that rewrites a launcher."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from backfold.engine.results import DomainDisk

#: What it is told is the launcher; beside it are all calls, and what makes it fail.
_SCRIPT: Final = """\
#!/bin/sh
cd "$(dirname "$0")" || exit 1
cat > "told.$$"
cat "told.$$" >> calls
while [ -e slow ] && [ "$BACKFOLD_CALL" = switch ]; do sleep 0.05; done
if [ "$BACKFOLD_CALL" = switch ] && [ -e refused ] &&
    grep -q -F -f refused "told.$$"; then
    cp "told.$$" launcher
    echo "half of it is written" >&2
    exit 4
fi
[ ! -e "broken.$BACKFOLD_CALL" ] || { echo "no room for it" >&2; exit 3; }
mv "told.$$" launcher
"""


class Launcher:
    """A launcher in a folder of its own, and the hook that writes it."""

    def __init__(self, folder: Path) -> None:
        """Nothing was told yet, unless it is there already."""
        self.folder = folder / "owner"
        self.folder.mkdir(mode=0o700, exist_ok=True)
        self.hook = self.folder / "hook"
        if not self.hook.exists():
            self.hook.write_text(_SCRIPT)
            self.hook.chmod(0o755)

    @property
    def disks(self) -> dict[str, str]:
        """What the launcher would boot from, by target; empty if nothing is written."""
        path = self.folder / "launcher"
        return _sources(json.loads(path.read_text())) if path.exists() else {}

    @property
    def calls(self) -> list[dict[str, Any]]:
        """Every call, in order."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def switches(self) -> list[dict[str, str]]:
        """The images of each `switch`, in order."""
        return [_sources(call) for call in self.calls if call["call"] == "switch"]

    @property
    def running(self) -> list[int]:
        """The processes that run the hook now, each the first of its group.

        What a shell has just forked has the command line of the shell still.
        """
        found = []
        for entry in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                pid, command = int(entry.name), (entry / "cmdline").read_bytes()
                if bytes(self.hook) in command.split(b"\0") and os.getpgid(pid) == pid:
                    found.append(pid)
        return found

    def forget_calls(self) -> None:
        """Look only at those that come now."""
        (self.folder / "calls").unlink(missing_ok=True)

    def fail(self, call: str = "switch") -> None:
        """It fails in all calls of a kind, and writes nothing."""
        (self.folder / f"broken.{call}").touch()

    def refuse(self, image: str) -> None:
        """It fails in a `switch` to this image, and has half worked then."""
        (self.folder / "refused").write_text(f"{image}\n")

    def hang(self) -> None:
        """It does not end, in a `switch`."""
        (self.folder / "slow").touch()

    def mend(self) -> None:
        """Everything works again."""
        for name in ("broken.prepare", "broken.switch", "refused", "slow"):
            (self.folder / name).unlink(missing_ok=True)

    def boots(self) -> list[tuple[str, Path, str]]:
        """What a machine is started with by this launcher."""
        told = json.loads((self.folder / "launcher").read_text())
        return [(d["target"], Path(d["source"]), d["format"]) for d in told["disks"]]

    def agrees(self, disks: tuple[DomainDisk, ...]) -> bool:
        """Whether it names exactly these images."""
        return self.disks == {disk.target: disk.source for disk in disks}


def _sources(call: dict[str, Any]) -> dict[str, str]:
    return {disk["target"]: disk["source"] for disk in call["disks"]}
