"""Arguments that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

RunId = Annotated[
    str,
    typer.Argument(metavar="DELETION", help="Its id, or the beginning of it."),
]
