"""Names of domains, disks and snapshots."""

from __future__ import annotations

import re
from typing import Final

from ..journal.errors import UsageError

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*")
_LONGEST: Final = 100


def is_name(text: str) -> bool:
    """Whether it is safe in file names, terminals and shells."""
    return len(text) <= _LONGEST and _NAME.fullmatch(text) is not None


def valid_name(what: str, name: str) -> str:
    """The name, if it is one. Raises `UsageError`."""
    if not is_name(name):
        raise UsageError(
            f"{name!r} cannot be the name of a {what}.",
            remedy="Use letters, digits and _ . : @ + -, beginning with a letter,"
            f" a digit or _; {_LONGEST} characters at most.",
        )
    return name
