"""The shipped schemas describe every field, and are schemas."""

from __future__ import annotations

import pytest
from jsonschema import Draft202012Validator

from backfold.states.creation import CREATION
from backfold.states.deletion import DELETION
from backfold.states.fold import FOLD
from backfold.states.reversion import REVERSION
from cli.schemas import PREFIX, objects, shipped

NAMES = sorted(shipped())


def test_what_operators_parse_has_a_schema() -> None:
    promised = {"event", "result", "error", "plan", "status", "log"}
    promised |= {"domain", "domain-list", "snapshot", "snapshot-list", "reversion"}

    assert promised <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_described(name: str) -> None:
    schema = shipped()[name]
    Draft202012Validator.check_schema(schema)

    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"{PREFIX}{name}"
    assert schema["title"]
    for part in objects(schema):
        for field, described in part["properties"].items():
            assert {"description", "const", "$ref"} & set(described), field


def test_states_are_those_of_the_machines() -> None:
    common = shipped()["common"]["$defs"]
    states = {
        DELETION: common["deletion"]["properties"]["state"]["enum"],
        FOLD: common["fold"]["properties"]["state"]["enum"],
        CREATION: common["creation"]["properties"]["state"]["enum"],
        REVERSION: common["reversion"]["properties"]["state"]["enum"],
    }

    for machine, listed in states.items():
        assert set(listed) - {None} == {state.name for state in machine.states}
