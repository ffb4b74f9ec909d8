"""Requests that make no sense: said clearly, with status 2, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.api import Engine
from backfold.engine.demo.guest import qemu_img
from cli.command import COMMAND, Cli
from cli.conftest import Inside

DELETE = ["delete", "web", "s1"]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([*DELETE, "--bandwidth", "50", "--yes"], "no unit"),
        ([*DELETE, "--bandwidth", "fast", "--yes"], "not a rate"),
        ([*DELETE, "--timeout", "nan", "--yes"], "--timeout"),
        ([*DELETE, "--timeout", "soon", "--yes"], "--timeout"),
        ([*DELETE, "--max-downtime", "0", "--yes"], "--max-downtime"),
        (DELETE, "Add --yes"),
        (["domain", "remove", "web"], "Add --yes"),
        (["domain", "add", "web"], "--disk"),
        (["domain", "add", "web", "--disk", "vda"], "TARGET=PATH"),
        (["domain", "add", "w", "--disk", "a=b", "--monitor", "/" * 2 + "x" * 200], ""),
        (["snapshot", "create", "web", "s", "--overlay", "vda"], "--overlay"),
        (["snapshot", "create", "web", "s", *["--overlay", "a=b"] * 2], "twice"),
        (["diagram", "guest"], "'deletion', 'fold', 'creation', 'reversion'"),
        (["status", "--json"], "goes before the command"),
        (["delete", "web"], "SNAPSHOT"),
        (["domain"], "Missing command"),
        (["nonsense"], "nonsense"),
    ],
)
def test_usage_errors(
    cli: Cli, inside: Inside, arguments: list[str], word: str
) -> None:
    said = inside(*arguments, status=2)

    assert said.out == ""
    assert said.err.startswith("backfold: ")
    assert word in said.err
    assert "next: " in said.err

    schema = "result" if arguments[0] == "delete" else "error"
    answer = inside.json(schema, *arguments, status=2)
    assert answer["error"]["code"] == "usage"
    assert not cli.journal.exists()


def test_hostile_input_leaves_the_journal_as_it_is(web: Cli, inside: Inside) -> None:
    before = web.content()
    escape = "\x1b[2J\x07"
    not_text = os.fsdecode(b"vda=/\xff.img")
    for arguments, status in [
        (["domain", "add", escape, "--disk", "vda=vda.qcow2"], 2),
        (["domain", "add", "x", "--disk", f"{escape}=/etc/passwd"], 2),
        (["domain", "add", "x", "--disk", not_text], 2),
        (["domain", "add", "x", "--disk", "vda=json:{}"], 3),
        (["domain", "add", "x", "--disk", f"vda=/{escape}"], 3),
        (["domain", "add", "x", "--disk", f"vda={web.folder}/vda.qcow2"], 2),
        (["domain", "show", "'; drop table domains; --"], 3),
        (["snapshot", "create", "web", f"../{escape}"], 2),
        (["snapshot", "create", "web", "s1", "--exclude", escape], 2),
        (["plan", "web", escape], 3),
        (["log", "%"], 2),
    ]:
        said = inside(*arguments, status=status).err
        assert said.startswith("backfold: ")
        assert "\x1b" not in said
        assert web.content() == before


def test_hostile_names_reach_the_terminal_as_escapes_only(
    web: Cli, inside: Inside
) -> None:
    folder = web.folder / "e\x1b[31m\nvil, folder"
    folder.mkdir()
    image = folder / "disk\u202e.img"
    image.write_bytes(bytes(1 << 20))
    option = f"vda={str(image).replace(',', ',,')},format=raw"
    inside("domain", "add", "evil", "--disk", option)
    shown = web.out("domain", "show", "evil")

    assert r"e\x1b[31m\nvil, folder/disk\u202e.img (raw)" in shown
    assert len(shown.splitlines()) == 4
    assert "\u202e" not in inside("domain", "args", "evil").out
    (disk,) = inside.json("domain", "domain", "show", "evil")["disks"]
    assert disk["source"] == str(image)


def test_a_file_that_is_not_qcow2_is_told_to_be_raw(web: Cli, inside: Inside) -> None:
    raw = web.folder / "raw.img"
    raw.write_bytes(bytes(1 << 20))
    said = inside("domain", "add", "x", "--disk", f"vda={raw}", status=3).err

    assert f"{raw} is not a qcow2 image" in said
    assert "format=raw" in said


def test_a_broken_pipe_is_quiet(web: Cli) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "domain", "list"],
        env=web.environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)

    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_below_the_output_is_reported(web: Cli) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, "domain", "list"],
            env=web.environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert done.returncode == 1
    assert "standard output cannot be written" in done.stderr


def test_journals_that_cannot_be_used(cli: Cli, inside: Inside) -> None:
    garbage = cli.folder / "garbage.db"
    garbage.write_bytes(b"\x00garbage" * 1000)
    link = cli.folder / "link.db"
    link.symlink_to(garbage)
    for journal, code in [
        (garbage, "journal_damaged"),
        (link, "journal"),
        (cli.folder, "journal"),
        (garbage / "below.db", "journal"),
    ]:
        named = ["--journal", str(journal), "status"]
        answer = inside.json("error", *named, status=1)
        assert answer["error"]["code"] == code
        assert str(journal) in inside(*named, status=1).err
    assert garbage.read_bytes() == b"\x00garbage" * 1000


def test_a_missing_journal_is_mentioned_and_not_made(cli: Cli) -> None:
    done = cli.run("recover")

    assert done.stdout == "Nothing is interrupted.\n"
    assert f"there is no journal {cli.journal} yet" in done.stderr
    assert not cli.journal.parent.exists()


def test_an_unexpected_exception_is_one_line_and_a_bug(
    cli: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Engine) -> Any:
        raise ZeroDivisionError("of\x1b course")

    monkeypatch.setattr(Engine, "catalog", property(fail))
    image = cli.folder / "a.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    said = inside("domain", "list", status=1).err
    traced = inside("-v", "domain", "list", status=1).err
    answer = inside.json("error", "domain", "list", status=1)

    assert r"backfold: ZeroDivisionError: of\x1b course" in said
    assert "This is a bug" in said
    assert "Traceback" not in said
    assert "Traceback" in traced
    assert "\x1b" not in traced
    assert answer["error"]["code"] == "bug"


def test_an_unreadable_journal_is_no_traceback(
    tmp_path: Path, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("backfold.journal.store._open", denied)
    (tmp_path / "j.db").touch()
    said = inside("--journal", str(tmp_path / "j.db"), "domain", "list", status=1)
    assert "Permission denied" in said.err
    assert "permissions" in said.err
