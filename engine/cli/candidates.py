"""What may stand for a parameter, by its placeholder in the help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from typer.core import TyperArgument, TyperOption

from ...journal import overview
from ...journal.location import default_journal
from ...journal.look import look

if TYPE_CHECKING:
    from ...journal.rows import Rows

T = TypeVar("T")
Pairs = Iterator[tuple[str, str]]

#: What the shell completes by itself.
FILES: Final = ("", "files")
FOLDERS: Final = ("", "folders")
#: How many finished runs are offered.
_RUNS: Final = 50
#: Names that are made up by who types them.
_NEW: Final = {"backfold domain add", "backfold snapshot create"}


def of_parameter(context: Any, asked: TyperOption | TyperArgument, begin: str) -> Pairs:
    """Values and descriptions; an empty value names what the shell completes."""
    metavar = asked.metavar or ""
    for item in asked.shell_complete(context, begin):
        yield str(item.value), item.help or ""
    if metavar == "NAME" and isinstance(asked, TyperArgument):
        metavar = _meaning_of_name(context)
    if metavar in _KINDS:
        yield from _KINDS[metavar](context, begin)
    elif "|" in metavar:
        yield from ((word, "") for word in metavar.split("|"))


def _meaning_of_name(context: Any) -> str:
    if context.command_path in _NEW:
        return ""
    return (
        "DOMAIN" if context.command_path.startswith("backfold domain") else "SNAPSHOT"
    )


def _domains(context: Any, begin: str) -> Pairs:
    yield from _ask(context, overview.domain_names)


def _snapshots(context: Any, begin: str) -> Pairs:
    domain = _domain(context)
    yield from _ask(context, lambda rows: overview.snapshot_names(rows, domain))


def _targets(context: Any, begin: str) -> Pairs:
    domain = _domain(context)
    yield from _ask(context, lambda rows: overview.disk_targets(rows, domain))


def _paths_of_targets(context: Any, begin: str) -> Pairs:
    if "=" in begin:
        yield FILES
        return
    for target, source in _targets(context, begin):
        yield f"{target}=", source


def _runs(context: Any, begin: str) -> Pairs:
    """Of `cancel` and `recover` the open ones; not all commands take all kinds."""
    command = context.command_path.removeprefix("backfold ")
    for run in _ask(context, lambda rows: overview.overview(rows, _RUNS)):
        if run.finished is not None and command in ("cancel", "recover"):
            continue
        if run.machine != "deletion" and command in ("cancel", "status", "report"):
            continue
        yield run.id, f"{run.snapshot} of {run.domain}, {run.state.replace('_', ' ')}"


def _files(context: Any, begin: str) -> Pairs:
    yield FILES


def _folders(context: Any, begin: str) -> Pairs:
    yield FOLDERS


_KINDS: Final[dict[str, Callable[[Any, str], Pairs]]] = {
    "DOMAIN": _domains,
    "SNAPSHOT": _snapshots,
    "LAST": _snapshots,
    "DELETION": _runs,
    "RUN": _runs,
    "TARGET": _targets,
    "TARGET=PATH": _paths_of_targets,
    "TARGET=FILE": _paths_of_targets,
    "TARGET=PATH[,format=FMT]": _files,
    "PATH": _files,
    "FILE": _files,
    "SOCKET": _files,
    "FOLDER": _folders,
    "DIR": _folders,
}


def _domain(context: Any) -> str:
    """The domain that was typed before."""
    for name in ("domain", "name"):
        if value := context.params.get(name):
            return str(value)
    return ""


def _ask(context: Any, question: Callable[[Rows], list[Any]]) -> list[Any]:
    """Ask the journal that the line or the environment names."""
    named = context.find_root().params.get("journal")
    journal = default_journal() if named is None else Path(named).expanduser()
    return look(journal, question)
