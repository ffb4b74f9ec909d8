"""`backfold check` on a domain that is off: each finding provoked, some mended."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from backfold.engine import image_locks
from backfold.engine.demo.guest import qemu_img
from backfold.engine.helper import QemuHypervisor
from cli.chains import digests, fill, grow, seen
from cli.command import Cli, disks
from cli.conftest import Inside

CHECK = ("check", "web")
#: A run that no journal knows.
NOBODY = "0123456789ab"
ENDED = (
    "insert into deletions (id, domain, snapshot, state, options, started, finished)"
    " values ('{run}', '{domain}', 's', '{state}', '{{}}', '1', '2')"
)


@pytest.fixture
def web(cli: Cli, inside: Inside) -> Cli:
    """A domain that is off, with two snapshots and data in every image."""
    made = {t: grow(cli.folder, f"{t}.qcow2")[0] for t in ("vda", "vdb")}
    inside("domain", "add", "web", *disks(made))
    for number, name in enumerate(("s1", "s2")):
        inside("snapshot", "create", "web", name)
        for target in made:
            fill(cli.folder / f"{target}.{name}", number + 2)
    return cli


def found(inside: Inside, *more: str, status: int = 1) -> dict[str, dict[str, Any]]:
    """What a check finds, by code and file name. Everything is told in full."""
    answer = inside.json("check", *CHECK, *more, status=status)
    assert answer["clean"] == (status == 0)
    told = {}
    for finding in answer["findings"]:
        assert finding["message"] and finding["meaning"] and finding["remedy"]
        image = os.path.basename(finding["image"] or "")
        told[" ".join(filter(None, (finding["code"], image)))] = finding
    assert len(told) == len(answer["findings"])
    return told


def severities(told: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {key: finding["severity"] for key, finding in told.items()}


def sql(cli: Cli, *statements: str) -> None:
    """Change the journal behind everybody's back."""
    with sqlite3.connect(cli.journal) as db:
        for statement in statements:
            db.execute(statement)
    db.close()


def run_id(cli: Cli) -> str:
    """The id of the only real deletion."""
    with sqlite3.connect(cli.journal) as db:
        (found,) = db.execute(
            "select id from deletions order by started desc"
        ).fetchone()
    db.close()
    return str(found)


@contextmanager
def opened(image: Path) -> Iterator[subprocess.Popen[str]]:
    """Somebody who has an image open for writing."""
    command = ["qemu-io", "-f", "qcow2", str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as user:
        while not image_locks.holder(str(image)):
            assert user.poll() is None
            time.sleep(0.01)
        try:
            yield user
        finally:
            user.kill()


def test_what_is_wrong_is_told_and_the_command_mends_it(
    web: Cli, inside: Inside
) -> None:
    before = web.content(), digests(web.folder)

    assert inside(*CHECK, "--fix").out == "web (off) is in order.\n"
    assert (web.content(), digests(web.folder)) == before
    error = inside.json("error", "check", "nope", status=3)["error"]
    assert [reason["code"] for reason in error["reasons"]] == ["unknown_domain"]
    links_that_are_not_as_recorded(web, inside)
    users_bitmaps_and_the_catalog(web, inside)
    images_that_are_missing_or_damaged(web, inside)


def images_that_are_missing_or_damaged(web: Cli, inside: Inside) -> None:
    """One scene for all of them: each is undone again, but for the last one."""
    truth = seen(web.folder / "vda.s2")
    lower = web.folder / "vda.s1"
    moved = lower.rename(web.folder / "elsewhere")
    told = found(inside)
    assert severities(told) == {
        "missing_image vda.s1": "error",
        "orphan_image elsewhere": "warning",
    }
    missing = told["missing_image vda.s1"]
    assert (missing["disk"], missing["snapshot"]) == ("vda", "s2")
    moved.rename(lower)

    with (web.folder / "vdb.s1").open("r+b") as image:
        image.seek(72)  # The incompatible features: marked corrupt.
        image.write((2).to_bytes(8, "big"))
    whole = (web.folder / "vda.qcow2").read_bytes()
    with (web.folder / "vda.qcow2").open("r+b") as image:
        image.seek(int.from_bytes(whole[48:56], "big"))  # The refcount table.
        image.write(bytes(8))
    assert severities(found(inside)) == {
        "corrupt_image vdb.s1": "error",
        "corrupt_image vda.qcow2": "error",
    }
    (web.folder / "vda.qcow2").write_bytes(whole)
    (web.folder / "vdb.s1").write_bytes(b"QFI\xfb")
    assert set(found(inside)) == {"corrupt_image vdb.s1"}
    (web.folder / "vdb.s1").unlink()

    assert "error    vdb: " in inside(*CHECK, status=1).out
    assert seen(web.folder / "vda.s2") == truth


def links_that_are_not_as_recorded(web: Cli, inside: Inside) -> None:
    """A header that somebody changed is put back by the command that is told."""
    top, truth = web.folder / "vda.s2", seen(web.folder / "vda.s2")
    link = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2"]
    subprocess.run([*link, "-b", web.folder / "vda.qcow2", top], check=True)
    told = found(inside)
    wrong = told["wrong_link vda.s2"]
    # The image that lost its place is there, and refers to nothing that is known.
    assert set(told) == {"wrong_link vda.s2"}
    assert wrong["severity"] == "error" and wrong["disk"] == "vda"
    assert seen(top) != truth

    command = wrong["remedy"].split("`")[1]
    subprocess.run(command, shell=True, check=True)
    assert seen(top) == truth


def test_images_based_on_ours(web: Cli, inside: Inside) -> None:
    clone, newer = web.folder / "clone.qcow2", web.folder / "newer"
    grow(web.folder, "vda.s1", clone.name, "clone.s1")
    grow(web.folder, "vda.s2", newer.name)
    told = found(inside, "--fix")
    assert severities(told) == {
        "orphan_image clone.qcow2": "warning",
        "orphan_image clone.s1": "warning",
        "orphan_image newer": "error",
    }
    assert not any(finding["fixable"] for finding in told.values())

    elsewhere = web.folder / "elsewhere"
    elsewhere.mkdir()
    hidden, lower = elsewhere / "hidden", web.folder / "vda.s1"
    qemu_img("create", "-q", "-f", "qcow2", "-b", lower, "-F", "qcow2", hidden)
    more = set(found(inside, "--image-dir", str(elsewhere)))
    assert more - set(told) == {"orphan_image hidden"}

    # Another domain's images are known, as soon as it is.
    inside("domain", "add", "other", "--disk", f"vda={web.folder / 'clone.s1'}")
    assert set(found(inside)) == {"orphan_image newer"}
    newer.unlink()

    # A target that was taken again is another disk, not a wrong link.
    own = grow(web.folder, "fresh.qcow2")[0]
    inside("domain", "detach", "web", "vdb")
    inside("domain", "attach", "web", f"vdb={own}")
    assert set(found(inside)) == {"orphan_image vdb.s2"}
    data = web.folder / "data"
    image = web.folder / "x.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={data}", image, "2M")
    inside("domain", "attach", "web", f"vdc={image}")
    data.unlink()
    told = found(inside)
    assert told["unsupported_image x.qcow2"]["severity"] == "warning"

    # A chain that nobody recorded is worth a note.
    inside("domain", "remove", "other", "--yes")
    inside("domain", "remove", "web", "--yes")
    inside("domain", "add", "web", "--disk", f"vda={web.folder / 'vda.s2'}")
    told = found(inside)
    assert told["unrecorded_image vda.s1"]["severity"] == "note"
    inside("snapshot", "adopt", "web", "--yes")
    assert not any("unrecorded" in key for key in found(inside))


def test_left_overs_are_removed_when_that_is_proved_safe(
    web: Cli, inside: Inside
) -> None:
    inside("delete", "web", "s1", "--yes")
    # Whatever images that has left, they are the truth.
    shown = inside.json("domain", "domain", "show", "web")["disks"]
    active = [Path(disk["source"]) for disk in shown]
    truth = [seen(path) for path in active]
    done = run_id(web)
    gone = grow(web.folder, "template.qcow2")[0]
    inside("domain", "add", "old", *disks({"vda": gone}))
    inside("domain", "remove", "old", "--yes")
    gone.unlink()
    unfinished = web.folder / "vda.s2.backfold-new"
    qemu_img("create", "-q", "-f", "qcow2", unfinished, "2M")
    unknown = web.folder / "vdz.backfold-new"
    unknown.write_bytes(b"somebody's")
    probe = web.folder / f"vda.s2.bfprobe1-{done}"
    probe.touch()
    filled = web.folder / f"vda.s2.bfprobe2-{done}"
    filled.write_bytes(b"no probe of ours")
    foreign = web.folder / f"vda.s2.bfprobe1-{NOBODY}"
    foreign.touch()
    hypervisor = QemuHypervisor()
    helper = hypervisor.helper_socket(done)
    sql(web, ENDED.format(run="00000000000d", domain="other", state="completed"))
    of_others = hypervisor.helper_socket("00000000000d")
    for path in (helper, of_others):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
    expected = {
        "gone_image template.qcow2": "warning",
        f"left_probe {probe.name}": "note",
        f"left_socket {os.path.basename(helper)}": "note",
        f"unfinished_overlay {unfinished.name}": "warning",
        f"unfinished_overlay {unknown.name}": "warning",
    }

    before = web.content(), digests(web.folder)
    told = found(inside)
    assert severities(told) == expected
    assert (web.content(), digests(web.folder)) == before

    # Somebody has it after all, without any lock.
    with unfinished.open() as file, subprocess.Popen(["sleep", "60"], stdin=file) as it:
        mended = inside.json("check", *CHECK, "--fix", status=1)
        codes = sorted(finding["code"] for finding in mended["fixed"])
        assert codes == ["gone_image", "left_probe", "left_socket"]
        (told,) = [f for f in mended["findings"] if f["image"] == str(unfinished)]
        assert "was not mended" in told["message"] and unfinished.exists()
        it.kill()
    said = inside(*CHECK, "--fix", status=1).out
    assert f"fixed    {unfinished} is an overlay" in said
    assert set(found(inside)) == {f"unfinished_overlay {unknown.name}"}
    assert not unfinished.exists() and not probe.exists()
    assert not os.path.lexists(helper)
    os.unlink(of_others)
    assert unknown.exists() and filled.exists() and foreign.exists()
    assert str(gone) not in "\n".join(web.content())
    unknown.unlink()
    assert [seen(path) for path in active] == truth

    record = asyncio.run(hypervisor.start_helper(hypervisor.helper_socket(done)))
    try:
        assert severities(found(inside, "--fix")) == {"left_helper": "warning"}
    finally:
        asyncio.run(hypervisor.end_helper(record.socket, record))
    fences_are_told_apart(web, inside, done, active[0])


def users_bitmaps_and_the_catalog(web: Cli, inside: Inside) -> None:
    """What is not in the images' links; undone again."""
    top = web.folder / "vda.s2"
    qemu_img("bitmap", "--add", "-f", "qcow2", top, "daily")
    with opened(top) as user:
        told = found(inside)
        assert set(told) == {"image_in_use vda.s2"}
        user.kill()
        user.wait()
    told = found(inside)
    assert severities(told) == {"inconsistent_bitmap vda.s2": "warning"}
    command = told["inconsistent_bitmap vda.s2"]["remedy"].split("`")[1]
    subprocess.run(command, shell=True, check=True)

    other = web.folder / "vdb.s1"
    sql(
        web,
        "update snapshots set status = 'invalid', reason = 'because' where name = 's1'",
        f"insert into kept_images values ('{other}', 'web', 'vdb')",
    )
    told = found(inside)
    assert severities(told) == {
        "invalid_snapshot": "warning",
        "kept_image vdb.s1": "note",
    }
    assert told["invalid_snapshot"]["snapshot"] == "s1"
    sql(web, "update snapshots set status = 'valid', reason = null where name = 's1'")
    sql(web, "delete from kept_images")

    with socket.socket(socket.AF_UNIX) as silent:
        path = web.folder / "m"
        silent.bind(str(path))
        silent.listen()
        sql(web, f"update domains set monitor = '{path}'")
        assert set(found(inside)) == {"monitor_busy"}
    sql(web, "update domains set monitor = null")

    sql(
        web,
        "insert into deletions (id, domain, snapshot, state, options, started)"
        " values ('00000000000c', 'web', 's1', 'validate', '{}', '1')",
    )
    odd = web.folder / "odd.backfold-new"
    odd.touch()  # While a run is open, nothing else is judged.
    assert set(found(inside, "--fix")) == {"deletion_open"}
    odd.unlink()
    sql(web, "delete from deletions")


def fences_are_told_apart(web: Cli, inside: Inside, done: str, top: Path) -> None:
    """No fence is ever removed; a superseded one is of an image that is not ours."""
    sql(
        web,
        ENDED.format(run="00000000000b", domain="web", state="rolled_back"),
    )
    for name in (
        f"vdx.s2.backfold-{done}",
        f"{top.name}.backfold-00000000000b",
        f"{top.name}.backfold-{NOBODY}",
        f"unrelated.backfold-{NOBODY}",
    ):
        (web.folder / name).write_bytes(top.read_bytes())
    before = digests(web.folder)

    told = found(inside, "--fix")
    assert severities(told) == {
        f"superseded_image vdx.s2.backfold-{done}": "note",
        f"left_fence {top.name}.backfold-00000000000b": "error",
        f"unknown_fence {top.name}.backfold-{NOBODY}": "error",
    }
    assert digests(web.folder) == before
