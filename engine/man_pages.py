"""Man pages, from the same help texts as `--help` and the reference.

    python -m backfold.engine.man_pages build/man

writes backfold.1, and a page for each command, as in backfold-snapshot-create.1.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from .. import __version__
from .command_notes import ENVIRONMENT, EXAMPLES, FILES
from .command_tree import CommandText, exit_statuses, whole


def pages() -> dict[str, str]:
    """The text of each page by the name of its file."""
    root = whole()
    return {
        f"{_name(command)}.1": "\n".join(_page(command, root)) + "\n"
        for command in root.walk()
    }


def _page(command: CommandText, root: CommandText) -> Iterator[str]:
    name, summary = _name(command), command.summary.removesuffix(".")
    yield f'.TH {name.upper()} 1 "" "Backfold {__version__}" "Backfold"'
    yield ".SH NAME"
    yield f"{_roff(name)} \\- {_roff(summary[0].lower() + summary[1:])}"
    yield ".SH SYNOPSIS"
    yield _synopsis(command.usage, len(command.path))
    yield ".SH DESCRIPTION"
    told = [each for each in command.paragraphs if not each.startswith("Exit status: ")]
    yield "\n.PP\n".join(map(_roff, told))
    arguments = {p.written: p.help for p in command.parameters if not p.is_option}
    options = {p.written: p.help for p in command.parameters if p.is_option}
    yield from _section("ARGUMENTS", arguments)
    yield from _section("OPTIONS", options)
    if command is not root:
        yield ".PP"
        yield _roff("Options of all commands, as `--json`, go before the command; see")
        yield f"{_roff('`backfold`')}(1)."
    yield from _section(
        "COMMANDS",
        {f"{_name(each)}(1)": each.summary for each in command.below},
    )
    yield from _section("EXIT STATUS", dict(exit_statuses(root)))
    yield from _section("ENVIRONMENT", ENVIRONMENT)
    yield from _section("FILES", FILES)
    if command.path in EXAMPLES:
        yield ".SH EXAMPLES"
        for line, purpose in EXAMPLES[command.path]:
            yield f".TP\n{_roff(purpose)}\n.EX\n{_roff(line)}\n.EE"
    yield ".SH SEE ALSO"
    others = sorted({_name(root), *(_name(each) for each in root.below)} - {name})
    yield ",\n".join(f"\\fB{_roff(other)}\\fR(1)" for other in others)


def _name(command: CommandText) -> str:
    return command.path.replace(" ", "-")


def _synopsis(usage: str, length: int) -> str:
    return f"\\fB{_roff(usage[:length])}\\fR{_roff(usage[length:])}"


def _section(title: str, told: Mapping[str, str]) -> Iterator[str]:
    """Terms with their meanings, if there are any."""
    if told:
        yield f".SH {title}"
        for term, meaning in told.items():
            yield f".TP\n\\fB{_roff(term)}\\fR\n{_roff(meaning)}"


def _roff(text: str) -> str:
    """Text that roff shows as it is; what is in backquotes is bold."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = text.replace("'", "\\(aq").replace("^", "\\(ha").replace("~", "\\(ti")
    text = re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)
    # A full stop at the begin of a line would be a request.
    return "\\&" + text if text.startswith(".") else text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write all pages into a folder; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m backfold.engine.man_pages")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder: Path = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
