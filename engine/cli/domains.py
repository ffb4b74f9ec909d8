"""`backfold domain`: which virtual machines there are, and how to boot them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from ...journal.errors import Reason, Refused, UsageError
from .. import records
from . import boot, pictures, values
from .commands import group
from .invocation import Invocation
from .lookups import open_deletion
from .text import columns, count, safe

if TYPE_CHECKING:
    from ...journal.model import Domain
    from ..api import Engine
    from ..results import DomainDisk

app = group("domain", "Record domains, and see how to boot them.")
app.command()(boot.args)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The domain's name.")]

_QCOW2: Final = b"QFI\xfb"


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    disk: Annotated[
        list[str],
        typer.Option(
            metavar="TARGET=PATH[,format=FMT]",
            help="A disk and the image that it boots from; may be repeated. The format"
            " is qcow2 unless said otherwise, and is never probed. Double a comma that"
            " belongs to the path.",
        ),
    ],
    monitor: Annotated[
        Path | None,
        typer.Option(metavar="SOCKET", help="The QMP socket of the domain's QEMU."),
    ] = None,
    hook: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The executable that rewrites the domain's definition when its images"
            " get other names; see `domain hook`.",
        ),
    ] = None,
) -> int:
    """Record a domain. The images below the given ones are found by their headers."""
    invocation: Invocation = ctx.obj
    wanted = [values.disk(text) for text in disk]
    socket = values.socket(monitor)
    program = None if hook is None else values.path(hook)

    async def work(engine: Engine) -> int:
        from ...journal.model import Disk

        disks = [Disk(w.target, w.path, w.format or "qcow2") for w in wanted]
        try:
            await engine.add_domain(name, disks, socket, hook=program)
        except Refused as error:
            raise _with_hints(error, wanted) from error
        return await _show(engine, invocation, name)

    return invocation.run(work, creates_journal=True)


@app.command("list")
def list_domains(ctx: typer.Context) -> int:
    """List the domains."""
    invocation: Invocation = ctx.obj

    async def work(engine: Engine) -> int:
        found = await engine.catalog.domains()
        output = invocation.output
        if invocation.as_json:
            output.json({"domains": [records.domain(domain) for domain in found]})
            return 0
        if not found:
            output.note("No domains; `backfold domain add` adds one.")
            return 0
        rows = [["DOMAIN", "DISKS", "MONITOR", "HOOK"]]
        for domain in found:
            targets = " ".join(disk.target for disk in domain.disks)
            places = [safe(path or "-") for path in (domain.monitor, domain.hook)]
            rows.append([domain.name, targets, *places])
        output.lines(columns(rows))
        return 0

    return invocation.run(work)


@app.command()
def show(ctx: typer.Context, name: Name) -> int:
    """Show a domain: the images to boot from now.

    The chain below each image is read from the headers; it is drawn from its lowest
    image up, with what each file takes and the snapshots that froze it.
    """
    invocation: Invocation = ctx.obj
    return invocation.run(lambda engine: _show(engine, invocation, name))


@app.command()
def remove(
    ctx: typer.Context,
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> int:
    """Forget a domain and its snapshots. Its images stay as they are."""
    invocation: Invocation = ctx.obj
    output = invocation.output
    if not yes:
        invocation.require_terminal()

        async def look(engine: Engine) -> int:
            await engine.catalog.domain(name)
            return len(await engine.catalog.snapshots(name))

        number = invocation.run(look)
        snapshots = f" and its {count(number, 'snapshot')}" if number else ""
        if not invocation.confirm(f"Forget the domain {name}{snapshots}?"):
            output.note("Nothing was changed.")
            return 1

    async def work(engine: Engine) -> int:
        await engine.catalog.remove_domain(name)
        if invocation.as_json:
            output.json({"removed": name})
        else:
            output.line(f"Forgot the domain {name}; its images are as they were.")
        return 0

    return invocation.run(work)


@app.command()
def attach(
    ctx: typer.Context,
    name: Name,
    disk: Annotated[
        str,
        typer.Argument(
            metavar="TARGET=PATH[,format=FMT]",
            help="The new disk and its image, as in `domain add`.",
        ),
    ],
) -> int:
    """Record that a domain has got a disk. The machine itself is not touched.

    Do it when the machine has the disk. Snapshots from now on include it.
    """
    invocation: Invocation = ctx.obj
    wanted = values.disk(disk, "")

    async def work(engine: Engine) -> int:
        from ...journal.model import Disk

        new = Disk(wanted.target, wanted.path, wanted.format or "qcow2")
        try:
            await engine.attach_disk(name, new)
        except Refused as error:
            raise _with_hints(error, [wanted], "") from error
        return await _show(engine, invocation, name)

    return invocation.run(work)


@app.command()
def detach(
    ctx: typer.Context,
    name: Name,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="The disk.")],
) -> int:
    """Record that a domain has lost a disk. Machine and images are not touched.

    Do it when the machine has let go of the disk. Snapshots keep what they have of
    it; its image is not looked after any more.
    """
    invocation: Invocation = ctx.obj

    async def work(engine: Engine) -> int:
        await engine.detach_disk(name, target)
        return await _show(engine, invocation, name)

    return invocation.run(work)


@app.command()
def hook(
    ctx: typer.Context,
    name: Name,
    path: Annotated[
        Path | None,
        typer.Argument(metavar="PATH", help="The executable."),
    ] = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="The domain has no hook any more.")
    ] = False,
) -> int:
    """Name the executable that rewrites a domain's definition.

    It is called, and called again until it succeeds, whenever an image that the
    domain boots from gets another name. It is not called now. It may be changed or
    removed at any time, also while a deletion is open.
    """
    invocation: Invocation = ctx.obj
    if (path is None) != remove:
        raise UsageError(
            "Name the new hook, or say --remove.",
            remedy=f"`backfold domain show {name}` shows the present one.",
        )
    program = None if path is None else values.path(path)

    async def work(engine: Engine) -> int:
        await engine.set_hook(name, program)
        return await _show(engine, invocation, name)

    return invocation.run(work)


async def _show(engine: Engine, invocation: Invocation, name: str) -> int:
    domain = await engine.catalog.domain(name)
    disks = await engine.disks(name)
    opened = await open_deletion(engine, name)
    if invocation.as_json:
        invocation.output.json(records.domain_now(domain, disks, opened))
    else:
        output = invocation.output
        labels: dict[str, list[str]] = {}
        for snapshot in await engine.catalog.snapshots(name):
            for disk in snapshot.disks:
                labels.setdefault(disk.frozen, []).append(snapshot.name)
        output.lines(_lines(domain, disks, opened, labels, output.width))
    return 0


def _lines(
    domain: Domain,
    disks: Sequence[DomainDisk],
    opened: str | None,
    labels: Mapping[str, Sequence[str]],
    columns: int | None,
) -> list[str]:
    lines = [f"domain   {domain.name}", f"monitor  {domain.monitor or '-'}"]
    if domain.hook is not None:
        lines.append(f"hook     {domain.hook}")
    if opened is not None:
        lines.append(f"open     deletion {opened}; `backfold recover {opened}`")
    width = max(7, *(len(disk.target) for disk in disks))
    for disk in disks:
        lines.append(f"{disk.target:{width}}  {disk.source} ({disk.format})")
        room = None if columns is None else columns - width - 2
        drawn = pictures.chain(disk, labels, room)
        lines += [f"{'':{width}}  {line}" for line in drawn]
        if disk.broken is not None:
            lines.append(f"{'':{width}}  ! {disk.broken[1]} [{disk.broken[0]}]")
    return lines


def _with_hints(
    error: Refused, wanted: Sequence[values.DiskOption], option: str = "--disk "
) -> Refused:
    """The same refusal; a file that is no qcow2 gets the option that it may need."""
    defaulted = {disk.target: disk.path for disk in wanted if disk.format is None}
    return Refused(
        Reason(
            reason.code,
            f"{os.path.abspath(path)} is not a qcow2 image.",
            f"If it is a raw image, say so: {option}{reason.disk}=PATH,format=raw.",
            reason.disk,
        )
        if (path := defaulted.get(reason.disk or "")) and _is_not_qcow2(path)
        else reason
        for reason in error.reasons
    )


def _is_not_qcow2(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.read(descriptor, len(_QCOW2)) != _QCOW2
    except OSError:
        return False
    finally:
        os.close(descriptor)
