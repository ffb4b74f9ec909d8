"""Domains that are defined in the journal's own catalog."""

from __future__ import annotations

from sqlite_utils import Database

from ..journal.catalog import fold_snapshots
from ..journal.model import CatalogChange


class CatalogDefinitions:
    """Applies a change in the very transaction that records it."""

    def apply(self, db: Database, change: CatalogChange) -> None:
        """Record that snapshots are folded away, compare-and-set; safe to repeat."""
        fold_snapshots(db, change)
