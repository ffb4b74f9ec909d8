"""Every reason to refuse: found by the command line, all at once, nothing changed.

Images are compared byte for byte, QEMU by its nodes and jobs, the catalog by its rows.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.demo.guest import qemu_img
from backfold.engine.images import QemuImages
from backfold.journal.errors import Interrupted, Reason, Refused, RolledBack
from backfold.journal.model import FileId
from real.scene import DOMAIN, At, Scene, play

#: Codes of reasons that are about the domain as a whole, not about one disk.
WITHOUT_DISK = {
    "unknown_domain",
    "unknown_snapshot",
    "monitor_busy",
    "deletion_open",
    "creation_open",
    "unsafe_run_state",
    "snapshot_exists",
}
SOMEBODY_ELSE = {"image_in_use", "monitor_busy"}
PROGRAM = (sys.executable, "-m", "backfold")
DELETE = ("delete", DOMAIN, "s2", "--yes", "--strategy", "commit")


def off(folder: Path, disks: int = 1, **options: Any) -> Scene:
    """A domain that is off."""
    return Scene(folder, disks=disks, power="off", **options)


def still(folder: Path, **options: Any) -> Scene:
    """A domain whose QEMU runs, but not its guest: nothing changes by itself."""
    scene = Scene(folder, **options)
    scene.machine.paused = True
    return scene


async def take_two(scene: Scene) -> None:
    await scene.take("s1")
    await scene.take("s2")


async def image(scene: Scene, target: str, depth: int) -> Path:
    """An image of a chain; 0 is the active one."""
    disk = next(disk for disk in await scene.disks() if disk.target == target)
    return Path(disk.chain[depth])


def everything(scene: Scene) -> dict[str, object]:
    """All that a refusal must not change."""
    seen: dict[str, object] = {
        "images": scene.fingerprints(),
        "times": {str(path): path.stat().st_mtime_ns for path in scene.images()},
        "catalog": scene.catalog(),
        "open": scene.open_runs(),
    }
    if scene.is_started():
        seen["nodes"] = scene.machine.qmp("query-named-block-nodes")
        seen["graph"] = scene.machine.qmp("x-debug-query-block-graph")
        seen["jobs"] = scene.machine.qmp("query-jobs")
        seen["state"] = scene.machine.qmp("query-status")
    return seen


def backfold(scene: Scene, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run the command line; returns its exit status and the objects it printed."""
    ended = subprocess.run(
        [*PROGRAM, "--journal", str(scene.journal), "--json", *arguments],
        env={**os.environ, "XDG_CONFIG_HOME": str(scene.folder / "config")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()]


def assert_told(reasons: list[dict[str, Any]], codes: set[str]) -> None:
    """Exactly these codes, each with its disk, a message and a remedy."""
    assert {reason["code"] for reason in reasons} == codes, reasons
    for reason in reasons:
        assert reason["message"] and reason["remedy"], reason
        if reason["code"] != "foreign_job":
            assert (reason["disk"] is None) == (reason["code"] in WITHOUT_DISK), reason


def refused(
    scene: Scene, *codes: str, command: tuple[str, ...] = DELETE
) -> list[dict[str, Any]]:
    """The command is refused for exactly these reasons, and nothing changes."""
    before = everything(scene)
    status, lines = backfold(scene, *command)
    assert everything(scene) == before
    last = lines[-1]
    reasons: list[dict[str, Any]] = (
        last["reasons"] if "reasons" in last else last["error"]["reasons"]
    )
    assert_told(reasons, set(codes))
    assert status == (4 if set(codes) & SOMEBODY_ELSE else 3)
    return reasons


def sql(scene: Scene, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(scene.journal)) as db, db:
        db.execute(statement, values)


# Domain and snapshot


@pytest.mark.parametrize("command", ["delete", "plan"])
def test_unknown_names(tmp_path: Path, command: str) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            yes = ("--yes",) if command == "delete" else ()
            refused(scene, "unknown_domain", command=(command, "db", "s1", *yes))
            refused(scene, "unknown_snapshot", command=(command, DOMAIN, "s9", *yes))
            assert scene.rows("deletions") == []

    play(story())


# One reason each, found with the domain off


async def rename_base(scene: Scene) -> set[str]:
    base = await image(scene, "vda", 2)
    base.rename(base.with_suffix(".away"))
    return {"missing_image"}


async def remove_active(scene: Scene) -> set[str]:
    (await image(scene, "vda", 0)).unlink()
    return {"missing_image"}


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


async def destroy_magic(scene: Scene) -> set[str]:
    patch(await image(scene, "vda", 1), 0, b"\0\0\0\0")
    return {"corrupt_image"}


async def mark_corrupt(scene: Scene) -> set[str]:
    patch(await image(scene, "vda", 0), 72, struct.pack(">Q", 2))
    return {"corrupt_image"}


async def empty_file(scene: Scene) -> set[str]:
    os.truncate(await image(scene, "vda", 2), 0)
    return {"corrupt_image"}


async def unaligned_table(scene: Scene) -> set[str]:
    path = await image(scene, "vda", 0)
    with path.open("rb") as file:
        (table,) = struct.unpack(">Q", file.read(48)[40:48])
    patch(path, table, struct.pack(">Q", 1 << 63 | 512))
    return {"corrupt_image"}


async def loop(scene: Scene) -> set[str]:
    base, top = await image(scene, "vda", 2), await image(scene, "vda", 0)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", top, "-F", "qcow2", base)
    return {"corrupt_image"}


async def overlay_of_base(scene: Scene) -> set[str]:
    base = await image(scene, "vda", 1)
    other = scene.images_folder / "clone.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base.name, "-F", "qcow2", other)
    return {"foreign_user_of_base"}


async def overlay_of_active(scene: Scene) -> set[str]:
    active = await image(scene, "vda", 0)
    other = scene.images_folder / "clone.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", active, "-F", "qcow2", other)
    return {"foreign_user_of_base"}


async def internal_in_base(scene: Scene) -> set[str]:
    qemu_img("snapshot", "-c", "inside", await image(scene, "vda", 1))
    return {"internal_snapshot"}


async def internal_in_top(scene: Scene) -> set[str]:
    qemu_img("snapshot", "-c", "inside", await image(scene, "vda", 0))
    return {"internal_snapshot"}


async def smaller_overlay(scene: Scene) -> set[str]:
    active = await image(scene, "vda", 0)
    qemu_img("resize", "-q", "-f", "qcow2", "--shrink", active, "8M")
    return {"size_differs"}


async def second_name(scene: Scene) -> set[str]:
    os.link(await image(scene, "vda", 0), scene.folder / "second-name")
    return {"fence_impossible"}


async def defined_in_libvirt(scene: Scene) -> set[str]:
    folder = scene.folder / "config/libvirt/qemu"
    folder.mkdir(parents=True)
    path = await image(scene, "vda", 0)
    (folder / "web.xml").write_text(
        "<domain type='kvm'><name>web</name><devices><disk type='file' device='disk'>"
        f"<source file='{path}'/><target dev='vda'/></disk></devices></domain>"
    )
    return {"managed_by_libvirt"}


async def skipped_in_header(scene: Scene) -> set[str]:
    base, active = await image(scene, "vda", 2), await image(scene, "vda", 0)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", base, "-F", "qcow2", active)
    # The frozen image has lost its only dependent, the lower one has two.
    return {"chain_differs"}


async def inserted_overlay(scene: Scene) -> set[str]:
    frozen, active = await image(scene, "vda", 1), await image(scene, "vda", 0)
    between = scene.images_folder / "between.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", frozen, "-F", "qcow2", between)
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", between, "-F", "qcow2", active)
    return {"chain_differs"}


async def backing_without_format(scene: Scene) -> set[str]:
    active = await image(scene, "vda", 0)
    data = active.read_bytes()
    at = data.index(struct.pack(">I", 0xE2792ACA))
    patch(active, at, struct.pack(">I", 0x12345678))
    return {"unsupported_image"}


async def backing_by_json(scene: Scene) -> set[str]:
    active, frozen = await image(scene, "vda", 0), await image(scene, "vda", 1)
    name = "json:" + json.dumps({"driver": "qcow2", "file.filename": str(frozen)})
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", name, "-F", "qcow2", active)
    return {"unsupported_image"}


async def backing_over_network(scene: Scene) -> set[str]:
    active = await image(scene, "vda", 0)
    name = "nbd://127.0.0.1:1/x"
    qemu_img("rebase", "-u", "-f", "qcow2", "-b", name, "-F", "raw", active)
    return {"unsupported_image"}


async def external_data(scene: Scene) -> set[str]:
    active, frozen = await image(scene, "vda", 0), await image(scene, "vda", 1)
    active.unlink()
    data = scene.folder / "data"
    options = ["-o", f"data_file={data}", "-b", str(frozen), "-F", "qcow2"]
    qemu_img("create", "-q", "-f", "qcow2", *options, active)
    return {"unsupported_image"}


@pytest.mark.parametrize(
    "spoil",
    [
        rename_base,
        remove_active,
        destroy_magic,
        mark_corrupt,
        empty_file,
        unaligned_table,
        loop,
        overlay_of_base,
        overlay_of_active,
        internal_in_base,
        internal_in_top,
        smaller_overlay,
        second_name,
        defined_in_libvirt,
        skipped_in_header,
        inserted_overlay,
        backing_without_format,
        backing_by_json,
        backing_over_network,
        external_data,
    ],
    ids=lambda spoil: str(spoil.__name__),
)
def test_one_reason(tmp_path: Path, spoil: Callable[[Scene], Any]) -> None:
    async def story() -> None:
        # The second disk is sound, so that reasons must name the right one.
        async with off(tmp_path, disks=2) as scene:
            await take_two(scene)
            codes = await spoil(scene)
            reasons = refused(scene, *codes)
            assert {reason["disk"] for reason in reasons} == {"vda"}
            ((state, finished),) = scene.rows("deletions", "state, finished")
            assert (state, finished is None) == ("refused", False)

    play(story())


def test_libvirt_can_be_overruled(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            await defined_in_libvirt(scene)
            status, lines = backfold(scene, *DELETE, "--ignore-libvirt")
            assert (status, lines[-1]["state"]) == (0, "completed")
            await scene.verify()

    play(story())


class FullDisk(QemuImages):
    """Images on a file system with hardly any room."""

    async def free_bytes(
        self, path: str, format: str, secret: str | None = None
    ) -> tuple[int, int]:
        return 1 << 16, (await super().free_bytes(path, format))[1]


def test_no_space(tmp_path: Path) -> None:
    async def story() -> None:
        async with Scene(tmp_path, disks=2) as scene:
            await take_two(scene)
            await scene.write(40)
            scene.machine.quit()
            before = everything(scene)
            async with scene.new_engine(images=FullDisk()) as engine:
                for refuse in (engine.delete, engine.plan):
                    with pytest.raises(Refused) as caught:
                        await refuse(DOMAIN, "s2")
                    assert caught.value.exit_status == 3
                    reasons = [r.as_json() for r in caught.value.reasons]
                    assert_told(reasons, {"no_space"})
                    assert [r["disk"] for r in reasons] == ["vda", "vdb"]
                    assert everything(scene) == before

    play(story())


def test_manager_of_an_embedder(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            status = (await image(scene, "vda", 2)).stat()
            file = FileId(status.st_dev, status.st_ino)

            def managed() -> Mapping[FileId, str]:
                return {file: "the farm"}

            async with scene.new_engine(managed=managed) as engine:
                with pytest.raises(Refused, match="the farm"):
                    await engine.delete(DOMAIN, "s1")
                done = await engine.delete(DOMAIN, "s1", ignore_libvirt=True)
            assert done.state == "completed"

    play(story())


# Somebody else has the domain


def test_image_in_use_by_a_domain_without_monitor(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path, monitored=False) as scene:
            await take_two(scene)
            scene.machine.paused = True
            await scene.boot()
            refused(scene, "image_in_use")
            refused(scene, "image_in_use", command=("delete", DOMAIN, "s1", "--yes"))

    play(story())


@contextmanager
def qemu_io(path: Path) -> Iterator[None]:
    """A tool that has an image open for writing."""
    with subprocess.Popen(
        ["qemu-io", "-f", "qcow2", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as tool:
        assert tool.stdout is not None
        tool.stdout.read(len("qemu-io> "))
        yield
        tool.kill()


@pytest.mark.parametrize("depth", [0, 1])
def test_image_in_use_by_another_tool(tmp_path: Path, depth: int) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            path = await image(scene, "vda", depth)
            with qemu_io(path):
                refused(scene, "image_in_use")

    play(story())


def test_monitor_busy(tmp_path: Path) -> None:
    async def story() -> None:
        async with still(tmp_path) as scene:
            await take_two(scene)
            with socket.socket(socket.AF_UNIX) as other:
                other.connect(str(scene.machine.monitor))
                assert b"QMP" in other.recv(1000)
                refused(scene, "monitor_busy")

    play(story())


# What a living QEMU says


def test_foreign_job(tmp_path: Path) -> None:
    async def story() -> None:
        async with still(tmp_path) as scene:
            await take_two(scene)
            scene.machine.qmp(
                "drive-backup",
                **{
                    "job-id": "nightly",
                    "device": "drive-vda",
                    "target": str(scene.folder / "backup.qcow2"),
                    "format": "qcow2",
                    "sync": "full",
                    "auto-finalize": False,
                    "auto-dismiss": False,
                },
            )
            for _ in range(200):
                if scene.machine.qmp("query-jobs")[0]["status"] == "pending":
                    break
                await asyncio.sleep(0.05)
            (reason,) = refused(scene, "foreign_job")
            assert "nightly" in reason["message"]

    play(story())


def test_foreign_export(tmp_path: Path) -> None:
    async def story() -> None:
        async with still(tmp_path, style="blockdev") as scene:
            await take_two(scene)
            await scene.restart()
            listen = {"type": "unix", "path": str(scene.machine.monitor) + ".nbd"}
            scene.machine.qmp(
                "nbd-server-start",
                addr={"type": "unix", "data": {"path": listen["path"]}},
            )
            scene.machine.qmp(
                "block-export-add", type="nbd", id="e", **{"node-name": "vda-0"}
            )
            (reason,) = refused(scene, "foreign_job")
            assert reason["disk"] == "vda"

    play(story())


def test_snapshot_taken_behind_our_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with still(tmp_path) as scene:
            await take_two(scene)
            scene.machine.qmp(
                "blockdev-snapshot-sync",
                **{
                    "device": "drive-vda",
                    "snapshot-file": str(scene.images_folder / "manual.qcow2"),
                },
            )
            # The new overlay is also one more user of the image below.
            refused(scene, "chain_differs", "foreign_user_of_base")

    play(story())


def test_domain_booted_from_another_image(tmp_path: Path) -> None:
    async def story() -> None:
        async with still(tmp_path, disks=2) as scene:
            await take_two(scene)
            scene.machine.quit()
            other = scene.images_folder / "other.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", other, "16M")
            vdb = await image(scene, "vdb", 0)
            scene.machine.disks = [("vda", other, "qcow2"), ("vdb", vdb, "qcow2")]
            scene.machine.start()
            (reason,) = refused(scene, "chain_differs")
            assert reason["disk"] == "vda"

    play(story())


def test_unsafe_run_state(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            scene.machine.extra_args = ["-incoming", "defer"]
            await scene.boot()
            assert scene.run_state() == "inmigrate"
            refused(scene, "unsafe_run_state")

    play(story())


# Open runs


def test_deletion_open(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            tasks: list[asyncio.Task[Any]] = []
            await scene.with_probe(
                At("commit_per_disk.proceed.noted", lambda: tasks[0].cancel())
            )
            tasks.append(asyncio.create_task(scene.delete("s1")))
            with pytest.raises(Interrupted):
                await tasks[0]
            for name in ("s1", "s2"):
                refused(
                    scene, "deletion_open", command=("delete", DOMAIN, name, "--yes")
                )
            create = ("snapshot", "create", DOMAIN, "s3")
            status, lines = backfold(scene, *create)
            assert status in (3, 4)
            codes = {reason["code"] for reason in lines[-1]["error"]["reasons"]}
            assert "deletion_open" in codes
            with pytest.raises(Refused) as caught:
                await scene.engine.revert_images(DOMAIN, "s1")
            assert [r.code for r in caught.value.reasons] == ["invalid_snapshot"]
            status, _ = backfold(scene, "recover")
            assert status == 0
            await scene.verify()

    play(story())


class Died(BaseException):
    """The engine ends here."""


def test_creation_open(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)

            def die() -> None:
                raise Died

            probe = At("planned.make_overlays.done", die, machine="creation")
            await scene.with_probe(probe)
            with pytest.raises(Died):
                await scene.take("s3")
            # Its overlay is there already, which is one more user of the image.
            reasons = refused(scene, "creation_open", command=DELETE)
            assert "recover" in reasons[0]["remedy"]
            status, lines = backfold(scene, "recover")
            # The snapshot was not taken, and that is what the operator is told.
            assert (status, lines[-1]["state"]) == (5, "undone")
            assert (await scene.engine.delete(DOMAIN, "s2")).state == "completed"
            await scene.verify()

    play(story())


# Many reasons at once


def test_all_reasons_at_once(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path, disks=3) as scene:
            await take_two(scene)
            await internal_in_base(scene)
            await defined_in_libvirt(scene)
            vdb = await image(scene, "vdb", 1)
            clone = scene.images_folder / "clone.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", "-b", vdb, "-F", "qcow2", clone)
            vdc = await image(scene, "vdc", 2)
            vdc.rename(vdc.with_suffix(".away"))
            codes = (
                "internal_snapshot",
                "managed_by_libvirt",
                "foreign_user_of_base",
                "missing_image",
            )
            by_disk = {
                (reason["disk"], reason["code"]) for reason in refused(scene, *codes)
            }
            assert by_disk == {
                ("vda", "internal_snapshot"),
                ("vda", "managed_by_libvirt"),
                ("vdb", "foreign_user_of_base"),
                ("vdc", "missing_image"),
            }
            rows = scene.rows("deletions")
            refused(scene, *codes, command=("plan", DOMAIN, "s2"))
            assert scene.rows("deletions") == rows

    play(story())


def test_reasons_with_somebody_else_exit_4(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path, monitored=False) as scene:
            await take_two(scene)
            await internal_in_base(scene)
            await second_name(scene)
            scene.machine.paused = True
            await scene.boot()
            refused(scene, "image_in_use", "internal_snapshot", "fence_impossible")

    play(story())


# Creation


def test_creation_is_refused(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path, disks=2) as scene:
            await take_two(scene)
            create = ("snapshot", "create", DOMAIN)
            # The overlays that it would get by default are those of s1.
            refused(scene, "snapshot_exists", "overlay_exists", command=(*create, "s1"))
            taken = scene.images_folder / "taken"
            taken.write_text("somebody else's")
            place = ("--overlay", f"vda={taken}")
            (reason,) = refused(
                scene, "overlay_exists", command=(*create, "s3", *place)
            )
            assert reason["disk"] == "vda"
            await destroy_magic(scene)
            (await image(scene, "vdb", 0)).unlink()
            reasons = refused(
                scene,
                "snapshot_exists",
                "overlay_exists",
                "missing_image",
                command=(*create, "s1", *place),
            )
            assert len(reasons) == 3
            assert scene.rows("creations where finished is null") == []

    play(story())


def test_two_disks_cannot_share_an_overlay(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path, disks=2) as scene:
            new = scene.images_folder / "new"
            with pytest.raises(Refused) as caught:
                await scene.take("s1", overlays={"vda": str(new), "vdb": str(new)})
            assert {r.code for r in caught.value.reasons} == {"overlay_exists"}
            assert not new.exists()

    play(story())


def test_creation_with_an_image_in_use(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path, monitored=False) as scene:
            scene.machine.paused = True
            await scene.boot()
            refused(scene, "image_in_use", command=("snapshot", "create", DOMAIN, "s1"))

    play(story())


def test_creation_with_another_active_image(tmp_path: Path) -> None:
    async def story() -> None:
        async with still(tmp_path) as scene:
            scene.machine.qmp(
                "blockdev-snapshot-sync",
                **{
                    "device": "drive-vda",
                    "snapshot-file": str(scene.images_folder / "manual.qcow2"),
                },
            )
            refused(
                scene, "chain_differs", command=("snapshot", "create", DOMAIN, "s1")
            )

    play(story())


def test_revert_to_an_invalid_snapshot(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            sql(
                scene,
                "update snapshots set status = 'invalid', reason = 'written into'"
                " where name = 's1'",
            )
            with pytest.raises(Refused) as caught:
                await scene.engine.revert_images(DOMAIN, "s1")
            (reason,) = caught.value.reasons
            assert isinstance(reason, Reason)
            assert reason.code == "invalid_snapshot"
            assert reason.message and reason.remedy
            assert caught.value.exit_status == 3
            # It can be deleted all the same.
            status, lines = backfold(scene, "delete", DOMAIN, "s1", "--yes")
            assert (status, lines[-1]["state"]) == (0, "completed")
            await scene.verify()

    play(story())


# The world changes between the two looks


@pytest.mark.parametrize("place", ["validate.accept.noted", "prepare.proceed.noted"])
def test_reason_that_appears_later(tmp_path: Path, place: str) -> None:
    """A second name appears after the plan, or after the plan was stored."""

    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            overlay = await image(scene, "vda", 0)
            before = scene.fingerprints()
            second = scene.folder / "second-name"
            await scene.with_probe(At(place, lambda: os.link(overlay, second)))
            catalog = scene.catalog()
            if place == "validate.accept.noted":
                with pytest.raises(Refused) as caught:
                    await scene.delete("s2")
                assert [r.code for r in caught.value.reasons] == ["fence_impossible"]
                assert scene.catalog() == catalog
                assert scene.fingerprints() == before
            else:
                try:
                    await scene.delete("s2")
                except (RolledBack, Interrupted):
                    second.unlink()
                    await scene.engine.recover()
            second.unlink(missing_ok=True)
            await scene.verify(leaks=True)

    play(story())


class NoProbe(QemuImages):
    """Images in a folder where the fence turns out to be impossible."""

    async def probe_fence(self, path: str, run: str) -> None:
        from backfold.journal.errors import CommandFailed

        raise CommandFailed(f"{path} could not be renamed")


def test_probe_of_the_fence_fails(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            before = everything(scene)
            async with scene.new_engine(images=NoProbe()) as engine:
                with pytest.raises((Refused, RolledBack)):
                    await engine.delete(DOMAIN, "s2")
            assert everything(scene) == before

    play(story())


def test_deletion_that_was_left_before_its_plan_is_rolled_back(tmp_path: Path) -> None:
    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            before = everything(scene)
            tasks: list[asyncio.Task[Any]] = []
            await scene.with_probe(
                At("validate.accept.noted", lambda: tasks[0].cancel())
            )
            tasks.append(asyncio.create_task(scene.delete("s2")))
            with pytest.raises(Interrupted):
                await tasks[0]
            ((run, _),) = scene.open_runs()
            assert (await scene.engine.roll_back(run)).state == "rolled_back"
            assert everything(scene) == before

    play(story())


def test_monitor_that_is_no_monitor(tmp_path: Path) -> None:
    """Something else listens there: nothing is begun, nothing is left open."""

    async def story() -> None:
        async with off(tmp_path) as scene:
            await take_two(scene)
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(scene.machine.monitor))
                server.listen()

                async def answer(
                    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
                ) -> None:
                    writer.write(b"220 mail.example.org ESMTP\r\n")
                    await reader.read()
                    writer.close()

                async with await asyncio.start_unix_server(answer, sock=server):
                    status, lines = await asyncio.to_thread(backfold, scene, *DELETE)
            assert scene.open_runs() == []
            assert status in (1, 3, 4), lines

    play(story())
