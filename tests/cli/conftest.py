"""A command line with a journal of its own, and domains to use it on."""

from __future__ import annotations

import io
import logging
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import structlog

from backfold.engine.cli import main
from backfold.engine.demo.guest import qemu_img
from cli.command import Cli, disks, parsed

SIZE = 64 << 20
#: So slow that a deletion of `SLOW_BYTES` takes longer than any test waits.
SLOW = ["--bandwidth", "64K"]
SLOW_BYTES = 8 << 20


class Said(NamedTuple):
    """What a command printed."""

    out: str
    err: str


class Inside:
    """Runs commands in this process: for what needs no process of its own."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: str, status: int = 0) -> Said:
        """Run a command to its end."""
        actual = main(list(arguments))
        said = Said(*self.capsys.readouterr())

        assert (status, said) == (actual, said)
        return said

    def json(self, schema: str, *arguments: str, status: int = 0) -> dict[str, Any]:
        """The last object that a command printed, checked like all before it."""
        said = self("--json", *arguments, status=status)

        assert said.err == ""
        return parsed(schema, said.out)[-1]


@pytest.fixture(scope="session")
def bytecode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where subprocesses keep bytecode, so that not each of them compiles anew."""
    return tmp_path_factory.mktemp("bytecode")


@pytest.fixture
def cli(tmp_path: Path, bytecode: Path) -> Cli:
    return Cli(tmp_path, bytecode)


@pytest.fixture
def inside(
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Inside]:
    """Run a command in this process: for what needs no process of its own."""
    monkeypatch.setenv("BACKFOLD_JOURNAL", str(cli.journal))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = signal.getsignal(signal.SIGTERM)
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield Inside(capsys)
    signal.signal(signal.SIGTERM, before)
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def web(cli: Cli, inside: Inside) -> Cli:
    """A domain ``web`` that is off, with two disks and no snapshot."""
    made = {}
    for target in ("vda", "vdb"):
        made[target] = cli.folder / f"{target}.qcow2"
        qemu_img("create", "-q", "-f", "qcow2", made[target], str(SIZE))
    inside("domain", "add", "web", *disks(made))
    return cli


def write(image: Path, length: int) -> None:
    """Put data into an image that nobody has open."""
    command = ["qemu-io", "-f", "qcow2", "-c", f"write -P 7 0 {length}", str(image)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def slow(web: Cli, inside: Inside) -> Cli:
    """A domain that is off, with a snapshot that has something above it."""
    inside("snapshot", "create", "web", "s1")
    for target in ("vda", "vdb"):
        write(web.folder / f"{target}.s1", SLOW_BYTES)
    return web
