"""`backfold datasette-metadata`: how to show a journal in a browser."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from .invocation import Invocation


def datasette_metadata(
    ctx: typer.Context,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What Datasette calls the journal: the name of its file without the"
            " suffix. Otherwise that of the journal that is used.",
        ),
    ] = None,
) -> int:
    """Print metadata for Datasette: descriptions of all tables, and useful queries.

    Write it to a file, and give that to `datasette serve --metadata`. The journal is
    not opened.
    """
    from ..api import default_journal
    from ..datasette import metadata

    invocation: Invocation = ctx.obj
    name = database or (invocation.journal or default_journal()).stem
    found = metadata(name)
    if invocation.as_json:
        invocation.output.json({"metadata": found})
    else:
        invocation.output.raw(json.dumps(found, indent=2))
    return 0
