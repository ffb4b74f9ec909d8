"""Which processes have an image: open, locked, or named on a command line.

Everything comes from one pass over /proc. Descriptors of other users' processes are
visible to root only; their command lines are visible to all, and QEMU's locks show
what is left (containers, other hosts). All of it only reads: a kill in here changes
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..journal.model import FileId
from ..states.ports import ImageUser
from . import devices, files, image_locks
from .qemu_img import json_strings

#: What is tried again when a lock has no holder that is visible: processes come
#: and go between the two looks.
ATTEMPTS: Final = 3

OPEN: Final = "has it open"
NAMED: Final = "names it on its command line"
LOCKED: Final = "a process that is not visible here holds QEMU's lock on it"

_PROC: Final = "/proc"


@dataclass(frozen=True, slots=True)
class _Process:
    """One process, as far as it can be seen. ``opened`` is None when it may not."""

    pid: int
    name: str
    arguments: tuple[str, ...]
    opened: frozenset[FileId] | None

    @property
    def is_reader(self) -> bool:
        """A qemu-img that reads beside anybody else, and holds nothing."""
        shares = {"-U", "--force-share"} & set(self.arguments)
        return self.name == "qemu-img" and bool(shares)

    @property
    def is_qemu(self) -> bool:
        return "qemu" in self.name or "kvm" in self.name


def users(paths: Sequence[str]) -> Mapping[str, tuple[ImageUser, ...]]:
    """Who has each of these images, this process left out.

    A path that leads nowhere has no users. `qemu-img` with ``-U`` is no user.

    Raises:
        CommandFailed: when an image cannot be opened to look at its locks.
    """
    wanted = {path: file for path in paths if (file := files.identify(path))}
    found: dict[str, list[ImageUser]] = {}
    for _ in range(ATTEMPTS):
        found, readers = _look(wanted)
        hidden = [
            path
            for path, file in wanted.items()
            if not found[path] and not _explained(path, file in readers)
        ]
        if not hidden:
            break
    else:
        for path in hidden:
            found[path].append(ImageUser(None, LOCKED))
    return {path: tuple(found.get(path, ())) for path in paths}


def _explained(path: str, has_reader: bool) -> bool:
    held = image_locks.held(path) if os.path.exists(path) else frozenset()
    return not held or (has_reader and held == image_locks.READER_ONLY)


def _look(
    wanted: Mapping[str, FileId],
) -> tuple[dict[str, list[ImageUser]], set[FileId]]:
    """One pass: users by path, and the images that a mere reader has."""
    found: dict[str, list[ImageUser]] = {path: [] for path in wanted}
    readers: set[FileId] = set()
    targets = frozenset(wanted.values())
    for process in _processes(targets):
        opened = process.opened or frozenset()
        named = _named(process, wanted) if process.is_qemu else frozenset()
        if process.is_reader:
            readers |= opened | named
            continue
        for path, file in wanted.items():
            how = OPEN if file in opened else NAMED if file in named else None
            if how is not None:
                who = process.name or "a process"
                user = ImageUser(process.pid, f"{who} {how}", how == OPEN)
                found[path].append(user)
    for path, file in wanted.items():
        found[path] += [ImageUser(None, why) for why in devices.kernel_users(file)]
    for device, file in _loop_devices():
        for path in (path for path in wanted if wanted[path] == file):
            found[path].append(ImageUser(None, f"the loop device {device} {OPEN}"))
    return found, readers


def _processes(targets: frozenset[FileId]) -> Iterator[_Process]:
    me = os.getpid()
    for entry in os.listdir(_PROC):
        if not entry.isdecimal() or int(entry) == me:
            continue
        pid = int(entry)
        try:
            text = Path(_PROC, entry, "cmdline").read_bytes()
        except OSError:
            continue
        arguments = tuple(os.fsdecode(part) for part in text.rstrip(b"\0").split(b"\0"))
        yield _Process(pid, _name(entry, arguments), arguments, _opened(entry, targets))


def _name(entry: str, arguments: tuple[str, ...]) -> str:
    try:
        program = os.readlink(f"{_PROC}/{entry}/exe")
    except OSError:
        program = arguments[0] if arguments else ""
    return os.path.basename(program.removesuffix(" (deleted)"))


def _opened(entry: str, targets: frozenset[FileId]) -> frozenset[FileId] | None:
    folder = f"{_PROC}/{entry}/fd"
    try:
        names = os.listdir(folder)
    except PermissionError:
        return None
    except OSError:
        return frozenset()
    found = set()
    for name in names:
        try:
            file = files.file_id(os.stat(f"{folder}/{name}"))
        except OSError:
            continue
        if file in targets:
            found.add(file)
    return frozenset(found)


def _named(process: _Process, wanted: Mapping[str, FileId]) -> frozenset[FileId]:
    """The images that a command line names, by any path that leads to them."""
    targets = frozenset(wanted.values())
    folder: str | None
    try:
        folder = os.readlink(f"{_PROC}/{process.pid}/cwd")
    except (FileNotFoundError, ProcessLookupError):
        return frozenset()  # It has ended since it was listed.
    except OSError:
        folder = None
    found: set[FileId] = set()
    for word in process.arguments[1:]:
        for name in _candidates(word):
            if not name.startswith("/") and (folder is None or process.opened is None):
                # Where it starts is not to be seen (or it is "/" since it went to
                # the background), nor what is open: the same name has to do.
                found |= {
                    file
                    for path, file in wanted.items()
                    if os.path.basename(path) == os.path.basename(name)
                }
                if folder is None:
                    continue
            try:
                file = files.file_id(os.stat(os.path.join(folder or "/", name)))
            except (OSError, ValueError):
                continue
            if file in targets:
                found.add(file)
    return frozenset(found)


def _candidates(word: str) -> Iterator[str]:
    """Everything in one argument that could be a file name, as QEMU would read it."""
    texts = [word]
    # In QEMU's options a comma separates, and two commas are a comma.
    for part in word.replace(",,", "\0").split(","):
        option = part.replace("\0", ",")
        texts += [option, option.partition("=")[2]]
    for text in filter(None, texts):
        yield text
        yield text.removeprefix("file:")
        if text.startswith(("{", "json:")):
            yield from json_strings(text.removeprefix("json:"))


def _loop_devices() -> Iterator[tuple[str, FileId]]:
    """Loop devices keep a file open without any process."""
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            name = os.fsdecode(backing.read_bytes().removesuffix(b"\n"))
            yield f"/dev/{backing.parts[-3]}", files.file_id(os.stat(name))
        except OSError:
            continue
