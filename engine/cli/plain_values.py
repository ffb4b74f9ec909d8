"""Text and paths from the command line, without a validation library.

typer 0.29 loads pydantic for every value, and also for one that was not given: twice
the time of everything else that `backfold status` does. Text stays what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

#: Where typer keeps what converts a parameter, until then None.
_CONVERTER: Final = "_runtime_param"
_MAKERS: Final[dict[Any, Callable[[Any], Any]]] = {
    str: str,
    list[str]: str,
    Path: Path,
    bool: bool,
}


class _Plain:
    """Converts the values of one parameter; in place of typer's `RuntimeParam`."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        """The value as the command gets it. Raises `typer.BadParameter`."""
        if param.multiple or param.nargs == -1:
            return [self._one(text, param, ctx) for text in value or ()]
        return None if value is None else self._one(value, param, ctx)

    def _one(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            str(value).encode()
        except UnicodeEncodeError:
            raise typer.BadParameter(
                f"{value!a} is not valid UTF-8.", ctx=ctx, param=param
            ) from None
        return self._make(value)


def take_plainly(command: TyperCommand | TyperGroup) -> None:
    """Convert text and paths here. What is unknown or a number is left to typer.

    A typer that keeps its converters elsewhere is only slower.
    """
    for param in command.get_params(typer.Context(command)):
        descriptor = getattr(param, "type_descriptor", None)
        make = _MAKERS.get(getattr(descriptor, "annotation", None))
        if make is not None and _CONVERTER in vars(param):
            vars(param)[_CONVERTER] = _Plain(make)
