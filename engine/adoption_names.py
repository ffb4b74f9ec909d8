"""What an adopted snapshot is called: after the overlay right above its image."""

from __future__ import annotations

import os.path
import re
from collections.abc import Collection
from typing import Final

#: Endings of file names that say what an image is, and nothing of a snapshot.
SUFFIXES: Final = (".qcow2", ".qcow", ".raw", ".img", ".snap", ".overlay")
#: The longest name of a snapshot, in characters.
LONGEST: Final = 100

_INVALID: Final = re.compile(r"[^A-Za-z0-9_.:@+-]")
_INVALID_FIRST: Final = re.compile(r"^[^A-Za-z0-9_]")


def name_of(overlay: str, below: str) -> str:
    """The snapshot that ``overlay`` (a path) was made by, on the image ``below``.

    ``web.s1`` on ``web.qcow2`` is ``s1``: what follows the stem of the image below.
    Otherwise it is the file's name. A known suffix does not count, and what cannot
    be in a name becomes ``_``.
    """
    name = os.path.basename(overlay)
    lower = os.path.basename(below)
    found = _plain(name)
    for stem in (os.path.splitext(lower)[0], os.path.splitext(_plain(lower))[0]):
        rest = name.removeprefix(f"{stem}.")
        if stem and rest != name and f".{rest}" not in SUFFIXES:
            found = _plain(rest)
            break
    return _INVALID_FIRST.sub("_", _INVALID.sub("_", found))[:LONGEST] or "_"


def free_name(wanted: str, taken: Collection[str]) -> str:
    """The name, or the name with the first number behind it that is not taken."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        end = f"-{number}"
        name = wanted[: LONGEST - len(end)] + end
    return name


def _plain(name: str) -> str:
    """A file name without a suffix that is known."""
    stem, suffix = os.path.splitext(name)
    return stem if stem and suffix.lower() in SUFFIXES else name
