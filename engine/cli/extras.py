"""`backfold diagram` and `backfold demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...journal.errors import UsageError
from .invocation import Invocation

if TYPE_CHECKING:
    from ..api import Engine


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
    machine: Annotated[
        Machine | None,
        typer.Argument(help="Which machine; with --of, it may be left out."),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="RUN",
            help="Draw the way that this run took: how often and when each transition"
            " was made, how long it was in each state, and where it is.",
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option("--format", help="svg needs the program `dot`.")
    ] = Format.MERMAID,
) -> int:
    """Print the diagram of a state machine.

    It is drawn from the declaration that also drives the engine. `diagram fold --of`
    shows the way of each disk of a deletion.
    """
    invocation: Invocation = ctx.obj
    name = None if machine is None else machine.value
    if of is None and name is None:
        raise UsageError(
            "Of which machine?",
            remedy=f"Name one of: {', '.join(Machine)}; or a run, with --of.",
        )
    drawn = _drawn(invocation, name, of, format.value)
    if invocation.as_json:
        invocation.output.json(drawn)
    else:
        invocation.output.raw(drawn["diagram"])
    return 0


def _drawn(
    invocation: Invocation, machine: str | None, of: str | None, format: str
) -> dict[str, Any]:
    from ..diagram import render

    fields = {"machine": machine, "run": None, "format": format}
    if of is None:
        assert machine is not None
        return {**fields, "diagram": render(machine, format)}
    from ..routes import travelled

    async def work(engine: Engine) -> dict[str, Any]:
        run = await engine.find(of)
        way = travelled(run, await engine.log(run.id), machine)
        drawn = render(way.machine, format, travelled=way)
        return {**fields, "machine": way.machine, "run": run.id, "diagram": drawn}

    return invocation.run(work)


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
    from rich.console import Console

    from ..demo.story import drawn, run

    invocation: Invocation = ctx.obj
    seed = drawn() if seed is None else seed
    as_json = invocation.as_json
    status = run(seed, keep, Console(stderr=as_json))
    if as_json:
        kept = None if keep is None else str(keep.absolute())
        invocation.output.json({"seed": seed, "passed": status == 0, "kept": kept})
    return status
