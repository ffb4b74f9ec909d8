"""What a journal can be asked with: rows, by whatever connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Protocol


class Rows(Protocol):
    """What can be asked for rows; sqlite-utils' `Database` is one, too."""

    def execute(self, sql: str, parameters: Any = None, /) -> sqlite3.Cursor:
        """Rows as tuples."""

    def query(self, sql: str, parameters: Any = None, /) -> Iterator[dict[str, Any]]:
        """Rows by the names of their columns."""


class PlainRows:
    """`Rows` of a plain connection: that library is slow to load."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Ask ``connection``."""
        self._connection = connection

    def execute(self, sql: str, parameters: Any = None, /) -> sqlite3.Cursor:
        """Rows as tuples."""
        return self._connection.execute(sql, parameters or ())

    def query(self, sql: str, parameters: Any = None, /) -> Iterator[dict[str, Any]]:
        """Rows by the names of their columns."""
        cursor = self.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return (dict(zip(names, row, strict=True)) for row in cursor)
