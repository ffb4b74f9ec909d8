"""What is installed, and what may import what.

The three real folders lie at the top of the repository and reach the import
package through relative links. Several ways to lose a folder are silent (a clone
without symbolic links, a build backend that skips them), so they are tested.
"""

import ast
import fnmatch
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import backfold

ROOT = Path(__file__).resolve().parents[2]
LAYERS = ("engine", "states", "journal")

# What a layer may import of the package. Engine, the topmost, may import all.
MAY_IMPORT = {
    "journal": ("backfold.journal",),
    "states": ("backfold.states", "backfold.journal"),
}

# Outside of the engine nobody knows QEMU or starts processes. In the states time,
# randomness, ids and files come through the ports, so that the simulator has them.
MUST_NOT_IMPORT = {
    "journal": {"qemu", "subprocess", "multiprocessing"},
    "states": {
        "qemu",
        "subprocess",
        "multiprocessing",
        "random",
        "secrets",
        "shutil",
        "socket",
        "sqlite3",
        "tempfile",
        "time",
        "uuid",
    },
}


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree as it is, built beside it and without the network."""
    tree = tmp_path_factory.mktemp("tree")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in (*LAYERS, "src"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, tree)
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    build = subprocess.run(
        [*pip, "--no-index", "--no-deps", "--no-build-isolation", "-w", out, tree],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )

    assert build.returncode == 0, build.stdout + build.stderr

    (built,) = out.glob("backfold-*.whl")
    return built


def in_tree() -> set[str]:
    """Every file that belongs to the package, as the wheel should name it."""
    files = {f"backfold/{p.name}" for p in (ROOT / "src/backfold").glob("*.*")}
    for layer in LAYERS:
        files |= {
            f"backfold/{path.relative_to(ROOT)}"
            for path in (ROOT / layer).rglob("*")
            if path.is_file()
            and "__pycache__" not in path.parts
            and not path.name.startswith(".")
        }
    return files


@pytest.mark.parametrize("layer", LAYERS)
def test_folder_is_a_relative_link_in_the_package(layer: str) -> None:
    link = ROOT / "src/backfold" / layer

    assert link.is_symlink()
    assert os.readlink(link) == f"../../{layer}"
    assert (ROOT / layer).is_dir()
    assert not (ROOT / layer).is_symlink()


@pytest.mark.parametrize("layer", LAYERS)
def test_folder_has_no_bare_name_outside_of_the_checkout(
    layer: str, tmp_path: Path
) -> None:
    look = "import importlib.util as u, sys; print(u.find_spec(sys.argv[1]))"
    found = {
        name: subprocess.run(
            [sys.executable, "-I", "-c", look, name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in (layer, f"backfold.{layer}")
    }

    assert found[layer] == "None"
    assert "ModuleSpec" in found[f"backfold.{layer}"]


def imports_of(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield line and absolute name of all that a module imports, wherever it does.

    Imports inside of functions and under ``TYPE_CHECKING`` count: a layer that
    names a higher one in its types knows it, too.
    """
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{stem}.{alias.name}"


def is_inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def violations(layer: str, source: str, module: str, is_package: bool) -> list[str]:
    bad = []
    for line, name in imports_of(source, module, is_package):
        top = name.partition(".")[0]
        if (
            top in LAYERS
            or top in MUST_NOT_IMPORT[layer]
            or (
                top == "backfold"
                and not any(is_inside(name, own) for own in MAY_IMPORT[layer])
            )
        ):
            bad.append(f"line {line}: {name}")
    return bad


@pytest.mark.parametrize("layer", MAY_IMPORT)
def test_imports_go_down_only(layer: str) -> None:
    bad = {}
    for path in sorted((ROOT / layer).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(("backfold", *parts[: -1 if is_package else None]))
        if found := violations(layer, path.read_text(), module, is_package):
            bad[str(path.relative_to(ROOT))] = found

    assert bad == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..journal import store", []),
        ("from ..journal.store import Store", []),
        ("from .machine import Edge", []),
        ("import asyncio", []),
        ("from .. import journal", []),
        ("from ..engine import api", ["line 1: backfold.engine.api"]),
        ("from .. import engine", ["line 1: backfold.engine"]),
        ("from .. import Engine", ["line 1: backfold.Engine"]),
        ("import backfold", ["line 1: backfold"]),
        ("import journal.store", ["line 1: journal.store"]),
        ("def f():\n    import subprocess", ["line 2: subprocess"]),
        ("from qemu.qmp import QMPClient", ["line 1: qemu.qmp.QMPClient"]),
    ],
)
def test_the_guard_of_the_layers_sees(source: str, expected: list[str]) -> None:
    actual = violations("states", source, "backfold.states.vote", False)

    assert expected == actual


def test_version_is_the_same_everywhere(pyproject: dict[str, Any]) -> None:
    declared = pyproject["project"]["version"]

    assert declared == backfold.__version__
    assert declared == importlib.metadata.version("backfold")


def test_console_script_is_declared_and_installed(pyproject: dict[str, Any]) -> None:
    declared = pyproject["project"]["scripts"]
    installed = {
        entry.name: entry.value
        for entry in importlib.metadata.distribution("backfold").entry_points
        if entry.group == "console_scripts"
    }

    assert declared == {"backfold": "backfold.engine.cli:main"}
    assert declared == installed


def test_every_data_file_matches_a_pattern(pyproject: dict[str, Any]) -> None:
    patterns = pyproject["tool"]["setuptools"]["package-data"]["*"]
    data = {name for name in in_tree() if not name.endswith((".py", ".pyi"))}
    left_out = {
        name
        for name in data
        if not any(fnmatch.fnmatch(Path(name).name, pattern) for pattern in patterns)
    }

    assert left_out == set()


def test_wheel_holds_exactly_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {n for n in archive.namelist() if ".dist-info/" not in n}

    assert names == in_tree()
    assert "backfold/py.typed" in names


@pytest.mark.parametrize("kind", ["demo/*.bin", "*.json", "report/*.css"])
def test_wheel_holds_data_of_the_kind(wheel: Path, kind: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        found = fnmatch.filter(archive.namelist(), f"backfold/engine/{kind}")

    assert found


def test_wheel_brings_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


CONSUMER = """
from backfold import Deletion, Engine, Event, Interrupted, Refused, StateEvent, as_json


async def delete(journal: str) -> Deletion | None:
    async with Engine(journal) as engine:
        events = engine.events()
        async for event in events:
            reveal_type(event)
        try:
            return await engine.delete("web", "s1", on_event=hear, max_downtime_ms=100)
        except Refused as error:
            print([reason.code for reason in error.reasons], as_json(error))
        except Interrupted as error:
            reveal_type(error.deletion.id)
            return await engine.resume(error.deletion.id)
        return None


def hear(event: Event) -> None:
    if isinstance(event, StateEvent):
        reveal_type(event.source)


async def wrong(engine: Engine) -> None:
    await engine.delete("web", 1)
    await engine.delete("web", "s1", max_downtime="1")
    engine.nothing
"""
#: Types as mypy says them, without the modules that they are from.
REVEALED = (
    "StateEvent | ProgressEvent | DowntimeEvent | AlarmEvent",
    "str",
    "str | None",
)
WRONG = ("arg-type", "call-arg", "attr-defined")


def test_a_program_elsewhere_is_checked_strictly(wheel: Path, tmp_path: Path) -> None:
    """By mypy, against the wheel as it is installed: `py.typed` is in effect."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True
    )
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # What Backfold needs is where this interpreter has it.
    (site / "needed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    program = tmp_path / "program.py"
    program.write_text(CONSUMER)
    options = ["--strict", "--config-file", os.devnull, "--cache-dir", "cache"]
    options += ["--python-executable", str(python)]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    notes = re.findall(r'Revealed type is "(.*)"', checked.stdout)
    errors = re.findall(r"^(.*?):\d+: error: .*\[(.*)\]$", checked.stdout, re.MULTILINE)

    assert [re.sub(r"[a-z_.]+\.", "", note) for note in notes] == [*REVEALED]
    assert errors == [(str(program.name), code) for code in WRONG], checked.stdout
