"""`backfold snapshot adopt` on domains that are off, and deletions of what it makes."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from backfold.engine import image_locks
from backfold.engine.cli import main
from backfold.engine.demo.guest import qemu_img
from cli.chains import digests, fill, grow, seen
from cli.command import Cli, disks
from cli.conftest import Inside

ADOPT = ("snapshot", "adopt", "web")
LIST = ("snapshot", "list", "web")


def add(inside: Inside, **chains: Sequence[Path]) -> None:
    """Record the domain ``web`` with the tops of these chains."""
    inside("domain", "add", "web", *disks({t: c[-1] for t, c in chains.items()}))


def labels(adopted: dict[str, Any]) -> dict[str, dict[str, str]]:
    """What an answer says of each snapshot: the names of its frozen images."""
    return {
        snapshot["name"]: {
            disk["target"]: os.path.basename(disk["frozen"])
            for disk in snapshot["disks"]
        }
        for snapshot in adopted["snapshots"]
    }


def tree(inside: Inside) -> dict[str, str | None]:
    """The parent of each snapshot in the catalog; the current one is marked."""
    listed = inside.json("snapshot-list", *LIST)["snapshots"]
    return {s["name"] + "*" * s["current"]: s["parent"] for s in listed}


def boot_from(cli: Cli, **sources: Path) -> None:
    """Let the catalog have other active images, as an operator's edit would."""
    with sqlite3.connect(cli.journal) as db:
        for target, source in sources.items():
            row = (str(source), target)
            db.execute("insert into images (path, format) values (?, 'qcow2')", row[:1])
            db.execute("update disks set source = ? where target = ?", row)
    db.close()


def now(inside: Inside) -> list[str]:
    """What the disks show that are to be booted now."""
    shown = inside.json("domain", "domain", "show", "web")["disks"]
    return [seen(Path(disk["source"])) for disk in shown]


def codes(inside: Inside, cli: Cli, *more: str, status: int = 3) -> set[str]:
    """Why adopting is refused; nothing changes by that."""
    before = cli.content(), digests(cli.folder)
    error = inside.json("error", *ADOPT, "--yes", *more, status=status)["error"]

    assert (cli.content(), digests(cli.folder)) == before
    return {reason["code"] for reason in error["reasons"]}


def test_chains_become_snapshots_that_can_be_deleted(cli: Cli, inside: Inside) -> None:
    vda = grow(cli.folder, "web.qcow2", "web.s1", "web.s2", "web.s3", relative=True)
    vdb = grow(cli.folder, "data.qcow2", "data.s1", "data.s3")
    add(inside, vda=vda, vdb=vdb)
    truth = {path: seen(path) for path in (*vda, *vdb)}
    before = cli.content(), digests(cli.folder)

    planned = inside.json("adoption", *ADOPT, "--dry-run")
    said = inside(*ADOPT, "--dry-run").out
    assert (cli.content(), digests(cli.folder)) == before
    assert "Nothing was recorded." in said and "snapshot  s3 (current)" in said

    files = digests(cli.folder)
    adopted = inside.json("adoption", *ADOPT, "--yes")
    assert digests(cli.folder) == files
    assert adopted == {**planned, "recorded": True}
    assert labels(adopted) == {
        "s1": {"vda": "web.qcow2", "vdb": "data.qcow2"},
        "s2": {"vda": "web.s1"},
        "s3": {"vda": "web.s2", "vdb": "data.s1"},
    }
    assert tree(inside) == {"s1": None, "s2": "s1", "s3*": "s2"}
    created = [snapshot["created"] for snapshot in adopted["snapshots"]]
    assert created[0] == "2023-11-14T22:13:20.000000+00:00"
    ours = {image["path"] for image in adopted["images"] if image["ours"]}
    assert ours == {str(path) for path in (*vda[1:], *vdb[1:])}

    again = inside.json("adoption", *ADOPT, "--yes")
    assert (again["snapshots"], again["recorded"]) == ([], False)
    assert "recorded already" in inside(*ADOPT, "--yes").out

    # Whichever images a deletion keeps: what is left shows what it showed before.
    left = len(vda) + len(vdb)
    for name, gone in (("s2", 1), ("s3", 2)):
        inside("delete", "web", name, "--yes")
        left -= gone
        assert len(list(cli.folder.glob("*.*"))) == left
        assert now(inside) == [truth[vda[-1]], truth[vdb[-1]]]
        for snapshot in inside.json("snapshot-list", *LIST)["snapshots"]:
            for disk in snapshot["disks"]:
                was = labels(adopted)[snapshot["name"]][disk["target"]]
                assert seen(Path(disk["frozen"])) == truth[cli.folder / was]


class Answer(io.StringIO):
    """Somebody at a terminal."""

    def isatty(self) -> bool:
        return True


def test_it_asks_and_shows_what_it_would_record(
    cli: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(inside, vda=grow(cli.folder, "web.qcow2", "web.s1"))
    assert "--yes" in inside(*ADOPT, status=2).err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", Answer("n\n"))
    said = inside(*ADOPT, status=1)

    assert "a deletion may remove" in said.out
    assert "Record 1 snapshot of web?" in said.err and "Not adopted" in said.err
    assert tree(inside) == {}

    monkeypatch.setattr("sys.stdin", Answer("y\n"))
    assert "Recorded 1 snapshot." in inside(*ADOPT).out
    assert tree(inside) == {"s1*": None}


def test_images_with_other_users_never_become_ours(cli: Cli, inside: Inside) -> None:
    chain = grow(cli.folder, "root.qcow2", "golden.qcow2", "web.qcow2", "web.s1")
    clone = cli.folder / "clone.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", chain[1], "-F", "qcow2", clone)
    add(inside, vda=chain)
    clone_saw, disk_saw = seen(clone), seen(chain[-1])
    elsewhere = cli.folder / "elsewhere"
    elsewhere.mkdir()
    hidden = elsewhere / "hidden.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", chain[2], "-F", "qcow2", hidden)
    looking = ("--dry-run", "--image-dir", str(elsewhere))
    warned = inside.json("adoption", *ADOPT, *looking)["images"]
    assert [os.path.basename(i["path"]) for i in warned if i["ours"]] == ["web.s1"]
    hidden.unlink()
    adopted = inside.json("adoption", *ADOPT, "--yes")

    assert list(labels(adopted)) == ["golden", "web", "s1"]
    found = {os.path.basename(i["path"]): i for i in adopted["images"]}
    assert {name: image["ours"] for name, image in found.items()} == {
        "root.qcow2": False,
        "golden.qcow2": False,
        "web.qcow2": True,
        "web.s1": True,
    }
    assert found["golden.qcow2"]["others"] == [str(clone)]

    # Somebody else's base is not removed, whatever becomes of the snapshot's name.
    inside("delete", "web", "s1", "--yes")
    assert main(["delete", "web", "golden", "--yes"]) in (0, 3)
    inside.capsys.readouterr()
    assert chain[1].exists()
    assert seen(clone) == clone_saw
    assert now(inside) == [disk_saw]


def test_what_is_recorded_already_is_merged_in(cli: Cli, inside: Inside) -> None:
    vda = grow(cli.folder, "web.qcow2", "web.a")
    vdb = grow(cli.folder, "data.qcow2")
    add(inside, vda=vda, vdb=vdb)
    inside("snapshot", "create", "web", "b")
    # Above the recorded images and below them, behind the journal's back.
    grow(cli.folder, "web.qcow2", "web.a", "web.b", "web.c", "web.b-later")
    grow(cli.folder, "data.qcow2", "data.b", "data.x", "data.c")
    boot_from(cli, vda=cli.folder / "web.b-later", vdb=cli.folder / "data.c")
    adopted = inside.json("adoption", *ADOPT, "--yes")

    assert labels(adopted) == {
        "a": {"vda": "web.qcow2"},
        "x": {"vdb": "data.b"},
        "c": {"vda": "web.b", "vdb": "data.x"},
        "b-later": {"vda": "web.c"},
    }
    assert adopted["parents"] == [{"name": "b", "parent": "a"}]
    assert tree(inside) == {
        "a": None,
        "b": "a",
        "x": "b",
        "c": "x",
        "b-later*": "c",
    }


def test_names_that_are_taken_get_a_number(cli: Cli, inside: Inside) -> None:
    vda = grow(cli.folder, "web.qcow2", "web.s1", "s1.img", "web.a b")
    add(inside, vda=vda)

    adopted = inside.json("adoption", *ADOPT, "--yes")
    assert list(labels(adopted)) == ["s1", "s1-2", "web.a_b"]
    boot_from(cli, vda=grow(cli.folder, "web.a b", "web.s1.qcow2")[-1])
    adopted = inside.json("adoption", *ADOPT, "--yes")
    assert labels(adopted) == {"s1-3": {"vda": "web.a b"}}


def test_disks_that_disagree_are_refused(cli: Cli, inside: Inside) -> None:
    vda = grow(cli.folder, "web.qcow2", "web.s1", "web.s2")
    vdb = grow(cli.folder, "data.qcow2", "data.s2", "data.s1")
    add(inside, vda=vda, vdb=vdb)

    assert codes(inside, cli) == {"chain_differs"}


def test_it_is_refused_with_all_reasons(cli: Cli, inside: Inside) -> None:
    chain = grow(cli.folder, "web.qcow2", "web.s1", "web.s2")
    vdb = grow(cli.folder, "data.qcow2", "data.s1")
    add(inside, vda=chain, vdb=vdb)
    moved = chain[0].rename(cli.folder / "moved")
    assert codes(inside, cli) == {"missing_image"}
    moved.write_bytes(moved.read_bytes())
    chain[0].write_bytes(b"QFI\xfb nonsense" * 100)
    with vdb[0].open("r+b") as image:
        image.seek(72)  # The incompatible features: marked corrupt.
        image.write((2).to_bytes(8, "big"))
    assert codes(inside, cli) == {"corrupt_image"}
    vdb[0].unlink()
    grow(cli.folder, "data.qcow2")
    chain[0].unlink()
    moved.rename(chain[0])
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", "json:{}", "-F", "qcow2", chain[1])
    assert codes(inside, cli) == {"unsupported_image"}
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", chain[0], "-F", "qcow2", chain[1])

    command = ["qemu-io", "-f", "qcow2", str(chain[2])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as user:
        assert user.stdin is not None
        while not image_locks.holder(str(chain[0])):
            assert user.poll() is None
            time.sleep(0.01)
        assert codes(inside, cli, status=4) == {"image_in_use"}
        user.communicate("quit\n")

    with sqlite3.connect(cli.journal) as db:
        row = (
            *("insert into deletions (id, domain, snapshot, state, options, started)",),
            *("values ('0123456789ab', 'web', 'x', 'validate', '{}', 'now')",),
        )
        db.execute(" ".join(row))
    db.close()
    assert codes(inside, cli) == {"deletion_open"}


def test_an_image_that_is_another_disk_is_refused(cli: Cli, inside: Inside) -> None:
    chain = grow(cli.folder, "web.qcow2", "web.s1", "web.s2")
    inside("domain", "add", "lower", "--disk", f"vda={chain[1]}")
    add(inside, vda=chain)

    assert codes(inside, cli) == {"foreign_user_of_base"}


def test_catalog_that_does_not_fit_the_chain_is_refused(
    cli: Cli, inside: Inside
) -> None:
    chain = grow(cli.folder, "web.qcow2", "web.s1")
    add(inside, vda=chain)
    inside("snapshot", "create", "web", "s2")
    newest = cli.folder / "web.s2"
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", chain[0], "-F", "qcow2", newest)
    fill(newest, 5)

    assert codes(inside, cli) == {"chain_differs"}
