"""The executable that rewrites a definition, as an operator records it."""

from __future__ import annotations

from pathlib import Path

from backfold.engine.demo.guest import qemu_img
from cli.command import Cli, disks
from cli.conftest import Inside

STRANGE = "a hook\x1b[31m"


def hook(folder: Path, text: str = "", name: str = "hook") -> Path:
    """An executable that does this, and succeeds if that is nothing."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_hook_is_recorded_changed_and_removed(web: Cli, inside: Inside) -> None:
    first, second = hook(web.folder), hook(web.folder, name=STRANGE)
    before = inside.json("domain", "domain", "show", "web")
    one = inside.json("domain", "domain", "hook", "web", str(first))
    two = inside("domain", "hook", "web", str(second)).out
    listed = inside.json("domain-list", "domain", "list")["domains"]
    shown = inside("domain", "list").out.splitlines()[1]
    none = inside.json("domain", "domain", "hook", "web", "--remove")

    assert before["hook"] is None and none == before
    assert one == {**before, "hook": str(first)}
    assert "hook     " in two and "\x1b" not in two + shown
    assert [domain["hook"] for domain in listed] == [str(second)]
    assert "hook     " not in inside("domain", "show", "web").out


def test_a_domain_is_added_with_a_hook(web: Cli, inside: Inside) -> None:
    program, image = hook(web.folder), web.folder / "vda.qcow2"
    inside("domain", "remove", "web", "--yes")
    order = ["domain", "add", "two", *disks({"vda": image}), "--hook"]
    refused = inside.json("error", *order, str(image), status=3)["error"]
    added = inside.json("domain", *order, str(program))

    assert [reason["code"] for reason in refused["reasons"]] == ["hook_unusable"]
    assert added["hook"] == str(program)


def test_orders_that_make_no_sense_change_nothing(web: Cli, inside: Inside) -> None:
    program = str(hook(web.folder))
    inside("domain", "hook", "web", program)
    neither = inside("domain", "hook", "web", status=2).err
    both = inside("domain", "hook", "web", program, "--remove", status=2).err
    unknown = inside("domain", "hook", "other", program, status=3).err
    missing = inside("domain", "hook", "web", "nowhere", status=3).err

    assert "--remove" in neither and "--remove" in both
    assert "unknown_domain" in unknown
    assert "No such file" in missing and "hook_unusable" in missing
    assert inside.json("domain", "domain", "show", "web")["hook"] == program


def test_a_hook_that_cannot_be_run_is_told_before_anything_begins(
    web: Cli, inside: Inside
) -> None:
    """Of what brings other images; not of what leaves them as they are."""
    program = hook(web.folder)
    inside("snapshot", "create", "web", "s1")
    inside("snapshot", "create", "web", "s2")
    inside("domain", "hook", "web", str(program))
    program.chmod(0o646)
    orders = (
        ("plan", "web", "s2", "--strategy", "commit"),
        ("snapshot", "create", "web", "s3"),
        ("snapshot", "revert", "web", "s1", "--discard", "--yes"),
    )
    for order in orders:
        error = inside.json("error", *order, status=3)["error"]
        assert [reason["code"] for reason in error["reasons"]] == ["hook_unusable"]
    inside("plan", "web", "s2", "--strategy", "stream")
    inside("plan", "web", "s1", "--strategy", "commit")


def test_what_a_hook_says_is_told_and_journaled(web: Cli, inside: Inside) -> None:
    """Nothing was changed: the snapshot is not taken, and the log says why."""
    program = hook(web.folder, "printf 'no \\033[31mroom\\n' >&2; exit 1")
    inside("domain", "hook", "web", str(program))
    said = inside("snapshot", "create", "web", "s1", status=5)

    assert "failed (exit status 1): no  [31mroom" in said.err.splitlines()[-3]
    assert "The domain is as before" in said.err
    assert inside.json("snapshot-list", "snapshot", "list", "web")["snapshots"] == []


def test_a_former_image_that_stays_is_not_left_to_a_hook(
    web: Cli, inside: Inside
) -> None:
    """If the hook failed, the definition would go on in it: a second truth."""
    inside("snapshot", "create", "web", "s1")
    former = inside.json("domain", "domain", "show", "web")["disks"][0]["source"]
    qemu_img("create", "-q", "-f", "qcow2", "-b", former, "-F", "qcow2", f"{former}.c")
    inside("domain", "hook", "web", str(hook(web.folder, "touch called")))
    order = ("snapshot", "revert", "web", "s1", "--discard", "--yes")
    before = sorted(web.folder.iterdir())

    error = inside.json("error", *order, status=3)["error"]

    (reason,) = error["reasons"]
    assert (reason["code"], reason["disk"]) == ("former_image_stays", "vda")
    assert former in reason["message"] and "--remove" in reason["remedy"]
    assert sorted(web.folder.iterdir()) == before
    inside("domain", "hook", "web", "--remove")
    inside(*order)
    shown = inside.json("domain", "domain", "show", "web")["disks"][0]
    assert shown["source"] != former and Path(former).exists()
