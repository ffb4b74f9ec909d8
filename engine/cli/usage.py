"""How commands write their parameters in the help: by placeholder, without types."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperOption


class Command(TyperCommand):
    """A command with plain help; what must be given is bare, the rest in brackets."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line after the command."""
        return [_piece(piece) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options."""
        for title, kind in (("Arguments", TyperArgument), ("Options", TyperOption)):
            params = [p for p in self.get_params(ctx) if isinstance(p, kind)]
            rows = [row for param in params if (row := record(param, ctx))]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def record(param: Any, ctx: Any) -> tuple[str, str] | None:
    """How a parameter is written, and its help; None for a hidden one."""
    found = param.get_help_record(ctx)
    if found is None:
        return None
    written, help = found
    if isinstance(param, TyperOption):
        return re.sub(r"<([^>]*\|[^>]*)>", r"\1", written), help
    # The usage line says which arguments are required.
    help = re.sub(r"(  )?\[required\]$", "", help)
    name, _, kind = written.partition(" <")
    return kind.removesuffix(">") if "|" in kind else _piece(name), help


def _piece(written: str) -> str:
    """A word of the usage line."""
    word = written.strip("{}")
    return word.upper() if word.strip("[]").islower() else word
