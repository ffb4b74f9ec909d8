"""Write what commands print now into the pages that say something else.

    PYTHONPATH=tests python -m docs.rewrite PAGE...

Outputs that are still right stay as they are. Read the difference before you commit
it: what a page has to say about an output is beside it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import structlog

from docs.scenes import scene
from docs.walker import QUICK, Walk, environment, read


def rewrite(path: Path, folder: Path, programs: Path) -> int:
    """Bring the outputs of a page up to date; returns how many were not."""
    page = read(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    moved = changed = 0
    with scene(page.scene, folder) as stage:
        walk = Walk(
            stage.home, environment(stage, programs), stage.places, stage.last_run
        )
        for command in page.commands:
            printed = walk.run(command.text)
            if walk.compare(command.expected, printed) is not None:
                start = command.line + moved + command.text.count("\n")
                lines[start : start + len(command.expected)] = printed
                moved += len(printed) - len(command.expected)
                changed += 1
        walk.close()
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return changed


def main(paths: list[str]) -> None:
    """Rewrite these pages."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with tempfile.TemporaryDirectory() as scratch:
        programs = Path(scratch) / "programs"
        programs.mkdir()
        server = subprocess.Popen(
            [sys.executable, QUICK, programs],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with server:
            assert server.stdout is not None
            server.stdout.readline()
            for number, path in enumerate(paths):
                folder = Path(scratch) / str(number)
                folder.mkdir()
                changed = rewrite(Path(path), folder, programs)
                print(f"{path}: {changed} outputs changed")
            server.communicate()


if __name__ == "__main__":
    main(sys.argv[1:])
