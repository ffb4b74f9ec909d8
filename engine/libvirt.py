"""Which images libvirt's definitions on this host name. Reads files, asks nobody."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final
from xml.parsers import expat

from ..journal.errors import CommandFailed
from ..journal.model import FileId
from . import files, log

#: No domain's definition comes near to this.
DEFINITION_BYTES: Final = 16 << 20


class _Refused(ValueError):
    """The document has what no definition has."""


def managed_images(
    config_dirs: Sequence[Path] | None = None,
) -> Mapping[FileId, str]:
    """The files that libvirt's domains use, and which domain uses them.

    Inactive definitions name the active image only; those of running domains name
    the chain as well. What cannot be read is skipped with a warning. Only reads, so
    a kill in here changes nothing.

    Args:
        config_dirs: directories of definitions, instead of libvirt's own.
    """
    found: dict[FileId, str] = {}
    for folder in _default_dirs() if config_dirs is None else config_dirs:
        for definition in _definitions(folder):
            try:
                name, images = _parse(_read(definition))
            except (OSError, ValueError, expat.ExpatError) as error:
                log.say(
                    "warning",
                    "libvirt.definition_skipped",
                    path=str(definition),
                    error=str(error),
                )
                continue
            for image in images:
                try:
                    file = files.identify(image)
                except CommandFailed:
                    continue
                if file is not None:
                    found.setdefault(file, f"domain {name} ({definition})")
    return found


def _default_dirs() -> tuple[Path, ...]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    folders = [
        Path("/etc/libvirt/qemu"),
        Path("/run/libvirt/qemu"),
        Path(home, "libvirt/qemu"),
    ]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        folders.append(Path(runtime, "libvirt/qemu/run"))
    return tuple(folders)


def _definitions(folder: Path) -> Iterator[Path]:
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        log.say("warning", "libvirt.folder_skipped", path=str(folder), error=str(error))
        return
    for name in names:
        if name.endswith(".xml"):
            yield folder / name


def _read(path: Path) -> bytes:
    """The text of a definition, never more than is sensible and never from a pipe."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        text = file.read(DEFINITION_BYTES + 1)
    if len(text) > DEFINITION_BYTES:
        raise ValueError(f"longer than {DEFINITION_BYTES} bytes")
    return text


def _parse(text: bytes) -> tuple[str, list[str]]:
    """Name and image files of a domain. Documents with a DTD are refused."""
    parser = expat.ParserCreate()
    above: list[str] = []
    name: list[str] = []
    images: list[str] = []

    def refuse(*_: object) -> None:
        raise _Refused("it has a document type, which no definition has")

    def start(tag: str, attributes: dict[str, str]) -> None:
        above.append(tag)
        if "disk" in above and tag in ("source", "mirror"):
            for key in ("file", "dev"):
                if value := attributes.get(key):
                    images.append(value)

    def end(_: str) -> None:
        above.pop()

    def text_of(data: str) -> None:
        # A status file has the definition inside: domstatus/domain/name.
        if above[-2:] == ["domain", "name"]:
            name.append(data)

    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text_of
    parser.Parse(text, True)
    return "".join(name).strip() or "without a name", images
