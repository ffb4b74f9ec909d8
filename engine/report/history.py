"""The time line for people, and the rows of the journal as they are."""

from __future__ import annotations

import json
from typing import Final

from ..routes import seconds_of
from ..story import Chapter
from ..words import brief
from .facts import Facts
from .markup import Markup, code, tag

_COLUMNS: Final = (
    *("Time", "Since", "Machine", "From", "To", "Trigger", "Kind", "Who", "Detail"),
)


def time_line(facts: Facts) -> Markup:
    """The story of the run: a chapter for each stay in a state."""
    return tag(
        "section",
        tag("h2", "Time line"),
        *(_chapter(chapter) for chapter in facts.story.chapters),
    )


def rows(facts: Facts) -> Markup:
    """Every row of the journal, folded away."""
    names = (
        "Time",
        "Since",
        "Machine",
        "From",
        "To",
        "Trigger",
        "Kind",
        "Who",
        "Detail",
    )
    head = tag("tr", *(tag("th", name, scope="col") for name in names))
    body = []
    for row, since in seconds_of(facts.rows):
        detail = json.dumps(dict(row.detail), sort_keys=True, ensure_ascii=False)
        cells = (
            *(row.at, f"+{since:.6f}", row.machine, row.source, row.dest),
            *(row.trigger, row.kind, row.who, detail if row.detail else ""),
        )
        body.append(tag("tr", *(tag("td", code(cell)) for cell in cells)))
    return tag(
        "section",
        tag("h2", "The journal"),
        tag(
            "details",
            tag("summary", f"All {len(body)} rows of this run"),
            tag(
                "div",
                tag(
                    "table",
                    tag("caption", "As they were written"),
                    tag("thead", head),
                    tag("tbody", *body),
                    class_="rows",
                ),
                class_="wide",
                tabindex="0",
                role="region",
                aria_label="Rows of the journal",
            ),
        ),
    )


def _chapter(chapter: Chapter) -> Markup:
    head = tag(
        "h3",
        tag("span", f"+{brief(chapter.since_seconds)}", class_="since"),
        tag("code", chapter.state),
        _took(chapter.took_seconds),
    )
    entries = [
        tag(
            "li",
            tag("span", f"+{brief(entry.since_seconds)}", class_="since"),
            tag(
                "span",
                entry.what,
                f" ({entry.times} times)" if entry.times > 1 else None,
            ),
            _took(entry.took_seconds),
            class_=entry.kind,
        )
        for entry in chapter.entries
    ]
    return tag("div", head, tag("ol", *entries) if entries else None, class_="chapter")


def _took(seconds: float | None) -> Markup:
    return tag("span", None if seconds is None else brief(seconds), class_="took")
