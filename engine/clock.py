"""Time and chance of the real world: the `Clock` port."""

from __future__ import annotations

import asyncio
import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SystemClock:
    """The clock of this host."""

    def now(self) -> str:
        """The time of day: UTC, ISO 8601, with microseconds and ``+00:00``."""
        return datetime.now(UTC).isoformat(timespec="microseconds")

    def monotonic(self) -> float:
        """Seconds that only go up."""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def new_id(self) -> str:
        """A new run's id: 12 hex digits."""
        return secrets.token_hex(6)

    def boot_id(self) -> str:
        """Names this boot of the host, as the kernel does."""
        return BOOT_ID.read_text(encoding="ascii").strip()
