"""What `from backfold import ...` gives, and that it changes on purpose only."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import backfold
from backfold.journal import errors
from unit import surface

#: What `Engine` may be given to run somewhere else: no part of the promise yet.
PORTS = "backfold.states.ports"


def test_the_surface_changes_on_purpose_only() -> None:
    """If it is meant: `PYTHONPATH=tests .venv/bin/python -m unit.surface`."""
    actual = surface.FILE.read_text(encoding="utf-8").splitlines()

    assert surface.lines() == actual


def test_every_name_is_found_where_it_is_defined() -> None:
    assert sorted(backfold.__all__) == sorted(set(backfold.__all__))
    assert set(backfold.__all__) <= set(dir(backfold))
    for name in backfold.__all__:
        found = getattr(backfold, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            assert getattr(import_module(found.__module__), name) is found
            assert inspect.getdoc(found), name


def test_every_error_is_public() -> None:
    """A program can name whatever it catches."""
    tree = {
        name
        for name, found in vars(errors).items()
        if inspect.isclass(found) and issubclass(found, errors.BackfoldError)
    }

    assert tree <= set(backfold.__all__)
    codes = [getattr(backfold, name).code for name in tree]
    assert len(set(codes)) == len(codes)


def types_in(hint: Any) -> Iterator[type]:
    """The classes of Backfold that an annotation names."""
    if isinstance(hint, type) and hint.__module__.startswith("backfold"):
        yield hint
    for argument in typing.get_args(hint):
        yield from types_in(argument)


def hints(found: type) -> Iterator[Any]:
    """Of all public methods, properties and fields."""
    if dataclasses.is_dataclass(found):
        yield from typing.get_type_hints(found).values()
    for name, member in vars(found).items():
        if name.startswith("_") or f"{found.__name__}.{name}" in surface.INTERNAL:
            continue
        getter = member.fget if isinstance(member, property) else member
        if inspect.isfunction(getter):
            yield from typing.get_type_hints(getter).values()


def test_whatever_a_public_signature_names_is_public() -> None:
    """So that a typed program can annotate what it is given."""
    missing = {
        f"{name}: {named.__name__}"
        for name in backfold.__all__
        if inspect.isclass(found := getattr(backfold, name))
        for hint in hints(found)
        for named in types_in(hint)
        if named.__name__ not in backfold.__all__ and named.__module__ != PORTS
    }

    assert missing == set()


def test_an_unknown_name_is_said_as_python_says_it() -> None:
    assert not hasattr(backfold, "Engines")
