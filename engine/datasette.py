"""The metadata that Datasette shows a journal with: descriptions and queries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..journal.descriptions import TABLES
from ..journal.questions import QUESTIONS


def metadata(database: str) -> Mapping[str, Any]:
    """For a journal that Datasette calls ``database``: its file's name without suffix.

    The form is that of ``datasette --metadata FILE`` before version 1.
    """
    tables = {
        name: {"description": table.says, "columns": dict(table.columns)}
        for name, table in TABLES.items()
    }
    queries = {
        question.name: {
            "title": question.title,
            "description": question.says,
            "sql": question.sql,
        }
        for question in QUESTIONS
    }
    return {
        "title": "Backfold",
        "databases": {
            database: {
                "description": "A journal: what is known of domains and snapshots, and"
                " everything that was done to them.",
                "tables": tables,
                "queries": queries,
            }
        },
    }
