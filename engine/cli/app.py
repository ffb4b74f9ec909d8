"""The commands, the global options, and what becomes of every error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ... import __version__
from ...journal.errors import BackfoldError, UsageError
from . import failures
from .commands import STYLE, Commands
from .invocation import Invocation

app = typer.Typer(cls=Commands, **STYLE)

#: Commands whose every answer is a line of an event.
_STREAMING = ("delete", "recover", "cancel")
_GLOBAL = ("--journal", "--json", "--verbose", "-v", "--version")


def _version(ctx: typer.Context, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        typer.echo(f"backfold {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def options(
    ctx: typer.Context,
    journal: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The journal. Otherwise $BACKFOLD_JOURNAL, then"
            " /var/lib/backfold/journal.db for root and"
            " ~/.local/state/backfold/journal.db for others.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines for programs.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log every step to standard error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """Delete external snapshots of QEMU virtual machines.

    Each overlay is folded back into the image below it, while the machine runs or is
    off. Whatever is killed, and whenever: no write is lost, and `backfold recover`
    goes on.

    Exit status: 0 done; 1 failed, nothing left open; 2 usage; 3 refused, nothing
    changed; 4 somebody else has the domain; 5 failed and rolled back; 6 something is
    left open, run `backfold recover`.
    """
    if ctx.invoked_subcommand is None:
        if as_json:
            raise UsageError(
                "There is no command.", data="", remedy="`backfold --help` lists them."
            )
        typer.echo(ctx.get_help(), err=True)
        raise typer.Exit(2)
    invocation: Invocation = ctx.obj
    invocation.journal = journal
    invocation.verbose = verbose
    invocation.use(as_json=as_json)


def run(arguments: list[str]) -> int:
    """Run one command; every exception ends here. Returns the exit status."""
    # Until the options are read, an error is told in the form that was asked for.
    invocation = Invocation(as_json="--json" in arguments)
    try:
        status = app(
            arguments, prog_name="backfold", standalone_mode=False, obj=invocation
        )
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        invocation.streams = getattr(context, "info_name", "") in _STREAMING
        status = _fail(_usage(error), invocation)
    except BackfoldError as error:
        status = _fail(error, invocation)
    except (KeyboardInterrupt, typer.Abort):
        status = _fail(failures.stopped(), invocation)
    except Exception as error:
        invocation.trace(error)
        status = _fail(failures.bug(error), invocation)
    return _checked(int(status or 0), invocation)


def _fail(error: BackfoldError, invocation: Invocation) -> int:
    from .verdicts import fail

    return fail(error, invocation)


def _usage(error: typer.TyperException) -> UsageError:
    """An error of the command line's own grammar, in the form of all others."""
    context = getattr(error, "ctx", None)
    command = "backfold" if context is None else context.command_path
    remedy = f"`{command} --help` shows how it is used."
    option = getattr(error, "option_name", None)
    if option in _GLOBAL:
        remedy = f"{option} goes before the command: `backfold {option} ...`."
    return UsageError(error.format_message(), data="", remedy=remedy)


def _checked(status: int, invocation: Invocation) -> int:
    """Output that could not be written is a failure, unless the reader went away."""
    lost = invocation.output.stdout.lost
    if lost is None or isinstance(lost, BrokenPipeError):
        return status
    invocation.output.note(f"backfold: standard output cannot be written: {lost}")
    return status or 1
