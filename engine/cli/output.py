"""Standard output and error: one place that writes, and never breaks a run.

A reader that goes away (``| head``) or a full disk must not abort a deletion, so
writing does not raise. Everything for people passes through `safe`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping
from typing import IO, TYPE_CHECKING, Any, Final, TextIO, cast

from .text import safe

if TYPE_CHECKING:
    from rich.console import Console

#: What we draw and write ourselves, and what stands for it in ASCII.
_AS_ASCII: Final = str.maketrans(
    {
        "├": "|",
        "└": "`",
        "─": "-",
        "│": "|",
        "→": "->",
        "←": "<-",
        "·": "-",
        "…": "...",
        "━": "=",
    }
)
_DRAWN: Final = "".join(map(chr, _AS_ASCII))
#: The version of every JSON object that the command line prints.
SCHEMA = 1


class Stream:
    """A text stream whose writes are flushed and do not raise."""

    def __init__(self, stream: TextIO) -> None:
        """Write to ``stream``."""
        self._stream = stream
        #: Why something could not be written; None while all is well.
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """Write and flush. After an error everything is dropped."""
        if self.lost is None:
            try:
                self._stream.write(text)
                self._stream.flush()
            except OSError as error:
                self.lost = error
                _drain(self._stream)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """Whether a person may be looking."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor below."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:
        """The encoding of the stream below."""
        return self._stream.encoding


class Output:
    """What a command says: results to standard output, all else to standard error."""

    def __init__(self, as_json: bool) -> None:
        """With ``as_json``, standard output carries JSON lines and nothing else."""
        self.as_json = as_json
        for stream in (sys.stdout, sys.stderr):
            # Other people's file names must not end in an encoding error.
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")
        self.stdout = Stream(sys.stdout)
        self._stderr = sys.stderr
        self._errors = Stream(sys.stderr)
        self._console: Console | None = None

    @property
    def errors(self) -> Stream:
        """Standard error, also while a progress bar stands in for it."""
        if sys.stderr is not self._stderr:
            return Stream(sys.stderr)
        return self._errors

    @property
    def is_interactive(self) -> bool:
        """Whether standard output is a terminal that can redraw lines."""
        return self.stdout.isatty() and os.environ.get("TERM", "dumb") not in (
            "dumb",
            "unknown",
        )

    @property
    def has_styles(self) -> bool:
        """Whether lines may be bold or coloured; what they say never depends on it."""
        forced = os.environ.get("FORCE_COLOR") and not os.environ.get("NO_COLOR")
        return self.is_interactive or bool(forced)

    @property
    def width(self) -> int | None:
        """Columns of the terminal; None when lines need not fit into anything."""
        if not self.stdout.isatty():
            return None
        return shutil.get_terminal_size().columns

    @property
    def console(self) -> Console:
        """Rich's console on standard output; colours only on a terminal."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(
                file=cast(IO[str], self.stdout),
                force_terminal=self.has_styles,
                # Rich knows $NO_COLOR, and looks at $TERM only of a terminal.
                color_system="auto" if self.is_interactive else "standard",
                highlight=False,
                markup=False,
                emoji=False,
            )
        return self._console

    def line(self, text: str = "", style: str | None = None) -> None:
        """One line for people; with ``as_json`` it goes to standard error."""
        if self.as_json:
            self.note(text)
        elif self.is_interactive or (style is not None and self.has_styles):
            # Through rich, so that a progress bar below the line is redrawn.
            shown = shown_on(self.stdout, safe(text))
            self.console.print(shown, style=style, soft_wrap=True)
        else:
            self.stdout.write(shown_on(self.stdout, safe(text)) + "\n")

    def lines(self, texts: Iterable[str]) -> None:
        """Several lines for people."""
        for text in texts:
            self.line(text)

    def note(self, text: str) -> None:
        """One line beside the result, on standard error."""
        errors = self.errors
        errors.write(shown_on(errors, safe(text)) + "\n")

    def raw(self, text: str) -> None:
        """Text of our own making, as it is: a diagram, an argument list."""
        self.stdout.write(text if text.endswith("\n") else text + "\n")

    def json(self, fields: Mapping[str, Any]) -> None:
        """One JSON object on a line of its own; ASCII only, so that it is safe too."""
        self.stdout.write(json.dumps({"schema": SCHEMA, **fields}) + "\n")


def shown_on(stream: Stream, text: str) -> str:
    """The text as a stream can show it: without line drawings where it has none.

    That is where its encoding lacks them, and where the locale was set to C: Python
    writes UTF-8 there, but the terminal has been told that it is ASCII.
    """
    if text.isascii():
        return text
    if not _is_ascii_locale():
        try:
            _DRAWN.encode(stream.encoding or "ascii")
        except (LookupError, UnicodeEncodeError):
            pass
        else:
            return text
    return text.translate(_AS_ASCII)


def _is_ascii_locale() -> bool:
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        value = os.environ.get(name, "")
        # What Python itself sets when it starts in the locale C.
        if value and not (name == "LC_CTYPE" and sys.flags.utf8_mode):
            return value in ("C", "POSIX")
    return False


def _drain(stream: IO[str]) -> None:
    """Let the interpreter's own flush at exit succeed."""
    try:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
    except (OSError, ValueError):
        pass
