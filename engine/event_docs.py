"""The page about events, those for programs and those of the log, from the code.

    python -m backfold.engine.event_docs docs/reference/events.md [--check]

writes the page, or says whether it is as the code is.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import get_args

from . import generated_page
from .events import Event
from .generated_page import REFRESH
from .log_events import OTHERS, LogEvent, of_machine
from .markdown import code, escape, table, text
from .seeds import MACHINES
from .state_docs import driven


def page() -> str:
    """The Markdown text."""
    parts = [
        f"<!-- Generated from engine/events.py and the machines by `{REFRESH}`."
        " Do not edit. -->",
        "# Events",
        "Two kinds: objects for the program that embeds the engine, and lines of the"
        " log for whoever watches it. Names and fields are stable: a new version may"
        " add events and fields, and takes none away without a new major version.",
        "## For programs",
        "`on_event=` of a call hears the events of its own run, `Engine.events()` those"
        " of all runs of the engine; [embedding](../embedding.md#events) says how. All"
        " are frozen dataclasses that `backfold` exports. `at` is the time, UTC, ISO"
        " 8601.",
    ]
    for kind in get_args(Event):
        told = (inspect.getdoc(kind) or "").replace("``", "`")
        parts += [f"### {kind.__name__}", escape(told)]
        rows = (
            (code(field.name), escape(code(str(field.type)))) for field in fields(kind)
        )
        parts.append(table(("field", "type"), rows))
    parts += [
        "## In the log",
        "They go to [structlog](https://www.structlog.org) if the host program has"
        " configured it, else to the logger `backfold` of the standard library, where"
        " the fields are attributes of the record. The library configures neither. An"
        " event of a run has the run's id (as `deletion`, `creation` or `reversion`),"
        " `domain` and `snapshot`; a step that is one disk's has `disk` too. For"
        " entered states `source` is the state before.",
    ]
    for machine in driven(MACHINES):
        parts += [f"### {machine.title}", _table(of_machine(machine))]
    parts += ["### Outside of runs", _table(OTHERS)]
    return text(parts)


def _table(events: Iterable[LogEvent]) -> str:
    return table(
        ("event", "level", "when", "fields"),
        (
            (
                code(event.name),
                event.level,
                escape(event.when),
                ", ".join(map(code, event.fields)) or "-",
            )
            for event in events
        ),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page; the exit status."""
    return generated_page.main("event_docs", page, arguments)


if __name__ == "__main__":
    sys.exit(main())
