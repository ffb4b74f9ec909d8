"""Logging of the command line: structlog and the standard library, to one place.

The library configures nothing; this does, as long as an engine is open. A thread
writes: standard error may not take a line for minutes, and a guest may stand still.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from queue import SimpleQueue
from typing import IO, Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from .text import safe


@contextmanager
def configured(*, verbose: bool, as_json: bool) -> Iterator[None]:
    """Send records to standard error, as lines for people or as JSON lines.

    Without ``verbose`` only warnings are shown, and nothing of `qemu.qmp`, which
    logs a domain that is merely off as an error.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    records: SimpleQueue[logging.LogRecord] = SimpleQueue()
    handler = QueueHandler(records)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_for_machines() if as_json else _for_people()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.WARNING)
    # Its debug level is every byte on the monitor.
    logging.getLogger("qemu").setLevel(logging.INFO if verbose else logging.CRITICAL)
    for name in ("asyncio", "transitions"):
        logging.getLogger(name).setLevel(logging.WARNING)
    writer = QueueListener(records, _Handler())
    writer.start()
    try:
        yield
    finally:
        writer.stop()


class _Handler(logging.StreamHandler[IO[str]]):
    """Writes to whatever standard error is now: a progress bar may wrap it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> IO[str]:
        return sys.stderr

    @stream.setter
    def stream(self, _: IO[str]) -> None:
        """It is not kept."""

    def handleError(self, record: logging.LogRecord) -> None:
        """A log that cannot be written disturbs nobody."""


def _for_machines() -> list[Processor]:
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [
        structlog.processors.ExceptionRenderer(tracebacks),
        structlog.processors.JSONRenderer(default=str),
    ]


def _for_people() -> list[Processor]:
    return [
        _made_safe,
        structlog.dev.ConsoleRenderer(
            colors=False,
            pad_event_to=32,
            exception_formatter=structlog.dev.plain_traceback,
        ),
        _lines_made_safe,
    ]


def _made_safe(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """No value can end its line or move the cursor."""
    return {
        key: safe(value) if isinstance(value, str) else value
        for key, value in event.items()
    }


def _lines_made_safe(_: WrappedLogger, __: str, rendered: Any) -> str:
    """Nor can the messages in a traceback."""
    return "\n".join(map(safe, str(rendered).splitlines()))
