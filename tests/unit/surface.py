"""The public surface as text: names, signatures, fields, bases, one per line.

    PYTHONPATH=tests python -m unit.surface

writes tests/unit/surface.txt anew: do it when a change of the surface is meant, and
say so in the changelog.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import backfold

FILE = Path(__file__).with_suffix(".txt")
#: What only the guard's process uses.
INTERNAL = {"Engine.release"}


def lines() -> list[str]:
    """Everything that a program may use."""
    return [line for name in sorted(backfold.__all__) for line in described(name)]


def described(name: str) -> Iterator[str]:
    """One public name."""
    found = getattr(backfold, name)
    if inspect.isfunction(found):
        yield f"def {name}{_signature(found)}"
    elif inspect.isclass(found):
        bases = ", ".join(base.__name__ for base in found.__bases__)
        yield f"class {name}({bases})"
        yield from (f"  {name}.{line}" for line in _members(found))
    else:
        yield f"{name} = {found}"


def _members(found: type) -> Iterator[str]:
    if dataclasses.is_dataclass(found):
        for field in dataclasses.fields(found):
            required = field.default is field.default_factory is dataclasses.MISSING
            yield f"{field.name}: {field.type}{'' if required else ' (optional)'}"
    elif "__init__" in vars(found):
        yield f"__init__{_signature(found)}"
    if issubclass(found, backfold.BackfoldError):
        yield f"code = {found.code!r}"
        yield f"exit_status = {found.exit_status!r}"
    for name, member in sorted(vars(found).items()):
        if name.startswith("_") or f"{found.__name__}.{name}" in INTERNAL:
            continue
        if isinstance(member, property):
            yield f"{name} -> {_returned(member.fget)} (property)"
        elif isinstance(member, classmethod):
            continue  # They make records of the journal's rows.
        elif inspect.isfunction(member):
            sort = "async def" if inspect.iscoroutinefunction(member) else "def"
            yield f"{name} {sort}{_signature(member)}"


def _signature(found: Any) -> str:
    """Without the quotes of annotations, and without addresses."""
    text = str(inspect.signature(found)).replace("'", "")
    return re.sub(r"<function (\w+) at 0x[0-9a-f]+>", r"\1", text)


def _returned(getter: Any) -> str:
    return str(inspect.signature(getter).return_annotation)


if __name__ == "__main__":
    FILE.write_text("\n".join(lines()) + "\n", encoding="utf-8")
