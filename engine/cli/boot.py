"""`backfold domain args`: how QEMU opens a domain's disks now."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ...journal.errors import Reason, Refused
from .invocation import Invocation
from .lookups import open_deletion

if TYPE_CHECKING:
    from ..api import Engine
    from ..results import DomainDisk

#: What QEMU does not take in the name of a node, and how much of it we use.
_STRANGE: Final = re.compile(r"[^A-Za-z0-9._-]")
_NODE_LENGTH: Final = 24


def args(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The domain's name.")],
) -> int:
    """Print the QEMU arguments for a domain's disks.

    They are true also while a deletion is open. The devices that go with them are
    shown on standard error: which kind they are is up to you.
    """
    invocation: Invocation = ctx.obj

    async def work(engine: Engine) -> int:
        disks = await engine.disks(name)
        if broken := [disk for disk in disks if disk.broken is not None]:
            raise Refused(_broken(disk) for disk in broken)
        output = invocation.output
        arguments: list[str] = []
        devices: list[dict[str, Any]] = []
        used: set[str] = set()
        for disk in disks:
            node = _node_name(disk.target, used)
            for options in _nodes(disk, node):
                arguments += ["-blockdev", json.dumps(options)]
            devices.append({"target": disk.target, "node": node})
        if invocation.as_json:
            fields = {"domain": name, "arguments": arguments, "devices": devices}
            output.json(fields)
            return 0
        output.raw(shlex.join(arguments))
        for device in devices:
            hint = f"-device virtio-blk-pci,drive={device['node']}"
            output.note(f"# {device['target']}: {hint}")
        if open_run := await open_deletion(engine, name):
            output.note(f"# The deletion {open_run} is open; `backfold recover` first.")
        return 0

    return invocation.run(work)


def _broken(disk: DomainDisk) -> Reason:
    assert disk.broken is not None
    code, message = disk.broken
    return Reason(code, message, "Mend the chain before you boot.", disk.target)


def _node_name(target: str, used: set[str]) -> str:
    """A node name from a target: QEMU's letters, short enough, and only once."""
    stem = _STRANGE.sub("-", target)
    stem = (stem if stem[0].isalpha() else f"disk-{stem}")[:_NODE_LENGTH]
    name, number = stem, 1
    while {name, f"{name}-file"} & used:
        number += 1
        name = f"{stem[: _NODE_LENGTH - 3]}-{number}"
    used |= {name, f"{name}-file"}
    return name


def _nodes(disk: DomainDisk, node: str) -> list[dict[str, Any]]:
    """The file node and the format node; QEMU finds the images below by itself."""
    mode = os.stat(disk.source).st_mode
    file = {
        "node-name": f"{node}-file",
        "driver": "host_device" if stat.S_ISBLK(mode) else "file",
        "filename": disk.source,
    }
    image = {"node-name": node, "driver": disk.format, "file": f"{node}-file"}
    return [file, image]
