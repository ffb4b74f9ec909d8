"""A recording, played back onto the model of a disk, stop by stop."""

from __future__ import annotations

import os
import re
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from .disk import Disk, Inode, NameChange
from .strace import Call, NotUnderstood

#: What the recorded process writes into its marks at the ends of what is looked at.
BEGIN: Final = "begin"
END: Final = "end"

_INODE: Final = re.compile(rb"st_ino=(\d+)")
_KIND: Final = re.compile(rb"st_mode=S_IFREG")
_MTIME: Final = re.compile(rb"st_mtime=(\d+).*?st_mtime_nsec=(\d+)", re.DOTALL)
_SYNCS: Final = frozenset({"fsync", "fdatasync"})
_RENAMES: Final = frozenset({"rename", "renameat", "renameat2"})
_WRITES: Final = frozenset({"pwrite64", "pwritev", "pwritev2", "write", "writev"})


@dataclass(frozen=True, slots=True)
class Stop:
    """A moment at which the power may go; ``cause`` is the call that made it new."""

    place: int
    cause: str
    #: The last step that the engine's probe was told of.
    step: str
    #: How many bytes of acknowledgements the guest had sent.
    acknowledged: int


@dataclass
class Replay:
    """Plays the calls of a recording in order. ``disk`` stands where it has come to.

    ``marks`` and ``acknowledgements`` are the files that the recorded process and its
    QEMU write into; they are read from the trace, as everything else.
    """

    disk: Disk
    marks: str
    acknowledgements: str
    step: str = ""
    #: Every step that the probe was told of so far.
    steps: set[str] = field(default_factory=set)
    sent: bytearray = field(default_factory=bytearray)
    begun: bool = False
    ended: bool = False
    _unnamed: dict[str, Inode] = field(default_factory=dict)
    _descriptors: dict[int, str] = field(default_factory=dict)

    def run(self, calls: Sequence[Call]) -> Iterator[Stop]:
        """Play; stop after each change between the marks `BEGIN` and `END`.

        A write or a change of a name counts from its entry on: a part of it may be
        on the disk. A flush counts when it has returned.
        """
        pending: list[tuple[int, int, Call]] = []
        for number, call in enumerate(calls):
            while pending and pending[0][0] < call.entry:
                _, _, done = pending.pop(0)
                if self._flush(done) and self.begun and not self.ended:
                    assert done.exit is not None
                    yield self._stop(done.exit, done)
            if call.name in _SYNCS:
                if call.exit is not None and call.result == 0:
                    insort(pending, (call.exit, number, call))
            elif self._change(call) and self.begun and not self.ended:
                yield self._stop(call.entry, call)
        for _, _, done in pending:
            self._flush(done)

    def _stop(self, place: int, call: Call) -> Stop:
        return Stop(place, call.name, self.step, len(self.sent))

    def _flush(self, call: Call) -> bool:
        """A flush has returned."""
        path = call.descriptors()[0]
        if path in self.disk.folders:
            self.disk.flush_folder(path, call.entry)
            return True
        inode = self._find(path)
        if inode is None:
            return False
        inode.flush(call.entry, data_only=call.name == "fdatasync")
        return True

    def _change(self, call: Call) -> bool:
        """A call has begun that changes something, or tells something."""
        if call.name in _WRITES:
            return self._write(call)
        if call.name == "newfstatat":
            self._look(call)
            return False
        if call.name in ("openat", "open", "creat"):
            return self._open(call)
        if call.name in _RENAMES:
            old, new = call.paths()
            return self._renamed(call, old, new)
        if call.name in ("unlink", "unlinkat"):
            return self._renamed(call, call.paths()[0], None)
        if call.name in ("link", "linkat"):
            return self._link(call)
        if call.name in ("ftruncate", "fallocate", "truncate"):
            return self._resize(call)
        if call.name in ("sync", "syncfs", "sync_file_range", "rmdir"):
            self._must_not_concern_us(call)
        return False

    def _write(self, call: Call) -> bool:
        found = call.descriptors()
        if not found:
            return False
        path = found[0]
        told = path in (self.marks, self.acknowledgements)
        if not told and not self.disk.watches(path):
            return False
        data = b"".join(call.strings())
        if call.result is not None:
            data = data[: call.result]
        if path == self.marks:
            self._mark(data.decode().strip(), call.entry)
            return False
        if path == self.acknowledgements:
            self.sent += data
            return len(self.sent) % 4 == 0
        inode = self._find(path)
        if inode is None:
            return False
        if call.name in ("write", "writev"):
            # Only empty files are written without an offset here.
            offset = inode.size
        else:
            numbers = call.numbers()
            offset = numbers[-2] if call.name == "pwritev2" else numbers[-1]
        inode.write(call.entry, call.exit, call.at, offset, data)
        return True

    def _mark(self, text: str, place: int) -> None:
        if text == BEGIN:
            self.begun = True
            self.disk.settle(place)
        elif text == END:
            self.ended = True
        self.step = text
        self.steps.add(text)

    def _look(self, call: Call) -> None:
        """A stat tells the time that the newest version of a file really has."""
        number, time = _INODE.search(call.arguments), _MTIME.search(call.arguments)
        if number is None or time is None or not _KIND.search(call.arguments):
            return
        path = call.paths()[0]
        inode = self._find(path)
        if inode is not None:
            inode.number = int(number[1])
            inode.observed(call.entry, int(time[1]) * 10**9 + int(time[2]))

    def _open(self, call: Call) -> bool:
        if call.result is None or b"O_CREAT" not in call.arguments:
            if b"O_TMPFILE" in call.arguments and call.result is not None:
                self._open_unnamed(call)
            if b"O_TRUNC" not in call.arguments:
                return False
        path = call.paths()[0]
        if not self.disk.watches(path):
            return False
        inode = self.disk.names.get(path)
        if inode is not None:
            if b"O_TRUNC" not in call.arguments or inode.size == 0:
                return False
            inode.resize(call.entry, call.exit, call.at, 0)
            return True
        inode = Inode(0, stable_mtime=call.at)
        change = NameChange(
            call.entry, call.exit, os.path.dirname(path), None, path, inode
        )
        self.disk.change(change)
        return True

    def _open_unnamed(self, call: Call) -> None:
        """A file without a name: known by its descriptor's path, then by a link.

        The link is made by the number of the descriptor; only the engine does that,
        with one file at a time.
        """
        if self.disk.watches(call.opened):
            assert call.result is not None
            self._unnamed[call.opened] = Inode(0, stable_mtime=call.at)
            self._descriptors[call.result] = call.opened

    def _link(self, call: Call) -> bool:
        source, new = call.paths()
        if not self.disk.watches(new):
            return False
        if match := re.fullmatch(r"/proc/self/fd/(\d+)", source):
            inode = self._unnamed[self._descriptors[int(match[1])]]
        else:
            found = self._find(source)
            if found is None:
                raise NotUnderstood(f"link of {source}")
            inode = found
        folder = os.path.dirname(new)
        change = NameChange(call.entry, call.exit, folder, None, new, inode)
        self.disk.change(change)
        return True

    def _renamed(self, call: Call, old: str, new: str | None) -> bool:
        folder = os.path.dirname(old)
        watched = [p for p in (old, new) if p is not None and self.disk.watches(p)]
        if not watched:
            return False
        inode = self.disk.names.get(old)
        if inode is None or (new is not None and os.path.dirname(new) != folder):
            raise NotUnderstood(f"{call.name} of {old} to {new}")
        change = NameChange(call.entry, call.exit, folder, old, new, inode)
        self.disk.change(change)
        return True

    def _resize(self, call: Call) -> bool:
        path = (call.descriptors() or call.paths())[0]
        inode = self._find(path)
        if inode is None:
            return False
        place = (call.entry, call.exit, call.at)
        numbers = call.numbers()
        if call.name != "fallocate":
            inode.resize(*place, numbers[-1])
            return True
        offset, length = numbers[-2:]
        if b"ZERO_RANGE" in call.arguments or b"PUNCH_HOLE" in call.arguments:
            inode.zero(*place, offset, length)
        if b"KEEP_SIZE" not in call.arguments and offset + length > inode.size:
            inode.resize(*place, offset + length)
        return True

    def _find(self, path: str) -> Inode | None:
        """The watched file behind a descriptor's path or a name."""
        folder, name = os.path.split(path)
        if folder not in self.disk.folders:
            return None
        if name.startswith("#") and name[1:].isdecimal():
            return self._unnamed.get(path)
        return self.disk.inode(path)

    def _must_not_concern_us(self, call: Call) -> None:
        paths = call.descriptors() + call.paths()
        if any(self.disk.watches(path) for path in paths):
            raise NotUnderstood(f"{call.name} of {paths}")


def differences(disk: Disk) -> list[str]:
    """Where the played-back files differ from those that are really there.

    No difference means that the recording holds every write: nothing was missed.
    """
    wrong = []
    there = {
        str(path)
        for folder in disk.folders
        for path in Path(folder).iterdir()
        if path.is_file()
    }
    for path in sorted(there ^ set(disk.names)):
        wrong.append(f"{path} is {'not ' if path not in there else ''}there")
    for path in sorted(there & set(disk.names)):
        real, inode = Path(path).read_bytes(), disk.names[path]
        ours = b"".join(inode.page(n) for n in range(-(-inode.size // 4096)))
        if real != ours[: inode.size]:
            wrong.append(f"{path} has another content ({len(real)}, {inode.size})")
    return wrong
