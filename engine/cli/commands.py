"""Which commands there are; each is loaded when it is asked for.

To load all of them takes longer than everything else that `backfold status` does.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from .plain_values import take_plainly
from .usage import Command

#: How every part of the command line looks.
STYLE: Final[dict[str, Any]] = {
    "add_completion": False,
    # Plain help: it starts twice as fast, and a pager shows it as it is.
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}


class _Entry(NamedTuple):
    """Where a command is; its summary is the first sentence of its own help."""

    module: str
    attribute: str
    summary: str


#: Each command, in the order in which an operator meets them.
COMMANDS: Final = {
    "domain": _Entry("domains", "app", "Record domains, and see how to boot them."),
    "snapshot": _Entry("snapshots", "app", "Take snapshots, and see which there are."),
    "plan": _Entry("plans", "plan", "Show what `delete` would do."),
    "delete": _Entry(
        "deletions",
        "delete",
        "Delete a snapshot, a range, or a subtree, while the domain runs or is off.",
    ),
    "recover": _Entry("recovery", "recover", "Finish what was interrupted."),
    "cancel": _Entry(
        "recovery", "cancel", "Give an open deletion up and roll it back."
    ),
    "status": _Entry(
        "history", "status", "Show open and recent deletions, or one of them in detail."
    ),
    "log": _Entry("history", "log", "Tell what happened in a run, from the journal."),
    "report": _Entry(
        "reports",
        "report",
        "Write a deletion as one HTML page: what happened, when, and to which images.",
    ),
    "check": _Entry(
        "check", "check", "Compare the catalog with the disks and QEMU, both ways."
    ),
    "metrics": _Entry(
        "metrics", "metrics", "Print metrics in the text format of Prometheus."
    ),
    "datasette-metadata": _Entry(
        "datasette",
        "datasette_metadata",
        "Print metadata for Datasette: descriptions of all tables, and useful queries.",
    ),
    "diagram": _Entry("extras", "diagram", "Print the diagram of a state machine."),
    "completion": _Entry(
        "completion",
        "completion",
        "Print the script that completes commands and names in a shell.",
    ),
    "demo": _Entry("extras", "demo", "Tell the whole story on a real QEMU."),
}


class Commands(TyperGroup):
    """The group of all commands."""

    def __init__(self, **settings: Any) -> None:
        """Made by typer."""
        super().__init__(**settings)
        take_plainly(self)

    def list_commands(self, ctx: Any) -> list[str]:
        """Domains and snapshots first."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> TyperCommand | TyperGroup | None:
        """Load a command. For a name that is none, all: one may have been meant."""
        if cmd_name not in COMMANDS:
            for name in COMMANDS.keys() - self.commands.keys():
                self.get_command(ctx, name)
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = _load(cmd_name)
        found = self.commands[cmd_name]
        assert isinstance(found, TyperCommand | TyperGroup)
        return found

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Commands and options; it loads none."""
        from typer._click.shell_completion import CompletionItem

        named = [CompletionItem(name, help=COMMANDS[name].summary) for name in COMMANDS]
        # Past the group's own method, which would load them for their summaries.
        return [*named, *super(TyperGroup, self).shell_complete(ctx, incomplete)]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list in the help; it loads none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name].summary) for name in COMMANDS])


def group(name: str, help: str) -> typer.Typer:
    """A command that has commands of its own."""
    return typer.Typer(name=name, help=help, **STYLE)


def _load(name: str) -> Any:
    entry = COMMANDS[name]
    module = import_module(f".{entry.module}", __package__)
    found = getattr(module, entry.attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(**STYLE)
        found.command(name)(function)
    for info in found.registered_commands:
        info.cls = Command
    command = typer.main.get_command(found)
    for each in (command, *getattr(command, "commands", {}).values()):
        take_plainly(each)
    return command
