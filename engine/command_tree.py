"""The commands with their help texts, as the documents and the man pages need them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from .cli.app import app
from .cli.usage import record


@dataclass(frozen=True)
class Parameter:
    """An argument or an option: how it is written, and what it is for."""

    written: str
    help: str
    is_option: bool


@dataclass(frozen=True)
class CommandText:
    """What a command says of itself; ``path`` is how it is called."""

    path: str
    usage: str
    paragraphs: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    #: The commands below it.
    below: tuple[CommandText, ...] = ()

    @property
    def summary(self) -> str:
        """Its first sentence."""
        return re.split(r"(?<=\.) ", self.paragraphs[0])[0]

    def walk(self) -> Iterator[CommandText]:
        """This one and all below it."""
        yield self
        for each in self.below:
            yield from each.walk()


def whole() -> CommandText:
    """`backfold` with all its commands."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    return _text(root, typer.Context(root, info_name="backfold"))


def _text(command: TyperCommand | TyperGroup, context: typer.Context) -> CommandText:
    below = []
    if isinstance(command, TyperGroup):
        for name in command.list_commands(context):
            each = command.get_command(context, name)
            assert isinstance(each, TyperCommand | TyperGroup)
            inner = typer.Context(each, info_name=name, parent=context)
            below.append(_text(each, inner))
    pieces = " ".join(command.collect_usage_pieces(context))
    return CommandText(
        path=context.command_path,
        usage=f"{context.command_path} {pieces}",
        paragraphs=tuple(_paragraphs(command.help or "")),
        parameters=tuple(_parameters(command)),
        below=tuple(below),
    )


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.split("\n\n"):
        yield " ".join(paragraph.split())


def _parameters(command: TyperCommand | TyperGroup) -> Iterator[Parameter]:
    context = typer.Context(command)
    for param in command.params:
        if found := record(param, context):
            written, help = found
            yield Parameter(written, _sentences(help), isinstance(param, TyperOption))


def _sentences(help: str) -> str:
    """A help text with its default as a sentence, and without what the usage says."""
    text, _, extra = help.partition("  [")
    default = re.search(r"default: ([^;\]]+)", extra)
    text += "" if default is None else f" Default: {default[1]}."
    return text + " Required." * ("required" in extra)


#: What each exit status means: the sentence is in the help of `backfold`.
_STATUS: Final = re.compile(r"(\d) ([^;.]+(?:`[^`]*`)?)[;.]")


def exit_statuses(root: CommandText) -> Sequence[tuple[str, str]]:
    """Each exit status, and what it means."""
    (told,) = (p for p in root.paragraphs if p.startswith("Exit status: "))
    return _STATUS.findall(told)
