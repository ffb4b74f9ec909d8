"""With -v the log is shown: lines for people, or JSON lines with --json."""

from __future__ import annotations

import json

from cli.command import Cli
from cli.conftest import Inside


def test_the_log_is_told_to_people_and_to_machines(web: Cli, inside: Inside) -> None:
    inside("snapshot", "create", "web", "s1")
    inside("snapshot", "create", "web", "s2")
    options = ("--metadata-only", "--yes")

    assert inside("delete", "web", "s1", *options).err == ""
    assert "deletion.completed" not in inside("-v", "status").err
    told = inside("-v", "--json", "delete", "web", "s2", *options)
    lines = [json.loads(line) for line in told.err.splitlines()]
    (last,) = [line for line in lines if line["event"] == "deletion.completed"]
    result = json.loads(told.out.splitlines()[-1])

    assert last["deletion"] == result["deletion"]
    assert (last["domain"], last["snapshot"]) == ("web", "s2")
    assert (last["level"], last["source"]) == ("info", "update_metadata")

    inside("snapshot", "create", "web", "s3")
    shown = inside("-v", "delete", "web", "s3", *options).err.splitlines()
    (line,) = [line for line in shown if "deletion.completed" in line]
    assert "domain=web" in line and "snapshot=s3" in line
