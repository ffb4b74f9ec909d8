"""Numbers for people: sizes, lengths of time and counts, in one form everywhere."""

from __future__ import annotations

from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


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


def brief(seconds: float) -> str:
    """A length of time that may be short: milliseconds below one second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else duration(seconds)


def count(number: int, what: str) -> str:
    """``1 disk``, ``2 disks``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
