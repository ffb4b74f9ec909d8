"""The hooks that we ship: they write what they are told, whole, or nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "hooks"


def told(
    name: str, source: Path | str, planned: str = "", **more: str
) -> subprocess.CompletedProcess[str]:
    """Call an example about the disk vda."""
    call = {
        "call": "prepare" if planned else "switch",
        "domain": "web",
        "disks": [{"target": "vda", "source": str(source), "format": "qcow2"}],
        "planned": [{"target": "vda", "source": planned, "format": "raw"}],
    }
    return subprocess.run(
        [EXAMPLES / name],
        input=json.dumps(call),
        env={**os.environ, **more},
        capture_output=True,
        text=True,
    )


def test_an_environment_file_is_one_that_a_shell_reads(tmp_path: Path) -> None:
    source = tmp_path / "a b;c*.qcow2"
    done = told("environment-file", source)
    read = subprocess.run(
        ["sh", "-c", '. "$1" && printf %s "$VDA"', "sh", tmp_path / "web.env"],
        capture_output=True,
        text=True,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert read.stdout == str(source)
    assert [path.name for path in tmp_path.iterdir()] == ["web.env"]


@pytest.mark.parametrize("name", ["a$(id)", 'a"b', "a\nb"])
def test_a_name_that_a_shell_would_run_is_refused_in_time(
    tmp_path: Path, name: str
) -> None:
    told("environment-file", tmp_path / "a")
    before = (tmp_path / "web.env").read_text()
    asked = told("environment-file", tmp_path / "a", planned=str(tmp_path / name))

    assert asked.returncode == 1
    assert "cannot be written" in asked.stderr
    assert (tmp_path / "web.env").read_text() == before


def test_a_template_is_filled_in_whole(tmp_path: Path) -> None:
    (tmp_path / "web.in").write_text("a = $vda\nb = $vda_format\nc = $$1\n")
    done = told("template", "/a.s1", MACHINES=str(tmp_path))

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "web.conf").read_text() == "a = /a.s1\nb = qcow2\nc = $1\n"


def test_a_template_that_wants_more_is_found_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / "web.in").write_text("$vda $vdb\n")
    done = told("template", "/a.s1", planned="/a", MACHINES=str(tmp_path))

    assert done.returncode != 0 and "vdb" in done.stderr
    assert not (tmp_path / "web.conf").exists()
