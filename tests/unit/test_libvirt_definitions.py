"""Which images libvirt's definitions name, whatever the definitions look like."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from backfold.engine import libvirt
from backfold.engine.libvirt import managed_images
from backfold.journal.model import FileId

DOMAIN = """<domain type='kvm'>
  <name>{name}</name>
  <metadata><name>not this</name><source file='{folder}/metadata'/></metadata>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{folder}/active' index='2'/>
      <backingStore type='file'>
        <format type='qcow2'/>
        <source file='{folder}/base &amp; co'/>
        <backingStore/>
      </backingStore>
      <mirror type='file' file='{folder}/mirror'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <disk type='block'><source dev='{folder}/block'/><target dev='vdb'/></disk>
    <disk type='network'><source protocol='nbd' name='x'/><target dev='vdc'/></disk>
    <disk type='file' device='cdrom'><target dev='sda'/></disk>
    <disk type='file'><source file='{folder}/missing'/><target dev='vdd'/></disk>
    <disk type='file'><source file='{folder}/{long}'/><target dev='vde'/></disk>
    <filesystem><source dir='{folder}' file='{folder}/other'/></filesystem>
  </devices>
</domain>
"""
USED = ("active", "base & co", "mirror", "block")
BOMB = """<?xml version='1.0'?>
<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>
<!ENTITY c '&b;&b;&b;&b;&b;&b;&b;&b;'><!ENTITY e SYSTEM 'file:///etc/passwd'>]>
<domain><name>&c;&e;</name>
<devices><disk><source file='{folder}/active'/></disk></devices></domain>"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*USED, "other", "metadata"):
        (tmp_path / name).touch()
    (tmp_path / "qemu").mkdir()
    return tmp_path


def define(folder: Path, text: str = DOMAIN, name: str = "web") -> Path:
    path = folder / "qemu" / f"{name}.xml"
    filled = text.format(name=name, folder=folder, long="x" * 5000)
    path.write_text(filled)
    return path


def file_of(path: Path) -> FileId:
    found = os.stat(path)
    return FileId(found.st_dev, found.st_ino)


def test_every_image_of_every_disk(folder: Path) -> None:
    path = define(folder)

    found = managed_images([folder / "qemu"])

    assert found == {file_of(folder / n): f"domain web ({path})" for n in USED}


def test_status_of_a_running_domain(folder: Path) -> None:
    status = "<domstatus state='running'><monitor path='x'/>" + DOMAIN + "</domstatus>"
    path = define(folder, status)

    found = managed_images([folder / "qemu"])

    assert found[file_of(folder / "base & co")] == f"domain web ({path})"


def test_images_are_known_by_inode(folder: Path) -> None:
    define(folder)
    os.rename(folder / "active", folder / "elsewhere")
    (folder / "active").symlink_to("elsewhere")

    found = managed_images([folder / "qemu"])

    assert file_of(folder / "elsewhere") in found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<domain>",
        "no XML",
        "<domain><devices><disk><source file='{folder}/active'/></disk>",
        "\0\1\2",
        BOMB,
        "<!DOCTYPE x><domain/>",
        "<domain><name>&undefined;</name></domain>",
    ],
)
def test_damaged_and_hostile_definitions_are_skipped(folder: Path, text: str) -> None:
    bad = define(folder, text, name="bad")
    good = define(folder, name="good")

    with capture_logs() as logs:
        found = managed_images([folder / "qemu"])

    assert set(found.values()) == {f"domain good ({good})"}
    assert [(e["event"], e["log_level"], e["path"]) for e in logs] == [
        ("libvirt.definition_skipped", "warning", str(bad))
    ]


def test_bomb_in_another_encoding(folder: Path) -> None:
    path = folder / "qemu/bomb.xml"
    path.write_bytes(BOMB.format(folder=folder).encode("utf-16"))

    with capture_logs() as logs:
        found = managed_images([folder / "qemu"])

    assert found == {}
    assert "document type" in logs[0]["error"]


def test_pipes_folders_and_giants_are_skipped(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libvirt, "DEFINITION_BYTES", 100)
    define(folder)
    os.mkfifo(folder / "qemu/pipe.xml")
    (folder / "qemu/folder.xml").mkdir()
    (folder / "qemu/dangling.xml").symlink_to("nowhere")

    with capture_logs() as logs:
        found = managed_images([folder / "qemu"])

    assert found == {}
    assert len(logs) == 4


def test_host_without_libvirt(folder: Path) -> None:
    with capture_logs() as logs:
        assert managed_images([folder / "none", folder / "active"]) == {}

    assert logs == []


def test_session_of_this_user(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    (folder / "config/libvirt").mkdir(parents=True)
    (folder / "config/libvirt/qemu").symlink_to(folder / "qemu")
    define(folder)

    assert file_of(folder / "active") in managed_images()


def test_domain_without_a_name(folder: Path) -> None:
    text = "<domain><devices><disk><source file='{folder}/active'/></disk></devices>"
    path = define(folder, text + "</domain>")

    found = managed_images([folder / "qemu"])

    assert found == {file_of(folder / "active"): f"domain without a name ({path})"}
