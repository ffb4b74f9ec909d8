"""`backfold metrics`: what the journal tells a monitoring system."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...journal.errors import BackfoldError, UsageError
from .. import records
from . import failures
from .invocation import Invocation

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from ..metrics import JournalCollector


def metrics(
    ctx: typer.Context,
    textfile: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write them to FILE, whole or not at all, for the textfile collector"
            " of node_exporter. The name must end in .prom.",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="[HOST:]PORT",
            help="Serve them over HTTP until SIGINT or SIGTERM. Without HOST only this"
            " machine can reach it (127.0.0.1).",
        ),
    ] = None,
    domains: Annotated[
        bool,
        typer.Option("--domains", help="Add two series for each domain."),
    ] = False,
) -> int:
    """Print metrics in the text format of Prometheus.

    All of them come from the journal, which is only read. When it cannot be used,
    backfold_journal_usable is 0, nothing more is told of it, and the exit status is 1.
    Needs the package prometheus-client.
    """
    invocation: Invocation = ctx.obj
    if textfile is not None and listen is not None:
        raise UsageError(
            "--textfile and --listen exclude each other.", remedy="Use one of them."
        )
    if textfile is not None:
        _check_name(textfile)
    place = None if listen is None else _parsed(listen)
    collector = _collector(invocation.journal, domains)
    if place is not None:
        return _serve(collector, place, invocation)

    from ..metrics import exposition

    families = list(collector.collect())
    if textfile is not None:
        _write(textfile, exposition(families))
    failure, output = collector.failure, invocation.output
    if invocation.as_json:
        told = None if failure is None else records.error(failure)
        path = None if textfile is None else os.path.abspath(textfile)
        output.json(_answer([*map(_family, families)], textfile=path, error=told))
        return 0 if failure is None else failure.exit_status
    if textfile is None:
        output.lines(exposition(families).decode().rstrip("\n").split("\n"))
    return 0 if failure is None else failures.report(failure, output)


def _collector(journal: Path | None, per_domain: bool) -> JournalCollector:
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError:
        raise UsageError(
            "The Python package prometheus-client is not installed.",
            data="Nothing was written.",
            remedy="Install it where Backfold is: `pip install 'backfold[metrics]'`.",
        ) from None
    from ..metrics import JournalCollector

    return JournalCollector(journal, per_domain=per_domain)


def _check_name(file: Path) -> None:
    if file.suffix != ".prom":
        raise UsageError(
            f"The name of {file} does not end in .prom.",
            data="Nothing was written.",
            remedy="node_exporter reads no other files.",
        )
    if file.is_dir() or not file.parent.is_dir():
        raise UsageError(
            f"{file} cannot be written: its folder is missing, or it is one.",
            data="Nothing was written.",
            remedy="Name a file in the folder that node_exporter reads"
            " (--collector.textfile.directory).",
        )


def _write(file: Path, text: bytes) -> None:
    """Replace a file whole: its reader sees the old one or the new one."""
    made: str | None = None
    try:
        descriptor, made = tempfile.mkstemp(".tmp", f".{file.name}.", file.parent)
        with open(descriptor, "wb") as stream:
            stream.write(text)
            # Its reader is another user.
            os.fchmod(stream.fileno(), 0o644)
        os.replace(made, file)
    except OSError as error:
        if made is not None:
            with suppress(OSError):
                os.unlink(made)
        raise BackfoldError(
            f"{file} cannot be written: {error}.",
            data="What was there before is there still.",
            remedy="Check the folder's permissions and the space on its file system.",
        ) from error


def _parsed(listen: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``; an IPv6 address has brackets."""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or "127.0.0.1"
    if not (port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise UsageError(
            f"{listen!r} is not [HOST:]PORT.",
            data="",
            remedy="Use a port alone, or as in 127.0.0.1:9177.",
        )
    return host, int(port)


def _serve(
    collector: JournalCollector, place: tuple[str, int], invocation: Invocation
) -> int:
    """Answer until a signal comes; each request reads the journal."""
    import threading

    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    host, port = place
    try:
        server, _ = start_http_server(port, host, registry)
    except (OSError, UnicodeError) as error:
        raise BackfoldError(
            f"Nobody can listen on {host}, port {port}: {error}.",
            data="Nothing was written.",
            remedy="Name another port, or an address of this machine.",
        ) from error
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{server.server_port}/metrics"
    try:
        if invocation.as_json:
            invocation.output.json(_answer([], url=url))
        else:
            invocation.output.line(f"Serving {url} until SIGINT or SIGTERM.")
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    finally:
        server.shutdown()
        server.server_close()
    return 0


def _answer(families: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    nothing = {"textfile": None, "url": None, "error": None}
    return {**nothing, **fields, "families": families}


def _family(family: Metric) -> dict[str, Any]:
    samples = [
        {"name": sample.name, "labels": sample.labels, "value": sample.value}
        for sample in family.samples
    ]
    return {
        "name": family.name,
        "type": family.type,
        "help": family.documentation,
        "samples": samples,
    }
