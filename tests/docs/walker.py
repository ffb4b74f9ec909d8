"""Reads the commands of a page, runs them, and compares what they print.

A page's commands are the lines that begin with ``$ `` in its ``console`` blocks; a
line that begins with ``> `` goes on with the command. What follows is what was
printed, on both streams. ``...`` alone on a line stands for lines that are left out;
a command of which nothing else is shown must succeed.

    <!-- scene: web-off -->    what the page begins with, once per page; see `scenes`
    <!-- not run: why -->      the block after this one is not run

Ids of runs, times, durations, sizes, percentages, process numbers, engines
(`user@host:process`) and numbers of six digits or more differ from run to run. They
are not compared, nor is how far columns are apart. An id in a command is that of the
run whose id stood at this place in an output, or that of the scene's last run.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from docs.scenes import Stage

#: How long a command may take, in seconds.
PATIENCE = 60.0
LEFT_OUT = "..."
#: A `backfold` that starts at once.
QUICK = Path(__file__).parent / "quick.py"

_SCENE = re.compile(r"^<!-- scene: (?P<name>[\w-]+) -->$")
_NOT_RUN = re.compile(r"^<!-- not run: \S.* -->$")
_FENCE = re.compile(r"^\s*(?P<fence>`{3,}|~{3,})\s*(?P<language>[\w-]*)")
_ID = re.compile(r"\b[0-9a-f]{12}\b")
_SHORT_ID = re.compile(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{4,12}\b")
#: What differs from run to run, and what stands for it in the comparison.
_VARIABLE: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), word)
    for pattern, word in (
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?", "TIME"),
        (r"\b\d\d:\d\d:\d\d(\.\d+)?(Z|\b)", "TIME"),
        (r"(?<!\S)\+\d+\.\d{3}\b", "OFFSET"),
        (r"[+]?\b\d+(\.\d+)? ?(B|[KMGTPE]iB|bytes)\b(/s)?", "SIZE"),
        (r"\b\d+ h \d+ min\b|\b\d+ min \d+ s\b", "DURATION"),
        (r"[+]?\b\d+(\.\d+)? ?(ns|us|µs|ms|s|min|seconds?)\b", "DURATION"),
        (r"\b\d+(\.\d+)? ?%", "PERCENT"),
        (r"\b(pid|process) \d+\b", r"\1 NUMBER"),
        (r"\b[\w.-]+@[\w.-]+:\d+\b", "WHO"),
        (r"\b\d{6,}\b", "NUMBER"),
        (r'("(?!schema")\w+": )-?\d+(\.\d+)?', r"\1NUMBER"),
    )
)


class Mismatch(AssertionError):
    """A page does not say what happens."""


@dataclass(frozen=True)
class Command:
    """One command of a page, and the lines that it prints according to the page."""

    line: int
    text: str
    expected: tuple[str, ...]


@dataclass(frozen=True)
class Page:
    """What is to be run of a page."""

    path: Path
    scene: str
    commands: tuple[Command, ...]


def read(path: Path) -> Page:
    """The commands of a page.

    Raises:
        Mismatch: A command stands outside of a ``console`` block, or a remark for the
            walker is not as it should be.
    """
    scenes: list[str] = []
    commands: list[Command] = []
    is_run = True
    for number, line, language in _lines(path.read_text(encoding="utf-8")):
        where = f"{path.name}:{number}"
        if language is None:
            if found := _SCENE.match(line):
                scenes.append(found["name"])
            elif _NOT_RUN.match(line):
                is_run = False
            elif line.startswith(("<!-- scene", "<!-- not run")):
                raise Mismatch(f"{where}: {line}")
            elif line.lstrip().startswith("$ "):
                raise Mismatch(f"{where}: a command outside of a console block")
        elif line == "":
            if language == "end":
                is_run = True
            elif commands and is_run and language == "console":
                _print(commands, line)
        elif language != "console":
            if line.startswith("$ "):
                raise Mismatch(f"{where}: a command outside of a console block")
        elif not is_run:
            continue
        elif line.startswith("$ "):
            commands.append(Command(number, line[2:], ()))
        elif line.startswith("> ") and not commands[-1].expected:
            last = commands.pop()
            commands.append(Command(last.line, f"{last.text}\n{line[2:]}", ()))
        else:
            _print(commands, line)
    if len(scenes) > 1:
        raise Mismatch(f"{path.name}: several scenes, {scenes}")
    return Page(path, scenes[0] if scenes else "empty", tuple(commands))


def _print(commands: list[Command], line: str) -> None:
    """Append a line to what the last command prints."""
    last = commands.pop()
    commands.append(Command(last.line, last.text, (*last.expected, line)))


def _lines(text: str) -> Iterator[tuple[int, str, str | None]]:
    """Lines with their numbers and the language of their block, None outside.

    The end of a block is an empty line of the language ``end``.
    """
    fence = language = None
    indent = 0
    for number, line in enumerate(text.splitlines(), 1):
        if fence is None:
            if found := _FENCE.match(line):
                fence, language = found["fence"], found["language"] or "text"
                indent = len(line) - len(line.lstrip())
            else:
                yield number, line, None
        elif line.strip() == fence:
            fence = None
            yield number, "", "end"
        else:
            yield number, line[indent:].rstrip(), language


def environment(stage: Stage, programs: Path) -> dict[str, str]:
    """What commands find in their environment; ``programs`` has the `backfold`."""
    folders = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {
        "PATH": os.pathsep.join(folders),
        "HOME": str(stage.home),
        "BACKFOLD_JOURNAL": str(stage.journal),
        "LANG": "C.UTF-8",
        "COLUMNS": "120",
    }


@dataclass
class Walk:
    """A shell in which the commands of a page are run.

    Attributes:
        places: What the page calls a place, and where it really is.
        ids: The page's ids of runs, and the real ones.
        last_run: The id of the scene's last run, if it has one.
    """

    folder: Path
    environment: Mapping[str, str]
    places: Sequence[tuple[str, Path]] = ()
    last_run: str | None = None
    ids: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Start the shell."""
        self._status = 0
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
        )

    def close(self) -> None:
        """End the shell."""
        self._shell.kill()
        self._shell.communicate()

    def follow(self, page: Page) -> None:
        """Run all commands of a page.

        Raises:
            Mismatch: One of them prints something else than the page says.
        """
        for command in page.commands:
            printed = self.run(command.text)
            problem = self.compare(command.expected, printed)
            if command.expected == (LEFT_OUT,) and self._status != 0:
                problem = "It fails, and the page shows nothing of that."
            if problem is not None:
                raise Mismatch(
                    f"{page.path.name}:{command.line}: $ {command.text}\n{problem}\n"
                    "It printed (exit status"
                    f" {self._status}):\n" + "\n".join(printed)
                )

    def run(self, command: str) -> list[str]:
        """Run a command; returns the lines that it printed, in the page's names."""
        mark = f"--{os.urandom(8).hex()}--"
        script = (
            f"{{ (exit {self._status})\n{self._really(command)}\n}} </dev/null\n"
            f"printf '\\n{mark}%s\\n' $?\n"
        )
        assert self._shell.stdin is not None
        self._shell.stdin.write(script.encode())
        text = self._read_until(mark)
        text, _, status = text.rpartition("\n" + mark)
        self._status = int(status)
        for shown, real in self.places:
            text = text.replace(str(real), shown)
        return text.splitlines()

    def compare(self, expected: Sequence[str], printed: Sequence[str]) -> str | None:
        """What differs, or None. The ids of the page are learned from it."""
        at = _match(
            [_normal(line) for line in expected], [_normal(line) for line in printed]
        )
        if isinstance(at, int):
            if at == len(expected):
                return f"The page does not end here: {printed[-1:]}"
            return f"The page says:\n{expected[at]}"
        for mine, theirs in zip(expected, at, strict=True):
            if theirs is not None:
                ids = _ID.findall(mine), _ID.findall(printed[theirs])
                self.ids.update(zip(*ids, strict=True))
        return None

    def _really(self, command: str) -> str:
        """A command with the real places and ids."""
        for shown, real in self.places:
            place = rf"(?<![\w.-]){re.escape(shown)}(?![\w.-])"
            command = re.sub(place, str(real), command)
        return _SHORT_ID.sub(self._real_id, command)

    def _real_id(self, found: re.Match[str]) -> str:
        word = found[0]
        for shown, real in self.ids.items():
            if shown.startswith(word):
                return real[: len(word)]
        if self.last_run is not None and len(word) == 12:
            self.ids[word] = self.last_run
            return self.last_run
        return word

    def _read_until(self, mark: str) -> str:
        assert self._shell.stdout is not None
        seen = b""
        end = time.monotonic() + PATIENCE
        while not re.search(rb"\n" + mark.encode() + rb"\d+\n", seen):
            if select.select([self._shell.stdout], [], [], 0.1)[0]:
                some = os.read(self._shell.stdout.fileno(), 1 << 16)
                if not some:
                    raise Mismatch(f"the shell has ended: {seen.decode()}")
                seen += some
            elif time.monotonic() > end:
                raise Mismatch(f"it does not end: {seen.decode()}")
        return seen.decode(errors="backslashreplace")


def _normal(line: str) -> str:
    """A line without what differs from run to run."""
    line = _ID.sub("ID", line)
    for pattern, word in _VARIABLE:
        line = pattern.sub(word, line)
    return " ".join(line.split())


def _match(expected: Sequence[str], printed: Sequence[str]) -> list[int | None] | int:
    """For each expected line the number of the printed one, None where lines are left
    out; or the number of the first expected line that nothing fits."""
    furthest = 0
    #: What is left of both, and what was matched so far.
    todo: list[tuple[int, int, list[int | None]]] = [(0, 0, [])]
    seen = set()
    while todo:
        mine, theirs, found = todo.pop()
        if (mine, theirs) in seen:
            continue
        seen.add((mine, theirs))
        furthest = max(furthest, mine)
        if mine == len(expected):
            if theirs == len(printed):
                return found
        elif expected[mine] == LEFT_OUT:
            if theirs < len(printed):
                todo.append((mine, theirs + 1, found))
            todo.append((mine + 1, theirs, [*found, None]))
        elif theirs < len(printed) and expected[mine] == printed[theirs]:
            todo.append((mine + 1, theirs + 1, [*found, theirs]))
    return furthest
