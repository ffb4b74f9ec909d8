"""Where the time went, and the machines with the way that this run took."""

from __future__ import annotations

import re
from typing import Final

from ...states.deletion import DELETION
from ..words import brief
from .facts import Facts
from .markup import Markup, tag

#: A stay is drawn at least this wide (percent), so that it can be seen.
_THINNEST: Final = 0.5


def times(facts: Facts) -> Markup:
    """A strip of the run's time, a line for each state that it was in."""
    whole = max(
        [stay.since + (stay.seconds or 0.0) for stay in facts.route.visits] or [0.0]
    )
    lines = []
    for state in dict.fromkeys(stay.state for stay in facts.route.visits):
        stays = [stay for stay in facts.route.visits if stay.state == state]
        spent = [stay.seconds for stay in stays if stay.seconds is not None]
        often = f"{len(stays)} times, " if len(stays) > 1 else ""
        told = (
            f"{often}{brief(sum(spent))}"
            if spent
            else f"after {brief(stays[-1].since)}"
        )
        if facts.route.now == state:
            told += ", still in it"
        bars = [
            tag(
                "span",
                class_="bar",
                style=_place(stay.since, stay.seconds or 0.0, whole),
            )
            for stay in stays
        ]
        if facts.decided is not None:
            place = _place(facts.decided, 0.0, whole)
            bars.append(tag("span", class_="mark", style=place.split(";")[0]))
        kind = "now" if facts.route.now == state else None
        lines.append(
            tag(
                "li",
                tag("span", tag("code", state), class_="state"),
                tag("span", *bars, class_="track", aria_hidden="true"),
                tag("span", told, class_="spent"),
                tag("span", _does(state), class_="does"),
                class_=kind,
            )
        )
    return tag(
        "section",
        tag("h2", "Where the time went"),
        None
        if facts.decided is None
        else tag(
            "p",
            "The red line is the decision, the point of no return, after"
            f" {brief(facts.decided)}.",
            class_="hint",
        ),
        tag("ol", *lines, class_="strip"),
    )


def diagrams(facts: Facts) -> Markup:
    """The pictures that `dot` drew, or a sentence why there are none."""
    if facts.machine is None:
        body = [
            tag(
                "p",
                f"The diagrams were not drawn: {facts.undrawn} The strip above shows"
                " the same way. With Debian's package graphviz they are part of the"
                " report.",
                class_="hint",
            )
        ]
    else:
        body = [
            tag(
                "p",
                "What this run did is blue, its point of no return is red, where it"
                " stands is yellow, and what it did not touch is grey. The numbers are"
                " the order; the times count from its beginning.",
                class_="hint",
            ),
            _figure(facts.machine, "m", "The deletion", _way(facts)),
        ]
        if facts.folds is not None:
            body.append(
                tag(
                    "details",
                    tag("summary", "The way of each disk"),
                    _figure(facts.folds, "f", "The folds", "See the table of disks."),
                )
            )
    return tag("section", tag("h2", "The way through the machine"), *body)


def _figure(svg: str, prefix: str, name: str, told: str) -> Markup:
    role = {"role": "region", "aria_label": f"Diagram: {name}", "tabindex": "0"}
    picture = tag("div", _inline(svg, prefix), class_="wide machine", **role)
    caption = tag("figcaption", tag("strong", f"{name}. "), told)
    return tag("figure", picture, caption)


def _inline(svg: str, prefix: str) -> Markup:
    """An SVG of `dot` for the inside of a page; its texts are escaped by `dot`."""
    drawing = svg[svg.index("<svg") :]
    drawing = re.sub(r"<!--.*?-->\n?", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'\bid="', f'id="{prefix}-', drawing)
    size = re.compile(r'<svg width="(\d+)pt" height="(\d+)pt"')
    role = f'<svg role="img" aria-label="{_LABELS[prefix]}" width="\\1" height="\\2"'
    return Markup(size.sub(role, drawing, count=1))


_LABELS: Final = {
    "m": "Diagram of the deletion; the caption tells the way in words",
    "f": "Diagram of the folds; the table of disks tells their states in words",
}


def _way(facts: Facts) -> str:
    """The way in words, for those who do not see the picture."""
    states = [stay.state for stay in facts.route.visits]
    if len(states) > 24:
        states = [*states[:12], f"({len(states) - 24} more)", *states[-12:]]
    return " → ".join(states) + "."


def _does(state: str) -> str:
    """The first sentence of what a state does, from its declaration."""
    try:
        does = DELETION.state(state).does
    except KeyError:
        return ""
    first = does.replace("`", "").split(". ")[0]
    return first if first.endswith(".") else f"{first}."


def _place(since: float, seconds: float, whole: float) -> str:
    if whole <= 0:
        return f"left:0%;width:{_THINNEST}%"
    width = max(_THINNEST, 100 * seconds / whole)
    left = min(100 - width, max(0.0, 100 * since / whole))
    return f"left:{left:.2f}%;width:{width:.2f}%"
