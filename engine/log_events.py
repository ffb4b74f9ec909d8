"""Every event that the library logs, by name: a promise to whoever watches logs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ..states.machine import Declaration
from .seeds import MACHINES
from .state_docs import driven


@dataclass(frozen=True, slots=True)
class LogEvent:
    """An event: its level, when it is logged, and its fields.

    Events of runs have their run, `domain` and `snapshot` besides.
    """

    name: str
    level: str
    when: str
    fields: tuple[str, ...] = ()


#: What any run may log, besides its states and steps.
OF_RUNS: Final = (
    LogEvent("alarm", "warning", "Something unexpected; the run goes on.", ("what",)),
    LogEvent(
        "listener_failed", "error", "`on_event` raised; the run goes on.", ("error",)
    ),
    LogEvent(
        "telling_failed",
        "error",
        "What a step did could not be told; the run goes on.",
        ("step", "error"),
    ),
)
#: What is logged outside of runs.
OTHERS: Final = (
    LogEvent("check.fixed", "info", "`check` mended a finding.", ("code", "path")),
    LogEvent(
        "dependents.skipped",
        "warning",
        "A file could not be read while users of an image were searched.",
        ("path", "error"),
    ),
    LogEvent(
        "libvirt.definition_skipped",
        "warning",
        "A definition of libvirt could not be read.",
        ("path", "error"),
    ),
    LogEvent(
        "libvirt.folder_skipped",
        "warning",
        "A folder of libvirt's definitions could not be read.",
        ("path", "error"),
    ),
)


def of_machine(machine: Declaration) -> Iterator[LogEvent]:
    """States when they are entered, steps when they are done, and what else may come.

    A step that is one disk's has the field `disk`.
    """
    for state in machine.states:
        name = f"{machine.name}.{state.name}"
        yield LogEvent(name, "info", "The state was entered.", ("source",))
        for step in state.steps:
            yield LogEvent(f"{name}.{step.name}", "debug", step.does)
    for event in OF_RUNS:
        name = f"{machine.name}.{event.name}"
        yield LogEvent(name, event.level, event.when, event.fields)


def log_events() -> list[LogEvent]:
    """All of them. A fold has no events of its own: it is logged by its deletion."""
    of_runs = [event for machine in driven(MACHINES) for event in of_machine(machine)]
    return [*of_runs, *OTHERS]
