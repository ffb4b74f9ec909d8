"""What the library logs: events with stable names, by the host program's own rules.

They go to structlog if the host has configured it, else to the logger ``backfold`` of
the standard library, where the fields are attributes of the record, too. Nothing is
configured here, and nothing is printed that the host did not ask for. The names are
in `log_events`.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Any, Final

import structlog
from structlog.typing import EventDict, WrappedLogger

#: The name of the logger.
NAME: Final = "backfold"


def say(level: str, event: str, **fields: object) -> None:
    """Log an event; a log that is broken breaks no run."""
    with suppress(Exception):
        _logger().log(logging.getLevelNamesMapping()[level.upper()], event, **fields)


def _logger() -> Any:
    """Asked for each time: the host may configure structlog when it likes."""
    if structlog.is_configured():
        return structlog.get_logger(NAME)
    return structlog.wrap_logger(
        logging.getLogger(NAME),
        processors=[structlog.stdlib.filter_by_level, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
    )


def _as_record(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A message that says everything, and the fields for formatters that want them."""
    fields = {key: value for key, value in event.items() if key != "event"}
    told = [f"{key}={value!r}" for key, value in fields.items()]
    return {"msg": " ".join([event["event"], *told]), "extra": dict(event)}
