"""`backfold snapshot revert` as operators and programs meet it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.command import Cli, Terminal, kill_at
from cli.conftest import Inside
from crash.test_reversion import io

WRITTEN = "64.0 KiB written since s1"


@pytest.fixture
def filled(web: Cli, inside: Inside) -> Cli:
    """A domain that is off, with a snapshot of vda and something written since."""
    io(web.folder / "vda.qcow2", "write -P 7 0 64k")
    inside("snapshot", "create", "web", "s1", "--exclude", "vdb")
    io(web.folder / "vda.s1", "write -P 9 0 64k")
    return web


def images(cli: Cli) -> dict[str, bytes]:
    """Every image, byte for byte."""
    return {path.name: path.read_bytes() for path in cli.folder.glob("vd*")}


def test_what_would_be_lost_is_named_and_not_lost(
    filled: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither --yes nor an answer gives data up; --discard and an answer do."""
    before = images(filled), filled.content()
    error = inside.json("error", "snapshot", "revert", "web", "s1", "--yes", status=3)
    (reason,) = error["error"]["reasons"]
    assert (reason["code"], reason["disk"]) == ("would_discard", "vda")
    assert "65536 bytes" in reason["message"]
    assert "snapshot create web" in reason["remedy"]
    inside("snapshot", "revert", "web", "s1", "--discard", status=2)
    for stream in ("sys.stdin", "sys.stdout", "sys.stderr"):
        monkeypatch.setattr(f"{stream}.isatty", lambda: True)
    said = inside("snapshot", "revert", "web", "s1", status=3)
    assert WRITTEN in said.out and "[y/N]" not in said.err
    declined = Terminal(filled, "snapshot", "revert", "web", "s1", "--discard")
    declined.read_until("[y/N]")
    assert WRITTEN in declined.seen
    assert declined.finish("n\n") == 1
    assert (images(filled), filled.content()) == before

    accepted = Terminal(filled, "snapshot", "revert", "web", "s1", "--discard")
    accepted.read_until("[y/N]")
    assert accepted.finish("y\n") == 0
    assert f"vda.s1 ({WRITTEN}) was removed" in accepted.seen
    assert "vdb: stays as it is" in accepted.seen
    io(filled.folder / "vda.s1-2", "read -P 7 0 64k")
    assert not (filled.folder / "vda.s1").exists()


def test_a_program_reads_what_was_done(filled: Cli, inside: Inside) -> None:
    path = filled.folder / "new"
    place = ("--overlay", f"vda={path}")
    order = ("snapshot", "revert", "web", "s1", "--yes", "--discard")
    done = inside.json("reversion", *order, *place)

    assert (done["state"], done["untouched"], done["missing"]) == (
        "reverted",
        ["vdb"],
        [],
    )
    assert done["disks"] == [
        {
            "target": "vda",
            "source": str(path),
            "frozen": str(filled.folder / "vda.qcow2"),
            "former": str(filled.folder / "vda.s1"),
            "bytes": 65536,
            "since": "s1",
            "stays": None,
        }
    ]
    (disk, _) = inside.json("domain", "domain", "show", "web")["disks"]
    assert disk["source"] == str(path)
    log = inside.json("log", "log", done["reversion"][:6])
    edges = [row["to"] for row in log["log"] if row["kind"] == "edge"]
    assert (log["machine"], edges) == (
        "reversion",
        ["overlays_made", "recorded", "reverted"],
    )
    assert inside.json("status", "status")["reversions"] == []
    unknown = inside(
        "snapshot", "revert", "web", "s1", "--overlay", "vdx=/x", "--yes", status=2
    )
    assert "no disk vdx" in unknown.err


@pytest.mark.parametrize(
    ("point", "end", "status"),
    [
        ("overlays_made.sync_images.done", "undone", 5),
        ("recorded.set_aside.done", "reverted", 0),
    ],
)
def test_a_revert_that_was_killed(
    filled: Cli, inside: Inside, point: str, end: str, status: int
) -> None:
    """By SIGKILL; it is listed, told what will be done about it, and finished."""
    kill_at(filled, "revert", "s1", point, "self")
    (open_run,) = inside.json("status", "status")["reversions"]
    assert open_run["state"] == point.split(".")[0]
    assert "(open)" in inside("status").out
    seen = inside.json("event", "recover", "--dry-run", status=6)
    assert (seen["machine"], seen["decided"]) == ("reversion", end == "reverted")
    text = inside("recover", "--dry-run", status=6).out
    assert "vda of web was being reverted to s1." in text
    lines = filled.lines("event", "recover", status=status)

    assert (lines[-1]["reversion"], lines[-1]["state"]) == (
        open_run["reversion"],
        end,
    )
    assert [line["event"] for line in lines] == ["outlook", "state", "result"]
    found = inside.json("domain", "domain", "show", "web")["disks"][0]["source"]
    pattern = 7 if end == "reverted" else 9
    io(Path(found), f"read -P {pattern} 0 64k")
    assert len(images(filled)) == 3
    assert "is not the id" not in inside("log", open_run["reversion"]).out
