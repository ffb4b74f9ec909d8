"""A new process after the power cut: recovers everything, and says what it has.

    python -m power.recovering JOURNAL LOCKS DOMAIN

It runs in another boot of the host, so that device numbers, pids and sockets of the
journal are known to be stale. Prints one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from backfold.engine.api import Engine
from backfold.engine.clock import SystemClock
from backfold.journal.errors import BackfoldError


class NextBoot(SystemClock):
    """The clock of a host that was started again."""

    def boot_id(self) -> str:
        return "00000000-0000-4000-8000-00000000b007"


async def main(journal: Path, locks: Path, domain: str) -> dict[str, Any]:
    """Recover, then read the catalog."""
    engine = Engine(journal, clock=NextBoot(), locks=locks, managed=dict)
    async with engine:
        outcomes = await engine.recover()
        again = await engine.recover()
        disks = await engine.disks(domain)
        snapshots = await engine.catalog.snapshots(domain)
    return {
        "errors": [str(o) for o in outcomes if isinstance(o, BackfoldError)],
        "open": len(again),
        "disks": [
            [d.target, d.source, d.format, list(d.chain), d.broken and list(d.broken)]
            for d in disks
        ],
        "snapshots": [
            [s.name, s.status, [[d.target, d.frozen, d.format] for d in s.disks]]
            for s in snapshots
        ],
    }


if __name__ == "__main__":
    journal, locks, domain = sys.argv[1:]
    print(json.dumps(asyncio.run(main(Path(journal), Path(locks), domain))))
