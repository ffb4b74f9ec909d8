"""Programs that write one page of the documents from the code, or check it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

#: How all of them are run.
REFRESH: Final = "make diagrams"


def main(
    module: str, page: Callable[[], str], arguments: Sequence[str] | None = None
) -> int:
    """Write the page to a file, or with ``--check`` compare it; the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m backfold.engine.{module}")
    parser.add_argument("page", type=Path, metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    path: Path = options.page
    if not options.check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(), encoding="utf-8")
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == page():
        return 0
    print(f"{path} differs. Refresh it by: {REFRESH}", file=sys.stderr)
    return 1
