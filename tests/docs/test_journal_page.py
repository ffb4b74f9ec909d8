"""docs/reference/journal.md is made from the schema and what is said of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfold.engine import journal_docs
from backfold.journal.descriptions import TABLES
from backfold.journal.questions import QUESTIONS

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "journal.md"


def test_the_committed_page_is_that_of_the_schema() -> None:
    assert journal_docs.main(["--check", str(PAGE)]) == 0


def test_a_page_that_differs_fails_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "a" / "journal.md"
    assert journal_docs.main(["--check", str(page)]) == 1
    assert journal_docs.main([str(page)]) == 0
    assert journal_docs.main(["--check", str(page)]) == 0
    page.write_text(page.read_text() + "More.\n")
    capsys.readouterr()

    assert journal_docs.main(["--check", str(page)]) == 1
    assert f"{page} differs. Refresh it by: make diagrams" in capsys.readouterr().err


def test_the_page_has_every_table_column_and_question() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = {
        line[4:].replace("\\", "") for line in text.splitlines() if "### " in line
    }

    assert headings == {*TABLES, *(question.title for question in QUESTIONS)}
    for table in TABLES.values():
        for column in table.columns:
            assert f"| `{column}` | " in text
    for question in QUESTIONS:
        assert f"```sql\n{question.sql}\n```" in text
