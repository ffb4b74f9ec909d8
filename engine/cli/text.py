"""Words and numbers for people: sizes, times, and text that is safe to print."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from ..words import brief as brief
from ..words import count as count
from ..words import duration as duration
from ..words import size as size

#: Control, format (bidirectional overrides), surrogate, line and paragraph separator.
_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def safe(text: object) -> str:
    """Text without anything that a terminal would act on.

    File names, headers and QEMU's messages are other people's words: control
    characters and bidirectional overrides are shown as escapes.
    """
    string = str(text)
    if string.isascii() and string.isprintable():
        return string
    import unicodedata

    return "".join(
        ascii(char)[1:-1] if unicodedata.category(char) in _UNSAFE else char
        for char in string
    )


def instant(iso: str) -> str:
    """A time of the journal to the second, in UTC; damaged ones are shown as text."""
    try:
        return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%SZ")
    except ValueError:
        return safe(iso)


def wrapped(prefix: str, text: str, width: int | None) -> list[str]:
    """Text after a prefix, in lines of ``width`` columns; all of it in one for None.

    Names and paths are never broken: a line with a long one is longer.
    """
    room = None if width is None else width - len(prefix)
    if room is None or room < 20:
        return [prefix + safe(text)]
    import textwrap

    lines = textwrap.wrap(
        safe(text), room, break_long_words=False, break_on_hyphens=False
    )
    hanging = " " * len(prefix)
    return [
        (hanging if number else prefix) + line for number, line in enumerate(lines)
    ] or [prefix.rstrip()]


def columns(rows: list[list[str]], gap: str = "  ") -> list[str]:
    """Rows of safe text as aligned lines; the last column is never padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
