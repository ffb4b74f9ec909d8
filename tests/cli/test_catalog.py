"""Domains and snapshots, as an operator and as a program see them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from backfold.engine.demo.guest import qemu_img
from backfold.engine.demo.machine import Machine
from cli.command import Cli, disks
from cli.conftest import Inside


def test_a_domain_is_added_shown_and_forgotten(cli: Cli, inside: Inside) -> None:
    folder = cli.folder / "a folder, with a comma"
    folder.mkdir()
    base, top = folder / "base.img", folder / "top.qcow2"
    base.write_bytes(bytes(1 << 20))
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
    added = cli.json(
        "domain", "domain", "add", "web", *disks({"vda": top}), "--monitor", "mon.sock"
    )
    shown = inside.json("domain", "domain", "show", "web")
    listed = inside.json("domain-list", "domain", "list")

    assert added == shown
    assert shown["monitor"] == str(cli.folder / "mon.sock")
    assert shown["disks"] == [
        {
            "target": "vda",
            "source": str(top),
            "format": "qcow2",
            "chain": [str(top), str(base)],
            "broken": None,
        }
    ]
    assert [domain["name"] for domain in listed["domains"]] == ["web"]

    base.unlink()
    (disk,) = inside.json("domain", "domain", "show", "web")["disks"]
    assert disk["broken"]["code"] == "missing_image"
    refused = inside.json("error", "domain", "args", "web", status=3)["error"]
    assert [reason["disk"] for reason in refused["reasons"]] == ["vda"]

    inside.json("domain-remove", "domain", "remove", "web", "--yes")
    assert inside.json("domain-list", "domain", "list")["domains"] == []
    assert top.exists()


def test_a_domain_boots_with_the_arguments(web: Cli, inside: Inside) -> None:
    inside("snapshot", "create", "web", "s1")
    done = web.run("domain", "args", "web")
    fields = inside.json("domain-args", "domain", "args", "web")
    files = [json.loads(text)["filename"] for text in fields["arguments"][1::4]]

    assert shlex.split(done.stdout) == fields["arguments"]
    assert files == [str(web.folder / f"{target}.s1") for target in ("vda", "vdb")]
    assert fields["devices"] == [
        {"target": "vda", "node": "vda"},
        {"target": "vdb", "node": "vdb"},
    ]
    assert done.stderr.splitlines() == [
        "# vda: -device virtio-blk-pci,drive=vda",
        "# vdb: -device virtio-blk-pci,drive=vdb",
    ]

    # The machine of the tests brings a disk of its own to boot from.
    qemu_img("create", "-q", "-f", "qcow2", web.folder / "own.qcow2", "16M")
    own = [("own", web.folder / "own.qcow2", "qcow2")]
    hints = [line.split(": ", 1)[1] for line in done.stderr.splitlines()]
    booted = Machine(
        web.folder,
        own,
        extra_args=[*fields["arguments"], *shlex.split(" ".join(hints))],
    )
    with booted:
        names = {node["node-name"] for node in booted.qmp("query-named-block-nodes")}
        assert {"vda", "vda-file", "vdb", "vdb-file"} <= names
        # A domain that runs and whose monitor was not recorded is in use.
        refused = inside.json("error", "plan", "web", "s1", status=4)["error"]
        assert {r["code"] for r in refused["reasons"]} == {"image_in_use"}


def test_node_names_are_what_qemu_takes(cli: Cli, inside: Inside) -> None:
    targets = ["0", "a:b", "a@b", "x" * 100, "x" * 99 + "y", "a-b-file"]
    images: list[tuple[str, Path]] = []
    for number, target in enumerate(targets):
        images.append((target, cli.folder / f"{number}.qcow2"))
        qemu_img("create", "-q", "-f", "qcow2", images[-1][1], "1M")
    inside("domain", "add", "odd", *disks(images))
    options = shlex.split(inside("domain", "args", "odd").out)[1::2]
    names = [json.loads(option)["node-name"] for option in options]

    assert len(set(names)) == 2 * len(targets)
    for name in names:
        assert name[0].isalpha()
        assert len(name) < 32
        assert set(name) <= set("abxyfile-disk012345")


def test_snapshots_are_listed_parents_first(web: Cli, inside: Inside) -> None:
    first = inside.json("snapshot", "snapshot", "create", "web", "s1")
    other = web.folder / "other.qcow2"
    own = ["--overlay", f"vdb={other}", "--exclude", "vda"]
    second = inside.json("snapshot", "snapshot", "create", "web", "s2", *own)
    listed = web.json("snapshot-list", "snapshot", "list", "web")["snapshots"]
    shown = inside.json("snapshot", "snapshot", "show", "web", "s1")
    text = inside("snapshot", "list", "web").out.splitlines()

    assert [snapshot["name"] for snapshot in listed] == ["s1", "s2"]
    assert (first["parent"], second["parent"]) == (None, "s1")
    assert (shown["children"], shown["current"]) == (["s2"], False)
    assert [disk["target"] for disk in second["disks"]] == ["vdb"]
    assert second["disks"][0]["frozen"] == str(web.folder / "vdb.s1")
    assert other.exists()
    assert [line[:6].rstrip() for line in text[1:]] == ["s1", "│", "└─ s2"]
    assert text[1].split()[-4:] == ["vda", "196.0", "KiB", "vda.qcow2"]
    assert text[3].split()[-1] == "vdb.s1"

    again = inside.json("error", "snapshot", "create", "web", "s1", status=3)["error"]
    assert "snapshot_exists" in {reason["code"] for reason in again["reasons"]}


def test_a_memory_file_is_shown_with_its_snapshot(web: Cli, inside: Inside) -> None:
    memory = web.folder / "s1.mem"
    args = ["snapshot", "create", "web", "s1", "--memory", "s1.mem"]
    args += ["--exclude", "vda", "--exclude", "vdb"]
    refused = inside.json("error", *args, status=3)["error"]
    assert [reason["code"] for reason in refused["reasons"]] == ["memory_file"]
    memory.write_bytes(b"QEVM")

    created = web.json("snapshot", *args)
    inside("snapshot", "create", "web", "s2")
    (first, second) = inside.json("snapshot-list", "snapshot", "list", "web")[
        "snapshots"
    ]
    shown = inside("snapshot", "show", "web", "s1").out.splitlines()
    listed = inside("snapshot", "list", "web").out.splitlines()

    assert (created["disks"], created["memory"]) == ([], str(memory))
    assert (first["memory"], second["memory"]) == (str(memory), None)
    assert shown[-1].split() == ["memory", str(memory)]
    assert listed[1].split()[-4:] == ["memory", "4.0", "KiB", "s1.mem"]

    planned = inside.json("plan", "plan", "web", "s1")
    assert (planned["disks"], planned["removed"]) == ([], [str(memory)])
    assert f"  {memory}\n" in inside("plan", "web", "s1").out
    kept = inside.json("plan", "plan", "web", "s1", "--metadata-only")
    assert kept["removed"] == []


def test_disks_come_and_go(web: Cli, inside: Inside) -> None:
    image = web.folder / "more,disks.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", image, "1M")
    raw = web.folder / "raw.img"
    raw.write_bytes(bytes(1 << 20))
    inside("snapshot", "create", "web", "s1")
    typed = f"vdc={image}".replace(",", ",,")
    added = inside.json("domain", "domain", "attach", "web", typed)
    error = inside.json("error", "domain", "attach", "web", f"vdd={raw}", status=3)
    lost = inside.json("domain", "domain", "detach", "web", "vda")

    assert [disk["target"] for disk in added["disks"]] == ["vda", "vdb", "vdc"]
    assert added["disks"][2]["chain"] == [str(image)]
    assert "vdd=PATH,format=raw" in error["error"]["reasons"][0]["remedy"]
    assert [disk["target"] for disk in lost["disks"]] == ["vdb", "vdc"]
    shown = inside.json("snapshot", "snapshot", "show", "web", "s1")
    assert [disk["target"] for disk in shown["disks"]] == ["vdb", "vda"]
    assert "vda" in inside("snapshot", "show", "web", "s1").out
    for order in (
        ["attach", "web", typed],
        ["attach", "web", "x"],
        ["detach", "web", "vda"],
    ):
        inside.json("error", "domain", *order, status=2)


def test_a_plan_says_what_happens_to_each_disk(web: Cli, inside: Inside) -> None:
    inside("snapshot", "create", "web", "s1")
    inside("snapshot", "create", "web", "s2", "--exclude", "vdb")
    before = web.content()
    plan = inside.json("plan", "plan", "web", "s1")
    text = inside("plan", "web", "s1").out
    names = {target: web.folder / f"{target}.s1" for target in ("vda", "vdb")}

    assert [disk["target"] for disk in plan["disks"]] == ["vda", "vdb"]
    assert [disk["active"] for disk in plan["disks"]] == [False, True]
    assert plan["disks"][0]["above"] == str(web.folder / "vda.s2")
    assert plan["removed"] == [str(path) for path in names.values()]
    assert [disk["undo"] for disk in plan["disks"]] == [
        "the domain stays as it is, but s1 cannot be reverted to any more"
    ] * 2
    assert [disk["guest"] for disk in plan["disks"]] == ["is off"] * 2
    assert all(disk["free"] > disk["space"] for disk in plan["disks"])
    assert [
        (image["snapshots"], image["active"], image["becomes"])
        for image in plan["images"]
        if image["target"] == "vda"
    ] == [
        (["s1"], False, "survivor"),
        (["s2"], False, "superseded"),
        ([], True, "same"),
    ]
    assert str(web.folder) in plan["searched"]
    for lines in (
        """\
  before   vda.qcow2        s1
           └─ vda.s1        s2
              └─ vda.s2     active
  after    vda.qcow2     s2
           └─ vda.s2     active
""",
        f"Removed afterwards:\n  {names['vda']}\n  {names['vdb']}\n",
        f"based on them\n    {web.folder}\n",
        "no snapshot made",
    ):
        assert " ".join(lines.split()) in " ".join(text.split())
    assert web.content() == before

    unknown = inside.json("error", "plan", "web", "s9", status=3)["error"]
    assert [reason["code"] for reason in unknown["reasons"]] == ["unknown_snapshot"]
