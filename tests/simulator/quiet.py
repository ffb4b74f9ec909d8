"""Nobody reads a hundred thousand logs."""

from __future__ import annotations

import logging

import structlog


def silence() -> None:
    """Drop log events before they cost anything; for processes of the simulator."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL)
    )
