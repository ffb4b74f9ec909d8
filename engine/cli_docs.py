"""The reference of the command line, from the help texts.

    python -m backfold.engine.cli_docs docs/reference/cli.md [--check]

writes the page, or says whether it is as the code is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from . import generated_page
from .command_notes import ENVIRONMENT, EXAMPLES, FILES
from .command_tree import CommandText, exit_statuses, whole
from .generated_page import REFRESH
from .markdown import code, escape, table, text


def page() -> str:
    """The Markdown text."""
    return text(_parts(whole()))


def _parts(root: CommandText) -> Iterator[str]:
    yield (
        "<!-- Generated from the help texts in engine/cli and from"
        f" engine/command_notes.py by `{REFRESH}`. Do not edit. -->"
    )
    yield "# Command line"
    yield (
        "The same texts are shown by `--help` and are the man pages, which `make man`"
        " writes to build/man. What `--json` prints is described in"
        " [JSON](json.md), and how soon it all answers in"
        " [start-up](../startup.md)."
    )
    for command in root.walk():
        yield from _command(command)
    yield "## Exit status"
    yield table(
        ("status", "meaning"),
        ((code(status), escape(told)) for status, told in exit_statuses(root)),
    )
    for title, told in (("Environment", ENVIRONMENT), ("Files", FILES)):
        yield f"## {title}"
        yield table(
            ("name", "meaning"),
            ((code(name), escape(meaning)) for name, meaning in told.items()),
        )


def _command(command: CommandText) -> Iterator[str]:
    yield f"## {command.path}"
    yield f"```text\n{command.usage}\n```"
    yield from (
        escape(told)
        for told in command.paragraphs
        if not told.startswith("Exit status: ")
    )
    if command.parameters:
        yield table(
            ("parameter", "meaning"),
            (
                (code(each.written).replace("|", "\\|"), escape(each.help))
                for each in command.parameters
            ),
        )
    for line, purpose in EXAMPLES.get(command.path, ()):
        yield escape(purpose)
        yield f"```sh\n{line}\n```"
    if command.below:
        yield table(
            ("command", "does"),
            (
                (f"[{each.path}](#{each.path.replace(' ', '-')})", escape(each.summary))
                for each in command.below
            ),
        )


if __name__ == "__main__":
    sys.exit(generated_page.main("cli_docs", page))
