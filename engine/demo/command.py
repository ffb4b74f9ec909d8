"""The command line of a QEMU with the writing guest."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .guest import qemu_img

#: How the disks are opened: `drive` (-drive and -device), `blockdev` (a file node and
#: a format node for every image of the chain), `implicit` (-blockdev for the active
#: image only) or `relative` (-drive with names relative to the working directory).
Style = Literal["drive", "blockdev", "implicit", "relative"]
#: What the disks are attached to.
Bus = Literal["virtio", "ide", "scsi"]

_BASIC = """
    qemu-system-x86_64 -machine q35 -accel tcg -m 16 -display none
    -nodefaults -no-user-config -boot a
""".split()
# The BIOS never flushes. With a volatile write cache an acknowledged write would be
# lost with QEMU; virtio-blk has none for a guest that cannot flush, the others ask.
_DEVICES: dict[Bus, str] = {
    "virtio": "virtio-blk-pci",
    "ide": "ide-hd,bus=ide.{number},write-cache=off",
    "scsi": "scsi-hd,bus=scsi.0,scsi-id={number},write-cache=off",
}


class Disk(NamedTuple):
    """A disk of the machine; a plain tuple will do."""

    target: str
    #: The active image.
    path: Path
    #: Its format, as in `qcow2`.
    format: str


def qemu_command(
    boot: Path,
    acknowledgements: Path,
    monitors: Sequence[Path],
    disks: Sequence[Disk],
    style: Style,
    bus: Bus,
) -> list[str]:
    """Return the arguments that start QEMU with the guest and these disks.

    The working directory has to be that of the first disk.

    Args:
        boot: The floppy that the guest boots from.
        acknowledgements: The file for what the guest sends to its debug port.
        monitors: The sockets to listen on for QMP.
        disks: The disks in the guest's order.
        style: How they are opened.
        bus: What they are attached to.
    """
    floppy = f"if=floppy,format=raw,readonly=on,file={_escape(boot)}"
    command = [*_BASIC, "-drive", floppy, "-debugcon", f"file:{acknowledgements}"]
    for path in monitors:
        command += ["-qmp", f"unix:{_escape(path)},server=on,wait=off"]
    if bus == "scsi":
        command += ["-device", "virtio-scsi-pci,id=scsi"]
    for number, disk in enumerate(disks):
        storage, name = _storage(disk, style, disks[0].path.parent)
        device = _DEVICES[bus].format(number=number)
        # The boot index makes the order sure: the BIOS looks for disks in parallel.
        place = f"drive={name},id={disk.target},bootindex={number}"
        command += [*storage, "-device", f"{device},{place}"]
    return command


def _storage(disk: Disk, style: Style, folder: Path) -> tuple[list[str], str]:
    """Return the arguments that open a disk, and what its device calls it."""
    if style == "blockdev":
        return _explicit_nodes(disk), f"{disk.target}-0"
    if style == "implicit":
        file = {"driver": "file", "filename": str(disk.path)}
        node = {"node-name": disk.target, "driver": disk.format, "file": file}
        return ["-blockdev", json.dumps(node)], disk.target
    name = os.path.relpath(disk.path, folder) if style == "relative" else disk.path
    drive = f"drive-{disk.target}"
    options = f"file={_escape(name)},if=none,id={drive},format={disk.format}"
    return ["-drive", options], drive


def _explicit_nodes(disk: Disk) -> list[str]:
    """Return two -blockdev for each image of a chain, from the base upwards.

    The nodes are called after the target and the depth below the active image, as in
    `vda-0` and `vda-0-file`.
    """
    what = ["-U", "-f", disk.format, "--backing-chain", "--output=json"]
    chain = json.loads(qemu_img("info", *what, disk.path))
    arguments: list[str] = []
    for depth, image in reversed(list(enumerate(chain))):
        name = f"{disk.target}-{depth}"
        file = {
            "node-name": f"{name}-file",
            "driver": "file",
            "filename": image["filename"],
            "auto-read-only": True,
        }
        node = {
            "node-name": name,
            "driver": image["format"],
            "file": f"{name}-file",
            "read-only": depth > 0,
        }
        if depth + 1 < len(chain):
            node["backing"] = f"{disk.target}-{depth + 1}"
        arguments += ["-blockdev", json.dumps(file), "-blockdev", json.dumps(node)]
    return arguments


def _escape(text: str | Path) -> str:
    """Double the commas, as QEMU's option strings want it."""
    return str(text).replace(",", ",,")
