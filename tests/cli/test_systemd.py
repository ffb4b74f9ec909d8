"""The shipped unit: systemd accepts it, and it runs before machines start."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from backfold import engine

ROOT = Path(__file__).parents[2]
SERVICE = "backfold-recover.service"
TARGET = "backfold-recovered.target"


def shipped(name: str) -> str:
    """A unit as it lies in the installed package."""
    return (resources.files(engine) / "systemd" / name).read_text()


def verify(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is missing; tools/debian-packages brings it")
        pytest.skip("systemd-analyze is not installed")
    return subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(folder / n) for n in names)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
    )


def install(folder: Path, change: tuple[str, str] = ("", "")) -> Path:
    """Both units in a folder, with a command that is there."""
    command = folder / "backfold"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    text = shipped(SERVICE).replace("ExecStart=backfold", f"ExecStart={command}")
    (folder / SERVICE).write_text(text.replace(*change) if change[0] else text)
    (folder / TARGET).write_text(shipped(TARGET))
    return folder


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    done = verify(install(tmp_path), SERVICE, TARGET)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "change",
    [
        ("Type=oneshot", "Type=oneshott"),
        ("[Service]", "[Servce]"),
        ("ExecStart=", "ExecStrt="),
    ],
)
def test_a_mistake_would_be_found(tmp_path: Path, change: tuple[str, str]) -> None:
    done = verify(install(tmp_path, change), SERVICE)

    assert done.stderr


def test_it_recovers_before_any_machine_starts() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.read_string(shipped(SERVICE).replace("Before=backfold", "BeforeToo=backfold"))

    assert unit["Service"]["ExecStart"] == "backfold recover"
    assert unit["Service"]["Type"] == "oneshot"
    before = set(unit["Unit"]["Before"].split())
    assert before == {"libvirtd.service", "virtqemud.service", "libvirt-guests.service"}
    assert unit["Unit"]["BeforeToo"] == TARGET
    assert set(unit["Unit"]["After"].split()) == {"local-fs.target", "remote-fs.target"}
    target = configparser.ConfigParser(interpolation=None)
    target.read_string(shipped(TARGET))
    assert target["Unit"]["Requires"] == target["Unit"]["After"] == SERVICE


def test_the_repository_shows_them_at_its_top() -> None:
    for name in (SERVICE, TARGET):
        assert (ROOT / "systemd" / name).read_text() == shipped(name)
