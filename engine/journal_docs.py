"""The reference of the journal, from its schema and their descriptions.

    python -m backfold.engine.journal_docs docs/reference/journal.md [--check]

writes the page, or says whether it is as the code is.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any, Final

from sqlite_utils import Database

from ..journal.descriptions import TABLES, Description
from ..journal.questions import QUESTIONS
from ..journal.schema import migrate
from ..journal.versions import VERSIONS
from . import generated_page
from .generated_page import REFRESH
from .markdown import code, escape, table, text
from .seeds import SEEDS

_SCHEMA: Final = (
    "The SQL that makes the tables, with all constraints, indexes and triggers, is in"
    " [journal/versions.py](../../journal/versions.py)."
)


def page() -> str:
    """The Markdown text."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    with closing(Database(connection, strict=True, execute_plugins=False)) as db:
        migrate(db, SEEDS)
        return text(_parts(db, list(VERSIONS)))


def _parts(db: Database, versions: Sequence[str]) -> Iterator[str]:
    yield (
        "<!-- Generated from journal/versions.py, descriptions.py and questions.py by"
        f" `{REFRESH}`. Do not edit. -->"
    )
    yield "# The journal"
    yield (
        "One SQLite file, `journal.db`, in WAL mode: while anybody has it open, and"
        " after a kill, `journal.db-wal` beside it has what was written last. Whoever"
        " copies it copies both, or asks SQLite to"
        " ([how](../datasette.md#on-a-copy)). Our tables are STRICT, and foreign keys"
        " are checked. Read it with whatever you like, and write only through Backfold."
    )
    yield f"This is schema version {versions[-1].removeprefix('version_')}. {_SCHEMA}"
    yield "## Tables"
    for name, described in TABLES.items():
        yield f"### {escape(name)}"
        yield escape(described.says)
        yield _columns(db, name, described)
    yield "## Questions"
    yield (
        "SQL that answers what people ask of a journal; the canned queries of"
        " [Datasette](../datasette.md) are these. `:run` is a parameter."
    )
    for question in QUESTIONS:
        yield f"### {question.title}"
        yield f"`{question.name}`: {escape(question.says)}"
        yield f"```sql\n{question.sql}\n```"


def _columns(db: Database, name: str, described: Description) -> str:
    keys = {
        column: f"{key['table']}.{key['to']}"
        for key in db.query("select * from pragma_foreign_key_list(?)", (name,))
        if (column := key["from"]) not in _SHARED
    }
    return table(
        ("column", "type", "", "what it means"),
        (
            (
                code(column["name"]),
                column["type"].lower(),
                _marks(column, keys),
                escape(described.columns[column["name"]]),
            )
            for column in db.query("select * from pragma_table_info(?)", (name,))
        ),
    )


#: Part of every reference to a declared state, and said in words.
_SHARED: Final = frozenset({"machine"})


def _marks(column: Mapping[str, Any], keys: Mapping[str, str]) -> str:
    marks = []
    if column["pk"]:
        marks.append("key")
    elif not column["notnull"]:
        marks.append("or null")
    if column["name"] in keys:
        marks.append(f"→ `{keys[column['name']]}`")
    return ", ".join(marks)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or check the page; the exit status."""
    return generated_page.main("journal_docs", page, arguments)


if __name__ == "__main__":
    sys.exit(main())
