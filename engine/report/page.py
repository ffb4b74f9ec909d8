"""The page of a report: head, sections, foot."""

from __future__ import annotations

from importlib import resources

from ... import __version__
from ..cli.text import instant
from . import headline, history, images, machine
from .facts import Facts
from .markup import Markup, code, escape, tag

#: What the browser is allowed to do: to read the style sheet of this page.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'"


def page(facts: Facts) -> str:
    """The whole page. Pure: the same facts, the same text."""
    title = f"{headline.sentence(facts)} Deletion {facts.run.id}"
    style = (resources.files(__package__) / "report.css").read_text(encoding="utf-8")
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content=f"Backfold {__version__}"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
    )
    main = tag(
        "main",
        headline.section(facts),
        images.section(facts),
        machine.times(facts),
        images.disks(facts),
        headline.risks(facts),
        history.time_line(facts),
        machine.diagrams(facts),
        history.rows(facts),
    )
    foot = tag(
        "footer",
        tag(
            "p",
            "From the journal as it was at ",
            escape(instant(facts.made)),
            f", by Backfold {__version__}. Deletion ",
            code(facts.run.id),
            ". Times are UTC.",
        ),
    )
    body = tag("body", main, foot)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
