"""The time line for people, and the rows of the journal as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ...journal.runs import TransitionRow
from ...states.deletion import DELETION
from ...states.fold import FOLD
from ..routes import length, seconds_of
from .facts import Facts
from .markup import Child, Markup, code, tag

_COLUMNS: Final = (
    *("Time", "Since", "Machine", "From", "To", "Trigger", "Kind", "Who", "Detail"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the time line; times are seconds."""

    since: float
    took: float | None
    kind: str
    what: tuple[Child, ...]


def time_line(facts: Facts) -> Markup:
    """What happened, one line for each edge, step and remark."""
    lines = [
        tag(
            "li",
            tag("span", f"+{length(line.since)}", class_="since"),
            tag("span", *line.what, class_="what"),
            tag(
                "span", None if line.took is None else length(line.took), class_="took"
            ),
            class_=line.kind,
        )
        for line in _lines(facts)
    ]
    return tag(
        "section",
        tag("h2", "Time line"),
        tag("ol", *lines, class_="story"),
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


def _lines(facts: Facts) -> Iterator[Line]:
    announced: dict[tuple[str, str], float] = {}
    for row, since in seconds_of(facts.rows):
        step = (row.source, row.trigger)
        if row.kind == "announce":
            announced[step] = since
        elif row.kind == "note":
            begun = announced.pop(step, None)
            took = None if begun is None else max(0.0, since - begun)
            yield Line(begun if begun is not None else since, took, "step", _step(row))
        elif row.kind == "edge":
            kind = "fold" if row.machine == FOLD.name else "edge"
            kind = "edge decided" if row.trigger == "decide" else kind
            yield Line(since, None, kind, _edge(row))
        else:
            yield Line(since, None, "remark", _remark(row))
    for (state, name), since in announced.items():
        what = ("Announced and not noted: ", code(f"{state}/{name}"))
        yield Line(since, None, "remark", what)


def _step(row: TransitionRow) -> tuple[Child, ...]:
    return (code(row.trigger.replace("_", " ")),)


def _edge(row: TransitionRow) -> tuple[Child, ...]:
    machine = FOLD if row.machine == FOLD.name else DELETION
    when = next(
        (
            edge.when
            for edge in machine.edges
            if (edge.source, edge.trigger, edge.dest)
            == (row.source, row.trigger, row.dest)
        ),
        "",
    )
    arrow = (tag("code", row.source), " → ", tag("strong", tag("code", row.dest)))
    if row.machine == FOLD.name:
        return (code(row.detail.get("disk")), " ", *arrow, f": {when}")
    return (*arrow, f": {when}")


def _remark(row: TransitionRow) -> tuple[Child, ...]:
    told = row.detail.get("what") or row.detail.get("because") or ""
    by = (" by ", code(row.who)) if row.trigger in ("claim", "request_cancel") else ()
    return (
        tag("strong", row.trigger.replace("_", " ")),
        *by,
        f" {told}" if told else "",
    )
