"""Every table and column of the journal is described, and none that is not there."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlite_utils import Database

from backfold.engine.seeds import SEEDS
from backfold.journal.descriptions import TABLES
from backfold.journal.questions import QUESTIONS, Question
from backfold.journal.schema import migrate


@pytest.fixture
def db() -> Iterator[Database]:
    """A new journal, in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with closing(Database(connection, strict=True, execute_plugins=False)) as db:
        migrate(db, SEEDS)
        yield db


def test_every_table_and_column_is_described_and_nothing_else(db: Database) -> None:
    schema = {
        name: [row[1] for row in db.execute(f"pragma table_info({name})")]
        for name in db.table_names()
    }

    assert TABLES.keys() == schema.keys()
    for name, columns in schema.items():
        assert TABLES[name].columns.keys() == set(columns), name


def test_descriptions_are_sentences() -> None:
    texts = [table.says for table in TABLES.values()]
    texts += [text for table in TABLES.values() for text in table.columns.values()]
    texts += [question.says for question in QUESTIONS]
    for text in texts:
        assert text.endswith(".") and text.strip() == text and "  " not in text, text
        assert text.count("`") % 2 == 0, text


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.name)
def test_a_question_can_be_put_to_an_empty_journal(
    db: Database, question: Question
) -> None:
    """It only reads, and it uses nothing that this SQLite does not have."""
    sql = question.sql
    before = db.conn.total_changes

    assert db.execute(sql, {"run": "00"}).fetchall() == []
    assert db.conn.total_changes == before
    assert sql.split()[0] in ("select", "with") and ";" not in sql


def test_questions_have_names_of_their_own() -> None:
    names = [question.name for question in QUESTIONS]
    titles = {question.title for question in QUESTIONS}

    assert len(set(names)) == len(names) == len(titles)
    assert not set(names) & TABLES.keys()
    assert all(title.endswith("?") for title in titles)
