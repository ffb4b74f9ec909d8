"""Where the journal is."""

from __future__ import annotations

import os
from pathlib import Path


def default_journal() -> Path:
    """Where the journal is when nobody says: $BACKFOLD_JOURNAL, or root's, or yours."""
    if named := os.environ.get("BACKFOLD_JOURNAL"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/backfold/journal.db")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(state) / "backfold/journal.db"


def is_missing(path: Path) -> bool:
    """Whether it is sure that there is no such file."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False
