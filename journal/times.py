"""Times as the journal has them: UTC, ISO 8601."""

from __future__ import annotations

from datetime import datetime


def timestamp(iso: str) -> float:
    """Seconds since the epoch. ValueError for what is no time."""
    return datetime.fromisoformat(iso).timestamp()
