"""Errors as operators see them: what happened, what it means, what to do next."""

from __future__ import annotations

from collections.abc import Iterator

from ...journal.errors import BackfoldError, Reason, Refused
from .. import records
from .output import Output


class Stopped(BackfoldError):
    """A signal ended the command, and no run is open."""

    code = "stopped"


class NotLooked(BackfoldError):
    """A signal came before it was known what is open."""

    code = "interrupted"
    exit_status = 6


class TooLate(BackfoldError):
    """There is nothing left to give up."""

    code = "already_completed"


class Bug(BackfoldError):
    """Something that nobody expected."""

    code = "bug"


def stopped() -> Stopped:
    """A signal came while nothing was going on that could be left open."""
    return Stopped(
        "Interrupted.", data="A change of the catalog is whole, or was not made."
    )


def bug(error: BaseException) -> Bug:
    """The report of an exception that should not have happened."""
    return Bug(
        f"{type(error).__name__}: {error}",
        data="What was journaled stands; `backfold status` shows what is open.",
        remedy="This is a bug in Backfold. Please report it with the output of the"
        " same command with -v.",
    )


def report(error: BackfoldError, output: Output) -> int:
    """Say what went wrong, and return the exit status."""
    if output.as_json:
        output.json({"error": records.error(error)})
    else:
        for line in explain(error):
            output.note(line)
    return error.exit_status


def explain(error: BackfoldError) -> Iterator[str]:
    """The lines of an error, for people."""
    if isinstance(error, Refused) and error.reasons:
        of = f" (deletion {error.deletion})" if error.deletion else ""
        yield f"backfold: refused{of}"
        for reason in dict.fromkeys(error.reasons):
            yield from _reason(reason)
        yield f"  data: {error.data}"
        return
    yield f"backfold: {error.what}"
    if error.data:
        yield f"  data: {error.data}"
    if error.remedy:
        yield f"  next: {error.remedy}"


def _reason(reason: Reason) -> Iterator[str]:
    disk = f"{reason.disk}: " if reason.disk is not None else ""
    yield f"  {disk}{reason.message} [{reason.code}]"
    yield f"    next: {reason.remedy}"
