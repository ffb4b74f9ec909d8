"""An engine for tests of the pivot, which only a commit needs."""

from __future__ import annotations

from typing import Any

from backfold.engine.api import Engine
from backfold.engine.results import Deletion
from backfold.journal.model import Plan


class CommittingEngine(Engine):
    """Deletes by commits where a test does not say otherwise.

    Left to itself it would stream, as the costs of small images are near.
    """

    async def plan(
        self, domain: str, snapshot: str, *, strategy: str = "commit", **more: Any
    ) -> Plan:
        """What `delete` would do."""
        return await super().plan(domain, snapshot, strategy=strategy, **more)

    async def delete(
        self, domain: str, snapshot: str, *, strategy: str = "commit", **more: Any
    ) -> Deletion:
        """Delete snapshots."""
        return await super().delete(domain, snapshot, strategy=strategy, **more)
