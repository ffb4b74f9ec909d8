"""The catalogue fits the code: each mutation can be applied, each test is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mutations.catalogue import CATALOGUE, Mutation
from mutations.run import Found, document, mutate

ROOT = Path(__file__).resolve().parents[2]
#: What the proof of the promise rests on; see the safeguards in docs/internals.md.
REQUIRED = {
    "flush in PENDING",
    "fsync of written files",
    "fence",
    "fsync of the directory",
    "round trip",
    "decision row",
    "read-back of the graph",
    "lock",
    "guard",
}

every_mutation = pytest.mark.parametrize("mutation", CATALOGUE, ids=lambda m: m.name)


def names(path: Path) -> set[str]:
    """Names of functions and classes in a file; contracts inherit their tests."""
    nodes = ast.walk(ast.parse(path.read_text()))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return {node.name for node in nodes if isinstance(node, kinds)}


def test_every_safeguard_is_taken_away_once() -> None:
    found = [mutation.name for mutation in CATALOGUE]

    assert set(found) >= REQUIRED
    assert len(set(found)) == len(found)


@every_mutation
def test_a_mutation_applies_to_the_code(mutation: Mutation) -> None:
    before = text = (ROOT / mutation.file).read_text()
    for old, new in mutation.edits:
        assert before.count(old) == 1, f"bring tests/mutations up to date: {old!r}"
        text = text.replace(old, new)

    assert text != before
    # It is still a module: a syntax error would be noticed by everything.
    ast.parse(text)


@every_mutation
def test_the_tests_that_must_notice_it_exist(mutation: Mutation) -> None:
    assert mutation.tests
    for test in mutation.tests:
        file, *parts = test.partition("[")[0].split("::")
        assert set(parts) <= names(ROOT / file), test


def test_only_the_copy_is_changed(tmp_path: Path) -> None:
    mutation = CATALOGUE[0]
    ((old, new),) = mutation.edits
    target = tmp_path / mutation.file
    target.parent.mkdir(parents=True)
    target.write_text(old)

    assert mutate(tmp_path, mutation) == old
    assert target.read_text() == new


def test_the_document_names_what_was_not_noticed() -> None:
    one, two = CATALOGUE[:2]
    page = document([Found(one, one.tests, ()), Found(two, (), two.tests)])

    assert "1 of 2 changes" in page
    assert f"**{one.name}**" in page
    assert "**not noticed by**" in page
