"""What the command line says of itself."""

from __future__ import annotations

import pytest

import backfold
from cli.command import Cli
from cli.conftest import Inside

COMMANDS = {
    "": ["--journal", "--json", "--verbose", "-v", "--version", "Exit status"],
    "domain": ["add", "list", "show", "remove", "args"],
    "domain add": ["NAME", "--disk", "--monitor", "qcow2"],
    "domain list": [],
    "domain show": ["NAME"],
    "domain remove": ["NAME", "--yes"],
    "domain args": ["NAME"],
    "snapshot": ["create", "list", "show", "revert", "adopt"],
    "snapshot create": ["DOMAIN", "NAME", "--overlay", "--exclude"],
    "snapshot revert": ["NAME", "--overlay", "--discard", "--image-dir", "--yes"],
    "snapshot list": ["DOMAIN"],
    "snapshot show": ["DOMAIN", "NAME"],
    "snapshot adopt": ["DOMAIN", "--dry-run", "--image-dir", "--yes"],
    "plan": ["DOMAIN", "SNAPSHOT", "--ignore-libvirt"],
    "delete": ["--bandwidth", "--max-downtime", "--timeout", "--yes"],
    "recover": ["DELETION", "--roll-back", "--dry-run"],
    "cancel": ["DELETION"],
    "status": ["DELETION", "--all"],
    "log": ["DELETION", "--steps"],
    "report": ["DELETION", "--html FILE", "--force"],
    "check": ["DOMAIN", "--fix", "--image-dir", "Exit status"],
    "diagram": ["deletion|fold|creation|reversion", "--of RUN", "mermaid|dot|svg"],
    "datasette-metadata": ["--database", "--metadata"],
    "metrics": ["--textfile", "--listen", "--domains", "prometheus-client"],
    "completion": ["bash|zsh|fish"],
    "demo": ["--seed", "--keep"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_all_that_a_command_takes(
    cli: Cli, inside: Inside, command: str
) -> None:
    text = inside(*command.split(), "--help").out

    assert text.startswith(f"Usage: backfold {command}".rstrip())
    for word in COMMANDS[command]:
        assert word in text
    assert not cli.journal.exists()


def test_version(cli: Cli) -> None:
    assert cli.out("--version") == f"backfold {backfold.__version__}\n"


def test_without_a_command_the_help_is_an_error(inside: Inside) -> None:
    assert "Usage: backfold" in inside(status=2).err
