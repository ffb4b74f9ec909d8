"""`backfold completion`, and what the scripts that it prints ask at each Tab.

A script runs `backfold` with the line so far in its environment, and gets a candidate
per line: the whole word, a tab, a description. A line that begins with a tab leaves
it to the shell, which completes `files` or `folders`. What is not the name of
something of ours never gets there: a candidate needs no quotes in any shell.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ..names import is_name
from .invocation import Invocation
from .text import safe

#: The environment of a question: the shell, the line up to the cursor, its first
#: word, and in bash the end of the line that is replaced.
SHELL: Final = "_BACKFOLD_COMPLETE"
_LINE: Final = "_BACKFOLD_LINE"
_COMMAND: Final = "_BACKFOLD_COMMAND"
_WORD: Final = "_BACKFOLD_WORD"


class Shell(StrEnum):
    """The shells that there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    ctx: typer.Context, shell: Annotated[Shell, typer.Argument(help="Which shell.")]
) -> int:
    """Print the script that completes commands and names in a shell.

    It offers commands, options, their values, domains, snapshots, disks and runs; the
    journal is only read. Load it in the start file of the shell: `source <(backfold
    completion bash)`, the same for zsh, `backfold completion fish | source` for fish.
    """
    invocation: Invocation = ctx.obj
    script = Path(__file__).with_name("completions") / f"backfold.{shell.value}"
    text = script.read_text(encoding="utf-8")
    if invocation.as_json:
        invocation.output.json({"shell": shell.value, "script": text})
    else:
        invocation.output.raw(text)
    return 0


def answer() -> int:
    """Print the candidates for the line in the environment. Never fails, or says so."""
    try:
        lines = list(_answer(os.environ))
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()
    except Exception:
        return 1
    return 0


def _answer(environment: Any) -> Iterator[str]:
    words, word = _words(environment[_LINE], environment.get(_COMMAND, ""))
    replaced = environment.get(_WORD, word)
    # bash breaks words at colons and equal signs, and replaces the last piece only.
    kept = len(word) - len(replaced) if word.endswith(replaced) else 0
    for candidate, description in _candidates(words, word):
        if not candidate:
            yield f"\t{description}"
        elif environment[SHELL] == Shell.BASH:
            yield candidate[kept:]
        else:
            yield f"{candidate}\t{safe(description)}"


def _words(line: str, command: str) -> tuple[list[str], str]:
    """The words after the command, and the one that the cursor is in."""
    from typer._click.shell_completion import split_arg_string

    words = split_arg_string(line)
    if command in words:
        del words[: words.index(command) + 1]
    if words and not line[-1:].isspace():
        return words[:-1], words[-1]
    return words, ""


def _candidates(words: list[str], word: str) -> Iterator[tuple[str, str]]:
    """Whole words with descriptions; an empty word names what the shell completes."""
    from typer._click.shell_completion import _resolve_context, _resolve_incomplete
    from typer.core import TyperArgument, TyperOption
    from typer.main import get_command

    from .app import app
    from .candidates import of_parameter

    root = get_command(app)
    context = _resolve_context(root, {}, "backfold", words)
    asked, begin = _resolve_incomplete(context, list(words), word)
    before = word[: len(word) - len(begin)]
    if isinstance(asked, TyperOption | TyperArgument):
        if words and words[-1] in asked.opts:
            # An option without its value hides all the other parameters.
            context = _resolve_context(root, {}, "backfold", words[:-1])
        for value, description in of_parameter(context, asked, begin):
            if not value:
                yield "", description
            # An equal sign is for the path behind it.
            elif value.startswith(begin) and is_name(value.removesuffix("=")):
                yield before + value, description
        return
    for item in asked.shell_complete(context, begin):
        if str(item.value).startswith(begin):
            yield before + str(item.value), item.help or ""
