"""How soon the command line answers, told by what it loads: times are the host's.

`make startup` measures.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from backfold.engine.cli.app import app
from backfold.engine.cli.commands import COMMANDS
from cli.command import Cli
from cli.conftest import Inside
from written import Journal

#: Each costs more to load than `status` may take beyond typer.
HEAVY = {
    *("asyncio", "logging", "pydantic", "qemu", "rich", "sqlite_utils", "structlog"),
    *("tempfile", "transitions", "unicodedata"),
    # Frozen dataclasses with slots are slow to make.
    *("backfold.journal.model", "backfold.journal.runs", "backfold.engine.results"),
}
#: How many modules there may be beyond those of typer, rich and sqlite3.
FEW = 40

_RUN = """
import json, sys
from backfold.engine.cli import main
status = main(sys.argv[1:])
print(json.dumps([status, list(sys.modules)]), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """What is there with the three packages that a start is measured against."""
    load = "import typer, rich, sqlite3, json, sys; print(json.dumps([*sys.modules]))"
    return set(json.loads(_python(load)[0]))


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("startup") / "journal.db"
    with Journal(path) as written:
        written.completed()
        written.interrupted()
    return path


def _python(code: str, *arguments: str) -> tuple[str, str]:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--version"], "backfold "),
        (["--help"], "Usage: backfold"),
        (["--journal", "JOURNAL", "status"], "completed"),
        (["--journal", "MISSING", "status"], ""),
    ],
)
def test_what_must_answer_at_once_loads_little(
    bare: set[str], journal: Path, arguments: list[str], word: str
) -> None:
    places = {"JOURNAL": str(journal), "MISSING": str(journal.with_name("none"))}
    out, told = _python(_RUN, *[places.get(word, word) for word in arguments])
    status, loaded = json.loads(told.splitlines()[-1])
    more = set(loaded) - bare
    packages = {name.partition(".")[0] for name in more}

    assert status == 0
    assert word in out
    assert not HEAVY & (more | packages)
    assert len(more) <= FEW, sorted(more)
    assert "backfold.engine.cli.plans" not in more


def test_the_help_says_of_each_command_what_its_own_help_says() -> None:
    group = get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    context = typer.Context(group)

    assert group.list_commands(context) == list(COMMANDS)
    for name, entry in COMMANDS.items():
        command = group.get_command(context, name)
        assert command is not None
        assert command.name == name
        said = " ".join(str(command.help).split())
        assert f"{said} ".startswith(f"{entry.summary} "), name


def test_what_was_meant_is_found_among_all_commands(inside: Inside) -> None:
    assert "Did you mean 'status'?" in inside("stauts", status=2).err
    assert "Did you mean 'revert'?" in inside("snapshot", "rivert", status=2).err


def test_values_reach_a_command_as_they_were_typed(cli: Cli, inside: Inside) -> None:
    image = cli.folder / "a b.qcow2"
    image.write_bytes(b"")
    refused = inside("domain", "add", "x", "--disk", f"vda={image}", status=3).err
    assert f"vda: {image} is not a qcow2 image." in refused
    for arguments in (["domain", "add", "x"], ["plan", "x"], ["cancel"]):
        assert "Missing" in inside(*arguments, status=2).err
    for arguments in (
        ["domain", "show", "\udcff"],
        ["domain", "add", "x", "--disk", "vda=\udcff"],
        ["--journal", "\udcff", "status"],
    ):
        said = inside(*arguments, status=2).err
        assert r"\udcff" in said
        assert "is not valid UTF-8" in said
