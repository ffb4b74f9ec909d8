"""Encrypted images: the key is in a file that only QEMU and qemu-img read.

Data is written and read back with the key, by qemu-io or by a QEMU whose guest never
runs; nothing of it, and nothing of the key, may be found anywhere in the open.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from backfold.engine.api import Engine
from backfold.engine.demo.guest import qemu_img
from backfold.engine.images import QemuImages
from backfold.engine.qemu_img import KEY_ATTEMPTS, NO_CLOCK, QemuImg
from backfold.engine.qmp.monitor import Monitor
from backfold.journal.errors import Refused
from backfold.journal.model import Disk
from real.scene import At, NoGuard, play

DOMAIN = "vault"
KEY = "correct horse battery staple"
MIB = 1 << 20
SIZE = 8 * MIB
#: A qemu-img that copies an encrypted image instead of making one, which takes seconds,
#: unless it is told to be real. The first time it fails as the real one does now and
#: then.
QUICK = """#!/bin/sh
case $* in
*encrypt.format=luks,*) ;;
*) exec qemu-img "$@" ;;
esac
if [ ! -e "$0.failed" ]; then
    touch "$0.failed"
    echo "qemu-img: x: Unable to get accurate CPU usage" >&2
    exit 1
fi
if [ -e "$0.real" ]; then
    for word do
        shift
        case $word in encrypt.format=luks,*) word=$word,encrypt.iter-time=10 ;; esac
        set -- "$@" "$word"
    done
    exec qemu-img "$@"
fi
# create -q -u -f qcow2 --object SECRET -o OPTIONS -b LINK -F FORMAT TARGET SIZE
cat "$0.image" >"${14}"
shift 5
exec qemu-img rebase -u "$1" "$2" "$5" "$6" "$7" "$8" 'json:{"driver": "qcow2",
"encrypt": {"format": "luks", "key-secret": "backfold-key"}, "backing": null,
"file": {"driver": "file", "filename": "'"$9"'"}}'
"""


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty encrypted image, to be copied: making one takes its time."""
    folder = tmp_path_factory.mktemp("encrypted")
    key = private(folder / "key", KEY)
    options = "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10"
    secret = f"secret,id=k,file={key}"
    image = folder / "image"
    words = ["--object", secret, "-o", options, str(image), str(SIZE)]
    for _ in range(KEY_ATTEMPTS):
        done = subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", *words],
            capture_output=True,
            text=True,
        )
        if NO_CLOCK not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return image


def private(path: Path, text: str) -> Path:
    """A secret file as it should be."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path


class Vault:
    """A domain with one encrypted disk, and its key in a file."""

    def __init__(self, folder: Path, image: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        self.base = self.images / "vault.qcow2"
        shutil.copy(image, self.base)
        self.key = private(folder / "key, with comma", KEY)
        self.secrets = {"vda": str(self.key)}
        self.quick = folder / "quick-qemu-img"
        self.quick.write_text(QUICK)
        self.quick.chmod(0o755)
        Path(f"{self.quick}.image").symlink_to(image)
        self.monitor, self.second = folder / "monitor", folder / "second"

    def engine(self, probe: Any = None) -> Engine:
        return Engine(
            self.folder / "journal" / "journal.db",
            images=QemuImages(QemuImg(str(self.quick))),
            probe=probe,
            guard=NoGuard(),
            managed=lambda: {},
            locks=self.folder / "locks",
        )

    async def record(self, engine: Engine) -> None:
        disk = Disk("vda", str(self.base), "qcow2")
        await engine.add_domain(DOMAIN, [disk], str(self.monitor))

    def overlay(self, snapshot: str) -> Path:
        return self.images / f"vault.{snapshot}"

    def node(self, *chain: Path) -> dict[str, Any]:
        """How QEMU is told to open a chain, the active image first."""
        node: dict[str, Any] = {
            "driver": "qcow2",
            "file": {"driver": "file", "filename": str(chain[0])},
            "encrypt": {"format": "luks", "key-secret": "k"},
        }
        node["backing"] = self.node(*chain[1:]) if chain[1:] else None
        return node

    @property
    def secret(self) -> str:
        return f"secret,id=k,file={str(self.key).replace(',', ',,')}"

    def io(self, *orders: str, chain: tuple[Path, ...]) -> None:
        """Write or verify; a pattern that is not there is an error."""
        words = [word for order in orders for word in ("-c", order)]
        name = "json:" + json.dumps(self.node(*chain))
        done = subprocess.run(
            ["qemu-io", "--object", self.secret, *words, name],
            capture_output=True,
            text=True,
        )
        said = done.stdout + done.stderr
        assert done.returncode == 0 and "failed" not in said, said

    def assert_nothing_is_in_the_open(self, *texts: str) -> None:
        """The key is in no file but its own, on no command line, and was not told."""
        for path in self.folder.rglob("*"):
            if path.is_file() and path != self.key:
                assert KEY.encode() not in path.read_bytes(), path
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                assert KEY.encode() not in (entry / "cmdline").read_bytes()
            except OSError:
                continue
        assert not any(KEY in text for text in texts)


@pytest.fixture
def vault(tmp_path: Path, encrypted: Path) -> Vault:
    return Vault(tmp_path, encrypted)


class Watch:
    """A probe that looks for the key at every moment of every step."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        self.vault.assert_nothing_is_in_the_open()


def test_off(vault: Vault) -> None:
    """Overlays are encrypted, and folded by a helper that has the key."""

    async def story() -> None:
        async with vault.engine(Watch(vault)) as engine:
            await vault.record(engine)
            base, one = vault.base, vault.overlay("s1")
            vault.io("write -P 1 0 2M", chain=(base,))
            await engine.create_snapshot(DOMAIN, "s1", secrets=vault.secrets)
            vault.io("write -P 9 0 3M", chain=(one, base))
            done = await engine.revert(
                DOMAIN, "s1", secrets=vault.secrets, discard=True
            )
            assert done.state == "reverted"
            (disk,) = await engine.disks(DOMAIN)
            one = Path(disk.source)
            vault.io("read -P 1 0 2M", "write -P 2 1M 2M", chain=(one, base))
            found = await engine.plan(DOMAIN, "s1", secrets=vault.secrets)
            assert found.folds[0].copy_bytes == 2 * MIB
            await engine.delete(DOMAIN, "s1", secrets=vault.secrets, strategy="commit")
            assert sorted(vault.images.iterdir()) == [base]
            vault.io("read -P 1 0 1M", "read -P 2 1M 2M", chain=(base,))

    with structlog.testing.capture_logs() as logs:
        play(story())
    vault.assert_nothing_is_in_the_open(str(logs))


def start(vault: Vault) -> subprocess.Popen[bytes]:
    """The domain's QEMU, whose guest never runs, with the disk in the open graph."""
    return subprocess.Popen(
        [
            *("qemu-system-x86_64", "-machine", "q35", "-S", "-nodefaults"),
            *("-display", "none", "-object", vault.secret),
            *("-qmp", f"unix:{vault.monitor},server=on,wait=off"),
            *("-qmp", f"unix:{vault.second},server=on,wait=off"),
            *("-blockdev", json.dumps({**vault.node(vault.base), "node-name": "d"})),
            *("-device", "virtio-blk-pci,drive=d,id=vda"),
        ]
    )


@pytest.fixture
def qemu(vault: Vault) -> Iterator[subprocess.Popen[bytes]]:
    process = start(vault)
    try:
        while not vault.second.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.wait()


async def human(vault: Vault, order: str) -> None:
    """`qemu-io` on the disk, inside of the living QEMU, as if it were the guest."""
    monitor = await Monitor.connect(str(vault.monitor))
    assert monitor is not None
    try:
        device = "/machine/peripheral/vda/virtio-backend"
        assert await monitor.human(f'qemu-io -d {device} "{order}"') == ""
    finally:
        await monitor.close()


class Dead(BaseException):
    """Raised in a probe: the engine does nothing more, as if it were dead."""


async def die_with_an_open_overlay(vault: Vault) -> None:
    """A creation that ends when QEMU has opened the overlay and not used it yet."""

    def die() -> None:
        node = {**vault.node(vault.overlay("s1")), "node-name": "half-way"}
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(str(vault.second))
            with second.makefile("rw") as wire:
                wire.readline()
                for order in (
                    {"execute": "qmp_capabilities"},
                    {"execute": "blockdev-add", "arguments": node},
                ):
                    wire.write(json.dumps(order))
                    wire.flush()
                    assert "error" not in json.loads(wire.readline())
        raise Dead

    probe = At("overlays_made.switch.announced", die, machine="creation")
    async with vault.engine(probe) as engine:
        with pytest.raises(Dead):
            await engine.create_snapshot(DOMAIN, "s1", secrets=vault.secrets)


def test_alive(vault: Vault, qemu: subprocess.Popen[bytes]) -> None:
    """A living QEMU opens the overlay with the key from the file, and folds it."""

    async def story() -> None:
        async with vault.engine(Watch(vault)) as engine:
            await vault.record(engine)
            await human(vault, "write -P 1 0 2M")
        await die_with_an_open_overlay(vault)
        Path(f"{vault.quick}.real").touch()
        async with vault.engine(Watch(vault)) as engine:
            (end,) = await engine.recover()
            assert not isinstance(end, Exception) and end.state == "undone"
            assert sorted(vault.images.iterdir()) == [vault.base]
            await engine.create_snapshot(DOMAIN, "s1", secrets=vault.secrets)
            header = await QemuImages().header(str(vault.overlay("s1")), "qcow2")
            assert header.encrypted
            await human(vault, "write -P 2 1M 2M")
            await engine.delete(DOMAIN, "s1", secrets=vault.secrets)
            await human(vault, "write -P 3 4M 1M")
            assert sorted(vault.images.iterdir()) == [vault.base]

    with structlog.testing.capture_logs() as logs:
        play(story())
    vault.assert_nothing_is_in_the_open(str(logs))
    qemu.terminate()
    qemu.wait()
    orders = ("read -P 1 0 1M", "read -P 2 1M 2M", "read -P 3 4M 1M")
    vault.io(*orders, chain=(vault.base,))


def planned(vault: Vault) -> str:
    """The strategy that the command line tells."""
    journal = vault.folder / "journal" / "journal.db"
    told = subprocess.run(
        [
            *(sys.executable, "-m", "backfold", "--json", "--journal", str(journal)),
            *("plan", DOMAIN, "s1", "--secret", f"vda={vault.key}"),
        ],
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr
    return str(json.loads(told.stdout)["disks"][0]["strategy"])


def test_refusals(vault: Vault) -> None:
    """No key, a wrong one, one that others can read; and nothing is changed."""

    async def refused(call: Any, code: str, **options: Any) -> None:
        with pytest.raises(Refused) as caught:
            await call(DOMAIN, "s1", **options)
        assert {r.code for r in caught.value.reasons} == {code}
        assert all(r.message and r.remedy for r in caught.value.reasons)

    async def story() -> None:
        wrong = private(vault.folder / "wrong", "another key")
        public = private(vault.folder / "public", KEY)
        public.chmod(0o640)
        async with vault.engine() as engine:
            await vault.record(engine)
            base, overlay = vault.base, vault.overlay("s1")
            for call in (engine.create_snapshot, engine.plan, engine.delete):
                before = base.read_bytes()
                await refused(call, "secret_needed")
                for path in (wrong, public, vault.folder / "none"):
                    secrets = {"vda": str(path)}
                    await refused(call, "secret_refused", secrets=secrets)
                assert base.read_bytes() == before
                if call == engine.create_snapshot:
                    assert not overlay.exists()
                    await engine.create_snapshot(DOMAIN, "s1", secrets=vault.secrets)
            public.unlink()

            # An image in the open below an encrypted one must stay without its data.
            qemu_img("create", "-q", "-f", "qcow2", base, str(SIZE))
            for call in (engine.plan, engine.delete):
                options = {"secrets": vault.secrets, "strategy": "commit"}
                await refused(call, "unsupported_image", **options)
        assert await asyncio.to_thread(planned, vault) == "stream"

    play(story())
