"""Completion in real shells, with what is in a journal, and with what must not be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperArgument, TyperGroup, TyperOption
from typer.main import get_command

from backfold.engine.cli.app import app
from backfold.engine.cli.candidates import of_parameter
from backfold.engine.cli.commands import COMMANDS
from backfold.engine.cli.completion import answer
from cli.conftest import Inside
from cli.shells import BACKFOLD, Shell
from cli.test_startup import HEAVY
from written import Journal

SHELLS = ("bash", "zsh", "fish")
OPEN, DONE = "a0" * 6, "c0" * 6
#: What no shell may run, and no terminal may act on.
HOSTILE = (
    "$(touch PWNED)",
    "`touch PWNED`",
    "web;touch PWNED",
    r"\$(touch PWNED)",
    r"x\";touch PWNED;\"",
    "x';touch PWNED;'",
    "web\ntouch PWNED\n",
    "\tfiles",
    "-rf",
    "*",
    "~",
    "we\x1b[2Jb",
    "x' y",
)
#: Placeholders of what nobody can know but who types it.
FREE = {"N", "RATE", "MS", "SECONDS", "[HOST:]PORT", "NAME"}


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "journal.db"
    with Journal(path) as written:
        written.completed(DONE)
        written.interrupted(OPEN)
        put(written, "web", "vda", "/srv/web.qcow2", "s1", "v2:a", "v2:b")
        put(written, "mail", "sda", "/srv/mail.qcow2", "before")
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal in which every name and path is meant to do harm."""
    path = tmp_path_factory.mktemp("hostile") / "journal.db"
    harm = r"/\";touch PWNED;$(touch PWNED)%n"
    with Journal(path) as written:
        for name in HOSTILE:
            put(written, name, name, f"/{name}", name)
        put(written, "good", "vda", harm, *HOSTILE)
    return path


def put(
    journal: Journal, domain: str, target: str, source: str, *snapshots: str
) -> None:
    """Record a domain with one disk, whatever they are called."""
    db = journal.db
    db.execute("insert into images (path, format) values (?, 'qcow2')", (source,))
    db.execute("insert into domains (name, created) values (?, '2026')", (domain,))
    disk = "insert into disks (domain, target, source, position) values (?, ?, ?, 0)"
    db.execute(disk, (domain, target, source))
    for number, name in enumerate(snapshots):
        db.execute(
            "insert into snapshots (domain, name, created, status, current)"
            " values (?, ?, ?, 'valid', 0)",
            (domain, name, f"2026-01-0{number}"),
        )


@pytest.fixture(scope="module", params=SHELLS)
def shell(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    journal: Path,
) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp(request.param)
    folder.joinpath("images").mkdir()
    folder.joinpath("images", "web.key").touch()
    with Shell(request.param, folder, journal) as opened:
        yield opened


def test_tab_completes_the_word(shell: Shell) -> None:
    for typed, becomes in [
        ("delete web s1 --strategy=au", "delete web s1 --strategy=auto"),
        ("snapshot show mail b", "snapshot show mail before"),
        # bash breaks words at colons.
        ("snapshot show web v2:a", "snapshot show web v2:a"),
        ("plan web s1 --through v", "plan web s1 --through v2:"),
        ("cancel ", f"cancel {OPEN}"),
        ("plan web s1 --secret v", "plan web s1 --secret vda="),
        ("plan web s1 --secret vda=im", "plan web s1 --secret vda=images/"),
        ("--journal /none delete we", "--journal /none delete we"),
    ]:
        # zsh takes a slash that it has added away when something else follows.
        words = [word.rstrip("/") for word in shell.complete(f"backfold {typed}")]
        assert words == ["backfold", *becomes.rstrip("/").split()]


def test_tab_shows_what_there_is(shell: Shell) -> None:
    shown = shell.offered("backfold log ", OPEN, DONE)

    assert "rror" not in shown


@pytest.mark.parametrize("name", SHELLS)
def test_no_name_runs_code_in_a_shell(name: str, tmp_path: Path, hostile: Path) -> None:
    with Shell(name, tmp_path, hostile) as shell:
        for typed in ("plan good ", "plan good x --secret "):
            assert "\x1b[2Jb" not in shell.offered(f"backfold {typed}")
        assert shell.complete("backfold delete g") == ["backfold", "delete", "good"]
    assert list(tmp_path.rglob("PWNED")) == []


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("recov", "recover"),
        ("delete web s1 --max", "--max-downtime"),
        ("delete web s1 --strategy ", "auto commit stream"),
        ("diagram fold --format s", "svg"),
        ("diagram fo", "fold"),
        ("delete ", "mail web"),
        ("snapshot show web ", "v2:b v2:a s1"),
        ("domain detach web ", "vda"),
        ("domain show m", "mail"),
        ("snapshot create web x --exclude ", "vda"),
        ("snapshot create web x --exclude=", "--exclude=vda"),
        ("snapshot create web x --overlay ", "vda="),
        ("status ", f"{OPEN} {DONE}"),
        ("recover ", OPEN),
        ("diagram --of ", f"{OPEN} {DONE}"),
        ("check web --image-dir ", "\tfolders"),
        ("domain add x --disk vda=/", "\tfiles"),
        ("domain add ", ""),
        ("snapshot create web ", ""),
        ("delete web s1 --bandwidth ", ""),
        ("--version ", " ".join(COMMANDS)),
        ("'unfinished", ""),
    ],
)
def test_what_is_offered(
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    line: str,
    values: str,
) -> None:
    """In this process: what the shells do with it is above."""
    monkeypatch.setenv("BACKFOLD_JOURNAL", str(journal))
    monkeypatch.setenv("_BACKFOLD_COMPLETE", "zsh")
    monkeypatch.setenv("_BACKFOLD_COMMAND", "backfold")
    monkeypatch.setenv("_BACKFOLD_LINE", f"backfold {line}")
    assert answer() == 0
    said = capsys.readouterr()
    offered = [text for text in said.out.split("\n") if text]

    assert said.err == ""
    if values.startswith("\t"):
        assert offered == [values]
    else:
        assert [text.partition("\t")[0] for text in offered] == values.split()


def answered(journal: Path, line: str, shell: str = "zsh") -> str:
    """What the program says to a script."""
    environment = {
        "PATH": os.environ["PATH"],
        "BACKFOLD_JOURNAL": str(journal),
        "_BACKFOLD_COMPLETE": shell,
        "_BACKFOLD_LINE": line,
        "_BACKFOLD_COMMAND": "backfold",
    }
    done = subprocess.run([BACKFOLD], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout


def test_only_names_are_candidates(hostile: Path) -> None:
    assert answered(hostile, "backfold delete ").splitlines() == ["good\tvda"]
    assert answered(hostile, "backfold delete good ") == ""


def test_a_journal_that_cannot_be_read_is_quiet(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"\0garbage" * 100)
    for path in (garbage, tmp_path / "none" / "journal.db"):
        before = sorted(tmp_path.rglob("*"))
        assert answered(path, "backfold delete ") == ""
        assert sorted(tmp_path.rglob("*")) == before


def test_nothing_is_written_beside_the_journal(journal: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in journal.parent.iterdir()}
    assert answered(journal, "sudo backfold cancel ", "bash") == f"{OPEN}\n"
    assert answered(journal, f"backfold --journal {journal} delete m") == "mail\tsda\n"
    after = {path: path.stat().st_mtime_ns for path in journal.parent.iterdir()}

    assert before == after


def test_every_parameter_is_completed_or_free(journal: Path) -> None:
    """A placeholder that completion does not know would complete nothing, silently."""
    root = get_command(app)
    assert isinstance(root, TyperGroup)
    context = typer.Context(root, info_name="backfold")
    context.params["journal"] = str(journal)
    context.params["domain"] = "web"
    unknown = [
        (path, param.name, param.metavar)
        for path, param in parameters(root, "")
        if not any(True for _ in of_parameter(context, param, ""))
        and param.metavar not in FREE
    ]

    assert unknown == []


def parameters(
    group: TyperGroup, path: str
) -> Iterator[tuple[str, TyperOption | TyperArgument]]:
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, TyperGroup):
            yield from parameters(command, f"{path} {name}")
            continue
        assert command is not None
        for param in command.params:
            if isinstance(param, TyperArgument):
                yield f"{path} {name}", param
            elif isinstance(param, TyperOption) and not param.is_flag:
                yield f"{path} {name}", param


def test_to_complete_a_name_loads_little(journal: Path) -> None:
    code = (
        "import json, sys; from backfold.engine.cli.completion import answer; answer();"
        "print(json.dumps([*sys.modules]))"
    )
    environment = {
        "BACKFOLD_JOURNAL": str(journal),
        "_BACKFOLD_COMPLETE": "fish",
        "_BACKFOLD_LINE": "backfold snapshot show web ",
        "_BACKFOLD_COMMAND": "backfold",
    }
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, check=True)
    *found, loaded = done.stdout.splitlines()

    assert b"s1\tvalid" in found
    assert not HEAVY & set(json.loads(loaded))


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_is_printed_and_is_sound(inside: Inside, name: str) -> None:
    script = inside("completion", name).out
    shown = inside.json("completion", "completion", name)
    check = subprocess.run([name, "-n"], input=script, text=True, capture_output=True)

    assert shown == {"schema": 1, "shell": name, "script": script}
    assert (check.returncode, check.stderr) == (0, "")
