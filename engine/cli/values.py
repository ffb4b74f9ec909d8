"""What operators type: disks, paths by target, rates. Raises `UsageError`."""

from __future__ import annotations

import math
import os.path
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ...journal.errors import UsageError

_POWERS: Final = {"K": 1, "M": 2, "G": 3, "T": 4}
_RATE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)([KMGT])", re.IGNORECASE)
_FORMATS: Final = ("qcow2", "raw")
#: What QEMU takes as a speed: a signed 64-bit number.
_MOST: Final = (1 << 63) - 1
#: The longest path of a Unix socket, in bytes.
_SOCKET_PATH: Final = 107
#: QEMU's own bound of its downtime-limit: 2000 seconds.
_LONGEST_DOWNTIME: Final = 2_000_000


class DiskOption(NamedTuple):
    """A disk as it was typed; ``format`` is None when it was left out."""

    target: str
    path: str
    format: str | None


def disk(text: str, option: str = "--disk ") -> DiskOption:
    """``TARGET=PATH[,format=FMT]``; a comma in the path is doubled, as in QEMU.

    ``option`` is what is written before it, for messages.
    """
    target, sign, rest = _encodable(text).partition("=")
    first, *others = _split(rest)
    if not sign or not target or not first:
        raise UsageError(
            f"{text!r} does not say which image which disk has.",
            remedy=f"Write {option}TARGET=PATH, as in vda=/srv/web.qcow2.",
        )
    format = None
    for other in others:
        key, _, value = other.partition("=")
        if key != "format" or format is not None:
            raise UsageError(
                f"{option}{target}: {other!r} is not an option of a disk.",
                remedy="Only format=qcow2 or format=raw may follow the path, once."
                " Double a comma that belongs to the path.",
            )
        if value not in _FORMATS:
            raise UsageError(
                f"{option}{target}: the format {value!r} is not supported.",
                remedy=f"Use one of: {', '.join(_FORMATS)}.",
            )
        format = value
    return DiskOption(target, first, format)


def paths(values: Sequence[str], option: str) -> dict[str, str]:
    """``TARGET=PATH`` of a repeated option, as a mapping. A path is taken as it is."""
    found: dict[str, str] = {}
    for text in values:
        target, _, path = _encodable(text).partition("=")
        if not target or not path:
            raise UsageError(
                f"{text!r} does not say which path is for which disk.",
                remedy=f"Write {option} TARGET=PATH, as in vda=/srv/web.s1.",
            )
        if target in found:
            raise UsageError(
                f"{option} is given twice for {target}.", remedy="Give one path."
            )
        found[target] = path
    return found


def file(text: str | None, option: str) -> str | None:
    """The path of a file, made absolute."""
    if text is None:
        return None
    if not text:
        raise UsageError(
            f"{option} does not say which file.", remedy=f"Write {option} FILE."
        )
    return os.path.abspath(_encodable(text))


def secrets(values: Sequence[str] | None) -> dict[str, str]:
    """``TARGET=FILE`` of `--secret`, with absolute paths. The files are not read."""
    found = paths(values or (), "--secret")
    return {target: os.path.abspath(path) for target, path in found.items()}


def socket(value: Path | None) -> str | None:
    """The path of a socket, as long as the kernel takes it."""
    if value is None:
        return None
    path = os.path.abspath(_encodable(str(value)))
    if len(path.encode()) > _SOCKET_PATH:
        raise UsageError(
            f"The socket {path} has a path of more than {_SOCKET_PATH} bytes.",
            remedy="Nothing can connect to it; move the socket to a shorter path.",
        )
    return path


def path(value: Path) -> str:
    """An absolute path that the journal can hold."""
    return os.path.abspath(_encodable(str(value)))


def rate(text: str | None) -> int | None:
    """Bytes per second: a number with K, M, G or T (powers of 1024)."""
    if text is None:
        return None
    found = _RATE.fullmatch(text)
    if found is None:
        plain = re.fullmatch(r"[0-9]+(\.[0-9]+)?", text)
        raise UsageError(
            f"The rate {text!r} has no unit." if plain else f"{text!r} is not a rate.",
            remedy="Add K, M, G or T (powers of 1024, per second), as in 50M.",
        )
    bytes_per_second = int(float(found[1]) * 1024 ** _POWERS[found[2].upper()])
    if not 1 <= bytes_per_second <= _MOST:
        raise UsageError(
            f"The rate {text!r} is out of range.", remedy="Give one above 0, as in 50M."
        )
    return bytes_per_second


def downtime(milliseconds: int) -> int:
    """How long the guest may stand still, in milliseconds."""
    if not 1 <= milliseconds <= _LONGEST_DOWNTIME:
        raise UsageError(
            f"--max-downtime {milliseconds} is out of range.",
            remedy=f"Give milliseconds from 1 to {_LONGEST_DOWNTIME}.",
        )
    return milliseconds


def timeout(seconds: float | None) -> float | None:
    """After how long a run is given up, in seconds."""
    if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(
            f"--timeout {seconds} is out of range.", remedy="Give seconds above 0."
        )
    return seconds


def _split(text: str) -> list[str]:
    """Split at single commas; doubled ones stand for one."""
    parts = [""]
    for piece in re.split(r"(,,|,)", text):
        if piece == ",":
            parts.append("")
        else:
            parts[-1] += "," if piece == ",," else piece
    return parts


def _encodable(text: str) -> str:
    """Refuse bytes that are not UTF-8: the journal and QEMU take text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{text!a} is not valid UTF-8.",
            remedy="Rename the file; the journal and QEMU take UTF-8 names only.",
        ) from None
    return text
