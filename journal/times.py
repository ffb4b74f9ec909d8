"""Times as the journal has them: UTC, ISO 8601."""

from __future__ import annotations

from datetime import UTC, datetime


def timestamp(iso: str) -> float:
    """Seconds since the epoch. ValueError for what is no time."""
    return datetime.fromisoformat(iso).timestamp()


def seconds_between(began: str, ended: str) -> float | None:
    """Seconds from one time to another, not below zero; None when one is no time."""
    try:
        first, last = (datetime.fromisoformat(iso) for iso in (began, ended))
    except ValueError:
        return None
    first, last = (at if at.tzinfo else at.replace(tzinfo=UTC) for at in (first, last))
    return max(0.0, (last - first).total_seconds())
