"""From the file names that a QEMU reports to the files that it really has open."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ...journal.model import FileId
from .. import files


class OpenFiles:
    """Looks up the names of one QEMU process.

    A name alone proves nothing: QEMU goes on reporting the old one when the file has
    been renamed, and another file may lie there by now. So a file counts only when
    the process has it open. Where ``/proc`` does not let us look, the name must do.
    """

    def __init__(self, pid: int | None, aliases: Mapping[str, str]) -> None:
        """``aliases`` maps old absolute names to new ones."""
        self._aliases = aliases
        self._folder = _working_directory(pid)
        self._open = _open_files(pid)

    def resolve(self, name: str) -> tuple[str, FileId | None]:
        """The name made absolute, and its file; None when it leads to none."""
        if not os.path.isabs(name):
            if not name or self._folder is None:
                return name, None
            name = os.path.join(self._folder, name)
        file = self._identify(name)
        if file is None:
            for old in (name, os.path.normpath(name), os.path.realpath(name)):
                if old in self._aliases:
                    file = self._identify(self._aliases[old])
                    break
        return name, file

    def _identify(self, path: str) -> FileId | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        file = files.file_id(found)
        if self._open is not None and file not in self._open:
            return None
        return file


def _working_directory(pid: int | None) -> str | None:
    try:
        return None if pid is None else os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def _open_files(pid: int | None) -> frozenset[FileId] | None:
    if pid is None:
        return None
    folder = f"/proc/{pid}/fd"
    found = set()
    try:
        for name in os.listdir(folder):
            try:
                status = os.stat(f"{folder}/{name}")
            except FileNotFoundError:
                continue
            found.add(files.file_id(status))
    except OSError:
        return None
    return frozenset(found)
