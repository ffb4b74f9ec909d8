"""Metrics for Prometheus; needs the extra ``backfold[metrics]``."""

from .engine.metrics import JournalCollector

__all__ = ["JournalCollector"]
