"""`backfold report`: a deletion as one HTML page in a file."""

from __future__ import annotations

import os
import stat
import tempfile
from typing import TYPE_CHECKING, Annotated

import typer

from ...journal.errors import CommandFailed, UsageError
from .arguments import RunId
from .invocation import Invocation
from .text import size

if TYPE_CHECKING:
    from ..api import Engine


def report(
    ctx: typer.Context,
    deletion: RunId,
    html: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Where the page goes; - is standard output. A file that is there is"
            " not written over, unless with --force.",
        ),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace FILE if it is there.")
    ] = False,
) -> int:
    """Write a deletion as one HTML page: what happened, when, and to which images.

    The page needs no network and no script. It works for deletions that are open,
    refused or rolled back, too. With the program `dot` it has the diagram of the
    machine with the way that the deletion took.
    """
    invocation: Invocation = ctx.obj
    path = None if html == "-" else os.path.abspath(html)
    if path is not None:
        _refuse(path, force)

    async def work(engine: Engine) -> tuple[str, str]:
        found = await engine.deletion(deletion)
        return found.id, await engine.report(found.id)

    run, page = invocation.run(work)
    data = page.encode()
    if path is not None:
        _write(path, data, force)
    output = invocation.output
    if invocation.as_json:
        told = {"deletion": run, "file": path, "bytes": len(data)}
        output.json({**told, "html": page if path is None else None})
    elif path is None:
        output.raw(page)
    else:
        output.line(f"Wrote {path} ({size(len(data))}).")
    return 0


def _refuse(path: str, force: bool) -> None:
    """Raise `UsageError` for a file that is not to be written."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot(path, error) from error
    if not stat.S_ISREG(found.st_mode):
        raise UsageError(
            f"{path} is there and is not a file.",
            remedy="Name another file; --html - writes to standard output.",
        )
    if not force:
        raise UsageError(
            f"{path} is there already.",
            remedy="Name another file, or add --force to replace it.",
        )


def _write(path: str, data: bytes, force: bool) -> None:
    """Put a file in its place, whole or not at all."""
    folder, name = os.path.split(path)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name[:64]}.", dir=folder)
        with open(descriptor, "wb") as file:
            file.write(data)
            # As any other file that its user makes; mkstemp is more careful.
            os.fchmod(file.fileno(), 0o666 & ~_umask())
            file.flush()
            os.fsync(file.fileno())
        if force:
            _refuse(path, force)
            os.replace(temporary, path)
        else:
            from ..files import opened_folder, rename_no_replace

            with opened_folder(temporary) as (folder_of, former):
                rename_no_replace(folder_of, former, folder_of, name)
        temporary = None
    except FileExistsError:
        _refuse(path, force)
        raise
    except OSError as error:
        raise _cannot(path, error) from error
    finally:
        if temporary is not None:
            os.unlink(temporary)


def _cannot(path: str, error: OSError) -> CommandFailed:
    return CommandFailed(
        f"{path} cannot be written: {error.strerror}.",
        remedy="Name a file in a folder that you can write to.",
    )


def _umask() -> int:
    old = os.umask(0o077)
    os.umask(old)
    return old
