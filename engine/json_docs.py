"""The page about what `--json` prints, from the schemas that are shipped.

    python -m backfold.engine.json_docs docs/reference/json.md [--check]

writes the page, or says whether it is as the schemas are.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from . import cli, generated_page
from .command_tree import CommandText, whole
from .generated_page import REFRESH
from .markdown import code, escape, table, text

#: Commands that print lines until a run has ended, and what these are.
STREAMS: Final = {"delete": "event", "recover": "event", "cancel": "result"}
#: What is no command's answer by itself.
_SHARED: Final = ("event", "result", "error", "common")
_REFERENCE: Final = re.compile(r"urn:backfold:schema:1:([a-z-]+)(?:#/\$defs/(\w+))?")

_HEAD: Final = (
    "With `backfold --json COMMAND`, standard output carries JSON and nothing else: one"
    " object on each line, ASCII only. Commands that ask whether you are sure need"
    " `--yes` where there is no terminal. Nothing on standard error is meant for"
    " programs but the log that `-v` asks for, which is JSON lines, too.",
    "**Versions.** Every object has `schema`, which is 1. As long as it is 1, no field"
    " is taken away or changes its meaning or type; new fields, new kinds of events and"
    " new values of `code` may come. Ignore what you do not know.",
    "**Answers.** A command prints one object. `delete` and `recover` print a line for"
    " each event, in the order in which things happened, and a line `result` as the"
    " last of each run (`recover` prints nothing when nothing was interrupted);"
    " `cancel` prints that line only. `status --watch` prints events"
    " of all open runs. A line `state` is printed when the state is durable.",
    "**Errors.** Where there is no answer there is an object `error`, in its place; a"
    " `result` has it as a field. Branch on `error.code`, on the code of each of its"
    " `reasons`, or on the [exit status](cli.md#exit-status), never on `message`.",
    "**Values.** Times are UTC, ISO 8601. Sizes are bytes, lengths of time seconds"
    " unless the name says `_ms`. Paths are absolute. What is not known is null.",
    "The schemas are JSON Schema 2020-12, and lie in the package, in"
    " `backfold/engine/cli/schemas`. The tests check all that is printed against them,"
    " with no field besides those that they describe.",
)


@cache
def schemas() -> Mapping[str, Any]:
    """Every schema that is shipped, by its short name."""
    folder = resources.files(cli) / "schemas"
    return {
        file.name.removesuffix(".json"): json.loads(file.read_text(encoding="utf-8"))
        for file in sorted(folder.iterdir(), key=lambda file: file.name)
        if file.name.endswith(".json")
    }


def answers(root: CommandText) -> Mapping[str, str]:
    """The schema of each command's answer, by the command without `backfold`."""
    titled = {
        command: name
        for name, schema in schemas().items()
        if name not in _SHARED
        for command in re.findall(r"`([^`]+)`", schema["title"])
    }
    commands = [
        each.path.removeprefix("backfold ")
        for each in root.walk()
        if each is not root and not each.below
    ]
    return {command: (STREAMS | titled)[command] for command in commands}


def page() -> str:
    """The Markdown text."""
    return text(_parts())


def _parts() -> Iterator[str]:
    yield (
        f"<!-- Generated from engine/cli/schemas by `{REFRESH}`. Do not edit. -->\n\n"
        "# JSON"
    )
    yield from _HEAD
    rows = (
        (code(command), f"[{name}](#{name})")
        for command, name in answers(whole()).items()
    )
    yield table(("command", "prints"), rows)
    for name in (*_SHARED[:-1], *(n for n in schemas() if n not in _SHARED)):
        yield from _schema(name, schemas()[name])
    yield "## common"
    yield "What several objects have in common."
    for name, part in schemas()["common"]["$defs"].items():
        yield f"### {name}"
        yield from _object(part)


def _schema(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {name}"
    yield escape(f"{schema['title']}. {schema.get('description', '')}")
    for kind in schema.get("oneOf", [schema]):
        if "$ref" in kind:
            yield f"Or a {_type(kind)}."
            continue
        if kind is not schema:
            yield f"**{escape(kind['description'])}**"
        yield from _object(kind)


def _object(schema: Mapping[str, Any]) -> Iterator[str]:
    yield table(("field", "type", "meaning"), _fields(schema, ""))
    for example in schema.get("examples", ()):
        yield f"```json\n{json.dumps(example, indent=2)}\n```"


def _fields(schema: Mapping[str, Any], before: str) -> Iterator[tuple[str, str, str]]:
    """A row for each field, and for those of the objects in it."""
    for name, part in schema.get("properties", {}).items():
        told = part.get("description", "")
        yield code(before + name), _type(part), escape(told)
        inner = part.get("items", part)
        if isinstance(inner, dict):
            mark = "[]" if "items" in part else ""
            yield from _fields(inner, f"{before}{name}{mark}.")


def _type(part: Mapping[str, Any]) -> str:
    if found := _REFERENCE.fullmatch(part.get("$ref", "")):
        name = found[2] or found[1]
        return f"[{name}](#{name})"
    if "const" in part:
        return code(json.dumps(part["const"]))
    if "enum" in part:
        return ", ".join(code(json.dumps(value)) for value in part["enum"])
    if "oneOf" in part or "anyOf" in part:
        return " or ".join(map(_type, part.get("oneOf") or part["anyOf"]))
    kinds = part.get("type", "any value")
    told = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if isinstance(part.get("items"), dict):
        return f"{told} of {_type(part['items'])}"
    return told


if __name__ == "__main__":
    sys.exit(generated_page.main("json_docs", page))
