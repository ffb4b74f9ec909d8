"""docs/reference/api.md shows every public name."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import backfold

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"
SHOWN = re.compile(r"^::: (?P<what>[\w.]+)$(?P<options>(\n {4}.*)*)", re.MULTILINE)


def shown() -> set[str]:
    """The names that the page shows: an object, a whole module, or some members."""
    names: set[str] = set()
    for found in SHOWN.finditer(PAGE.read_text(encoding="utf-8")):
        module, _, name = found["what"].rpartition(".")
        members = re.search(r"members: \[(.*)\]", found["options"])
        if members is not None:
            names |= set(members[1].split(", "))
        elif name[0].isupper():
            assert name in vars(importlib.import_module(module))
            names.add(name)
        else:
            names |= set(vars(importlib.import_module(found["what"])))
    return names


def test_every_public_name_is_on_the_page() -> None:
    assert set(backfold.__all__) - shown() == set()
