"""Recording with strace: every write, flush and change of a name, in one order.

One strace traces a process and all its children (the engine, QEMU, the helper, the
guard, qemu-img and SQLite in them), so that the order of its lines is the order in
which the kernel was asked and answered. Strings are recorded whole and in hex.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from binascii import unhexlify
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: What changes files or makes changes durable, and what tells an inode's stamp. The
#: last ones must not occur: their effects could not be read from the trace.
CALLS: Final = (
    "openat open creat write writev pwrite64 pwritev pwritev2 fsync fdatasync"
    " sync syncfs sync_file_range rename renameat renameat2 unlink unlinkat rmdir"
    " link linkat mkdir mkdirat truncate ftruncate fallocate newfstatat"
).split()
FORBIDDEN: Final = ("io_submit", "copy_file_range", "sendfile")
#: Children too; only the calls of interest stop the traced process.
STRACE: Final = ("strace", "-f", "--seccomp-bpf")
#: Longest string that strace is to print, in bytes; a longer one is an error.
LONGEST: Final = 32 << 20

_LINE: Final = re.compile(rb"(\d+) +(\d+)\.(\d{6}) (.*)")
_WHOLE: Final = re.compile(rb"(\w+)\((.*)\) += (-?\d+|\?)(.*)", re.DOTALL)
_RESUMED: Final = re.compile(rb"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
_UNFINISHED: Final = b" <unfinished ...>"
_RETURNED: Final = re.compile(rb"<((?:\\x[0-9a-f]{2})*)>")
_DESCRIPTOR: Final = re.compile(rb"(AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>")


class NotPermitted(RuntimeError):
    """This machine does not let a process trace another one."""


class NotUnderstood(RuntimeError):
    """The trace holds something whose effect on the disk is not known here."""


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded, or was under way when the trace ended.

    ``entry`` and ``exit`` are its places in the total order of all entries and exits;
    ``result`` and ``exit`` are None when no exit was seen. ``at`` is the time of its
    entry in nanoseconds since the epoch.
    """

    entry: int
    exit: int | None
    at: int
    pid: int
    name: str
    arguments: bytes
    result: int | None
    #: The path of the descriptor that was returned, if it was one.
    opened: str = ""

    def strings(self) -> list[bytes]:
        """The string arguments, in order. Raises `NotUnderstood` if one was cut."""
        pieces = self.arguments.split(b'"')
        if any(rest.startswith(b"...") for rest in pieces[2::2]):
            raise NotUnderstood(f"strace cut a string of {self.name}")
        return [_bytes(piece) for piece in pieces[1::2]]

    def descriptors(self) -> list[str]:
        """The paths of the descriptors among the arguments, in order."""
        found = _DESCRIPTOR.finditer(self._bare())
        return [os.fsdecode(_bytes(match[2])) for match in found]

    def paths(self) -> list[str]:
        """The path arguments as absolute paths, relative to their descriptors."""
        folders = self.descriptors() or [""]
        names = [os.fsdecode(string) for string in self.strings()]
        # One descriptor per name, or one call without any (`rename`, `unlink`).
        folders += [folders[-1]] * (len(names) - len(folders))
        return [
            os.path.normpath(os.path.join(folder, name))
            for folder, name in zip(folders, names, strict=False)
        ]

    def numbers(self) -> list[int]:
        """The arguments that are plain decimal numbers, in order."""
        bare = _DESCRIPTOR.sub(b"", self._bare())
        return [int(n) for n in re.findall(rb"(?<![\w.])(\d+)(?![\w.])", bare)]

    def _bare(self) -> bytes:
        """The arguments without their strings, which may be long."""
        return b'""'.join(self.arguments.split(b'"')[::2])


def record(
    command: Sequence[str], trace: Path, environment: Mapping[str, str], timeout: float
) -> None:
    """Run a command under strace. Raises `NotPermitted` where that is not possible."""
    require_strace()
    names = ",".join([*CALLS, *(f"?{name}" for name in FORBIDDEN)])
    options = ["-y", "-v", "-xx", "-ttt", "-s", str(LONGEST)]
    options += ["-e", f"trace={names}", "-e", "signal=none", "-o", str(trace)]
    done = subprocess.run(
        [*STRACE, *options, *command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        raise RuntimeError(f"the recorded process failed:\n{done.stderr[-4000:]}")


def require_strace() -> None:
    """Raise `NotPermitted` unless strace is here and may trace a child of its own."""
    if shutil.which("strace") is None:
        raise NotPermitted(
            "strace is not installed: the power cuts are recorded with it."
            " Install the Debian package strace (`make debian-test`)."
        )
    nothing = [sys.executable, "-S", "-c", ""]
    tried = subprocess.run(
        [*STRACE, "-e", "trace=fsync", "-o", os.devnull, *nothing],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if tried.returncode != 0:
        raise NotPermitted(
            "strace may not trace processes here, so that no power cut can be"
            f" recorded: {tried.stderr.strip()[-300:]} In a container, allow ptrace"
            " (docker run --cap-add=SYS_PTRACE); else look at"
            " /proc/sys/kernel/yama/ptrace_scope."
        )


def read(trace: Path) -> list[Call]:
    """The calls of a trace that had or may have had an effect, by their entry."""
    with trace.open("rb") as lines:
        return sorted(calls(lines), key=lambda call: call.entry)


def calls(lines: Iterator[bytes] | Sequence[bytes]) -> Iterator[Call]:
    begun: dict[int, tuple[int, int, bytes]] = {}
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            raise NotUnderstood(f"line {number + 1} of the trace: {line[:80]!r}")
        pid, body = int(match[1]), match[4]
        at = int(match[2]) * 10**9 + int(match[3]) * 1000
        entry = 2 * number
        if body.startswith((b"+++", b"---", b"???", b"<... ???")):  # ends, signals
            continue
        if body.endswith(_UNFINISHED):
            begun[pid] = (entry, at, body.removesuffix(_UNFINISHED))
            continue
        if (resumed := _RESUMED.match(body)) is not None:
            if pid not in begun:
                continue
            entry, at, head = begun.pop(pid)
            body = head + resumed[2]
        whole = _WHOLE.match(body)
        if whole is None:
            raise NotUnderstood(f"line {number + 1} of the trace: {body[:80]!r}")
        name = whole[1].decode()
        if whole[3] == b"?":
            begun[pid] = (entry, at, body[: body.rindex(b")")])
        elif int(whole[3]) >= 0:
            if name in FORBIDDEN:
                raise NotUnderstood(f"{name} was called; its writes are not seen")
            opened = b"".join(m[1] for m in _RETURNED.finditer(whole[4]))
            yield Call(
                entry,
                2 * number + 1,
                at,
                pid,
                name,
                whole[2],
                int(whole[3]),
                os.fsdecode(_bytes(opened)),
            )
    for pid, (entry, at, head) in begun.items():
        name, _, arguments = head.partition(b"(")
        yield Call(entry, None, at, pid, name.decode(), arguments, None)


def _bytes(escaped: bytes) -> bytes:
    return unhexlify(escaped.replace(b"\\x", b""))
