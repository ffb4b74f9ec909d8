"""Options that say which snapshots a command is about, and how they are folded."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ...journal.errors import UsageError

Through = Annotated[
    str | None,
    typer.Option(
        metavar="LAST",
        help="Delete the whole range from SNAPSHOT down to LAST, in one pass.",
    ),
]
Children = Annotated[
    bool, typer.Option("--children", help="Delete all its descendants as well.")
]
ChildrenOnly = Annotated[
    bool, typer.Option("--children-only", help="Delete its descendants, and keep it.")
]
MetadataOnly = Annotated[
    bool,
    typer.Option("--metadata-only", help="Forget the name; all images stay as is."),
]
Strategy = Annotated[
    str,
    typer.Option(
        metavar="auto|commit|stream",
        help="Copy down into the frozen image (commit), up into the image above it"
        " (stream), or take the cheaper way (auto).",
    ),
]
ImageDir = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        help="Search this folder for other users of the images, too. Repeatable.",
    ),
]


def options(
    through: str | None,
    children: bool,
    children_only: bool,
    metadata_only: bool,
    strategy: str,
    image_dir: list[str] | None,
) -> dict[str, Any]:
    """The same as arguments of the engine. Raises `UsageError`."""
    scopes = {"children": children, "children-only": children_only}
    wanted = [scope for scope, is_wanted in scopes.items() if is_wanted]
    if len(wanted) > 1:
        raise UsageError(f"--{wanted[0]} and --{wanted[1]} exclude each other.")
    return {
        "through": through,
        "scope": wanted[0] if wanted else "snapshot",
        "metadata_only": metadata_only,
        "strategy": strategy,
        "image_folders": tuple(image_dir or ()),
    }
