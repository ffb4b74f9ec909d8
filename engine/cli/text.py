"""Words and numbers for people: sizes, times, and text that is safe to print."""

from __future__ import annotations

import unicodedata
from datetime import datetime
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
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
    return "".join(
        ascii(char)[1:-1] if unicodedata.category(char) in _UNSAFE else char
        for char in string
    )


def size(count: float) -> str:
    """Bytes in the largest unit of 1024 that keeps a digit before the point."""
    value = float(count)
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """A length of time, as coarse as its own size allows."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def instant(iso: str) -> str:
    """A time of the journal to the second, in UTC; damaged ones are shown as text."""
    try:
        return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M:%SZ")
    except ValueError:
        return safe(iso)


def count(number: int, what: str) -> str:
    """``1 disk``, ``2 disks``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def columns(rows: list[list[str]], gap: str = "  ") -> list[str]:
    """Rows of safe text as aligned lines; the last column is never padded."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        gap.join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]
