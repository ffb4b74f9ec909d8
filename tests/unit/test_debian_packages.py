"""tools/debian-packages: quiet when all is there, clear when it may not install.

Every run sees a PATH of stubs only, so nothing is ever installed here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "tools/debian-packages"
COMMANDS = ("qemu-system-x86_64", "qemu-img", "qemu-io", "nasm")


class Machine:
    """A directory of stubs that is the whole PATH of the script."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "calls"
        self.calls.touch()
        cat = shutil.which("cat")
        assert cat is not None
        (self.bin / "cat").symlink_to(cat)
        (self.bin / "python3").symlink_to(sys.executable)

    def stub(self, name: str, body: str = "exit 0") -> None:
        """Add a command that notes how it was called."""
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls}"\n{body}\n')
        path.chmod(0o755)

    def user(self, uid: int) -> None:
        self.stub("id", f"echo {uid}")

    def run(self, *names: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", SCRIPT, *names],
            env={"PATH": str(self.bin)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )

    def called(self, name: str) -> list[str]:
        lines = self.calls.read_text().splitlines()
        return [line for line in lines if line.split()[0] == name]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_missing_is_silent_and_installs_nothing(machine: Machine) -> None:
    machine.user(0)
    for command in (*COMMANDS, "apt-get", "sudo"):
        machine.stub(command)

    done = machine.run()

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.calls.read_text() == ""


def test_without_rights_it_names_packages_and_command(machine: Machine) -> None:
    machine.user(1000)
    machine.stub("apt-get")

    done = machine.run()

    assert done.returncode == 1
    assert done.stdout == ""
    assert (
        "sudo apt-get install --no-install-recommends "
        "qemu-system-x86 qemu-utils nasm\n" in done.stderr
    )
    assert machine.called("apt-get") == []


def test_sudo_that_asks_for_a_password_is_not_used(machine: Machine) -> None:
    machine.user(1000)
    machine.stub("apt-get")
    machine.stub("sudo", "exit 1")

    done = machine.run("nasm")

    assert done.returncode == 1
    assert "nasm" in done.stderr
    assert machine.called("sudo") == ["sudo -n true"]
    assert machine.called("apt-get") == []


def test_only_what_was_asked_for_and_is_missing_is_named(machine: Machine) -> None:
    machine.user(1000)
    machine.stub("apt-get")
    machine.stub("qemu-img")

    done = machine.run("qemu-img", "qemu-io")

    assert done.returncode == 1
    assert "qemu-utils" in done.stderr
    assert "qemu-system-x86" not in done.stderr
    assert "nasm" not in done.stderr


def test_root_updates_then_installs(machine: Machine) -> None:
    machine.user(0)
    machine.stub("apt-get")
    machine.stub("env", 'shift; exec "$@"')

    done = machine.run("nasm", "qemu-img", "qemu-io")

    assert done.returncode == 0, done.stderr
    assert machine.called("apt-get") == [
        "apt-get update -qq",
        "apt-get install -y -qq --no-install-recommends nasm qemu-utils",
    ]
    assert machine.called("env")[0].startswith("env DEBIAN_FRONTEND=noninteractive ")


def test_sudo_without_a_password_installs(machine: Machine) -> None:
    machine.user(1000)
    machine.stub("sudo")
    machine.stub("apt-get")

    done = machine.run("nasm")

    assert done.returncode == 0, done.stderr
    assert machine.called("sudo") == [
        "sudo -n true",
        "sudo -n apt-get update -qq",
        "sudo -n env DEBIAN_FRONTEND=noninteractive "
        "apt-get install -y -qq --no-install-recommends nasm",
    ]


def test_failure_of_apt_get_is_not_hidden(machine: Machine) -> None:
    machine.user(0)
    machine.stub("apt-get", "exit 100")

    done = machine.run("nasm")

    assert done.returncode == 100


def test_machine_without_apt_get(machine: Machine) -> None:
    machine.user(0)

    done = machine.run("qemu-img")

    assert done.returncode == 1
    assert "qemu-utils" in done.stderr
    assert "no apt-get" in done.stderr


def test_python_without_venv(machine: Machine) -> None:
    machine.user(1000)
    machine.stub("apt-get")
    (machine.bin / "python3").unlink()
    machine.stub("python3", "exit 1")

    done = machine.run("venv")

    assert done.returncode == 1
    assert "python3-venv" in done.stderr


def test_unknown_name_is_an_error(machine: Machine) -> None:
    done = machine.run("qemu-storage-daemon")

    assert done.returncode == 2
    assert "qemu-storage-daemon" in done.stderr


def test_script_is_executable() -> None:
    assert os.access(SCRIPT, os.X_OK)
