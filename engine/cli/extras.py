"""`backfold diagram` and `backfold demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .invocation import Invocation


class Machine(StrEnum):
    """The declared machines."""

    DELETION = "deletion"
    FOLD = "fold"
    CREATION = "creation"
    REVERSION = "reversion"


class Format(StrEnum):
    """How a diagram is written."""

    MERMAID = "mermaid"
    DOT = "dot"
    SVG = "svg"


def diagram(
    ctx: typer.Context,
    machine: Annotated[Machine, typer.Argument(help="Which machine.")],
    format: Annotated[
        Format, typer.Option("--format", help="svg needs the program `dot`.")
    ] = Format.MERMAID,
) -> int:
    """Print the diagram of a state machine.

    It is drawn from the declaration that also drives the engine.
    """
    from ..diagram import render

    invocation: Invocation = ctx.obj
    drawn = render(machine.value, format.value)
    if invocation.as_json:
        fields = {"machine": machine.value, "format": format.value, "diagram": drawn}
        invocation.output.json(fields)
    else:
        invocation.output.raw(drawn)
    return 0


def demo(
    ctx: typer.Context,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", help="Where it is killed; the same N, the same way."),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Leave images, logs and journal in DIR."),
    ] = None,
) -> int:
    """Tell the whole story on a real QEMU.

    A guest that writes, a kill in the middle, a recovery, and a proof.
    """
    from ..demo.story import run

    return run(seed, keep)
