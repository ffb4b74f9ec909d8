"""The shipped schemas, closed: a field that no schema describes is an error here."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from backfold.engine import cli

PREFIX = "urn:backfold:schema:1:"


@functools.cache
def shipped() -> dict[str, Any]:
    """Every schema by its short name, as it is shipped."""
    folder = resources.files(cli) / "schemas"
    return {
        file.name.removesuffix(".json"): json.loads(file.read_text())
        for file in folder.iterdir()
        if file.name.endswith(".json")
    }


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    registry: Registry[Any] = Registry()
    for schema in shipped().values():
        closed = Resource.from_contents(_closed(schema))
        registry = registry.with_resource(schema["$id"], closed)
    return Draft202012Validator(
        {"$ref": f"{PREFIX}{name}"},
        registry=registry,
        format_checker=Draft202012Validator.FORMAT_CHECKER,
    )


def validate(name: str, found: dict[str, Any]) -> None:
    """Raise when an object is not what its schema says."""
    _validator(name).validate(found)


def objects(schema: Any) -> Iterator[dict[str, Any]]:
    """Every part of a schema that describes an object's fields."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield schema
        for part in schema.values():
            yield from objects(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from objects(part)


def _closed(schema: Any) -> Any:
    copy = json.loads(json.dumps(schema))
    for part in objects(copy):
        part["additionalProperties"] = False
    return copy
