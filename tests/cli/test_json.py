"""`--json`: every command has it, and standard output then carries nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backfold.engine.command_tree import whole
from backfold.engine.demo import story
from backfold.engine.json_docs import answers
from cli.command import Cli, parsed
from cli.conftest import Inside
from cli.schemas import objects, shipped, validate
from written import Journal

DONE = "c0" * 6
ANSWERS = answers(whole())
#: An example of each command, in an order in which all of them work.
RUNS = {
    "domain add": ["--disk", "vdx={folder}/x.img,format=raw", "other"],
    "domain attach": ["other", "vdy={folder}/y.img,format=raw"],
    "domain detach": ["other", "vdy"],
    "domain hook": ["other", "--remove"],
    "domain list": [],
    "domain show": ["web"],
    "domain args": ["web"],
    "domain remove": ["other", "--yes"],
    "snapshot create": ["web", "s1"],
    "snapshot list": ["web"],
    "snapshot show": ["web", "s1"],
    "snapshot revert": ["web", "s1", "--yes"],
    "snapshot adopt": ["web", "--dry-run"],
    "check": ["web"],
    "plan": ["web", "s1"],
    "delete": ["web", "s1", "--metadata-only", "--yes"],
    "recover": [DONE],
    "cancel": [DONE],
    "status": [],
    "log": [DONE],
    "report": [DONE, "--html", "{folder}/report.html"],
    "metrics": [],
    "datasette-metadata": [],
    "diagram": ["fold"],
    "completion": ["fish"],
    "demo": ["--seed", "7"],
}
#: What is not 0 in these examples.
STATUS = {"cancel": 1}


def test_every_command_has_a_schema_and_an_example() -> None:
    assert RUNS.keys() == ANSWERS.keys()
    assert set(ANSWERS.values()) <= shipped().keys()
    # Nothing is described that no command prints.
    unused = shipped().keys() - set(ANSWERS.values()) - {"common", "error"}
    assert unused == set()


@pytest.fixture
def prepared(web: Cli) -> Cli:
    with Journal(web.journal) as journal:
        journal.completed(DONE)
    for name in ("x.img", "y.img"):
        web.folder.joinpath(name).write_bytes(bytes(1 << 20))
    return web


def test_every_command_answers_in_its_form(
    prepared: Cli, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(seed: int | None, keep: Path | None, console: Any) -> int:
        console.print("for people")
        return 0

    monkeypatch.setattr(story, "run", told)
    for command, arguments in RUNS.items():
        filled = [word.replace("{folder}", str(prepared.folder)) for word in arguments]
        said = inside(
            "--json", *command.split(), *filled, status=STATUS.get(command, 0)
        )

        assert parsed(ANSWERS[command], said.out), command
        assert said.out.isascii()
        assert said.err == ("for people\n" if command == "demo" else "")


@pytest.mark.parametrize("command", ANSWERS)
def test_every_command_refuses_in_its_form(inside: Inside, command: str) -> None:
    schema = ANSWERS[command] if ANSWERS[command] in ("event", "result") else "error"
    said = inside("--json", *command.split(), "--nonsense", status=2)
    (answer,) = parsed(schema, said.out)

    assert said.err == ""
    assert answer["error"]["code"] == "usage"


def test_without_a_command_the_answer_is_an_error(inside: Inside) -> None:
    for arguments in ([], ["nonsense"], ["domain"], ["snapshot", "nonsense"]):
        answer = inside.json("error", *arguments, status=2)
        assert answer["error"]["code"] == "usage"


def test_the_examples_of_the_schemas_are_what_they_say() -> None:
    found = 0
    for name, schema in shipped().items():
        for part in objects(schema):
            for example in part.get("examples", ()):
                validate(name, example)
                found += 1
    assert found >= 10
    assert json.dumps(shipped()["event"]).isascii()
