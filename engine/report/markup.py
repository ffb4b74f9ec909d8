"""HTML from text: the one place where it is made, so that nothing is not escaped.

Every name, path, reason and detail of a report may come from an attacker: text is
shown as `safe` shows it on a terminal, then escaped. What is HTML already says so by
its type.
"""

from __future__ import annotations

import html
from typing import Final

from ..cli.text import safe


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


#: What a child of an element may be; None is left out.
Child = Markup | str | int | float | None

_VOID: Final = frozenset({"meta", "br", "hr"})


def tag(
    element: str, /, *children: Child, **attributes: str | int | bool | None
) -> Markup:
    """An element with its children.

    A trailing underscore of an attribute's name is dropped and others are hyphens
    (``class_``, ``aria_label``); one that is None or False is left out.
    """
    told = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if element in _VOID:
        return Markup(f"<{element}{told}>")
    return Markup(f"<{element}{told}>{join(*children)}</{element}>")


def join(*children: Child) -> Markup:
    """Children beside each other."""
    return Markup(
        "".join(
            child if isinstance(child, Markup) else escape(child)
            for child in children
            if child is not None
        )
    )


def escape(text: object) -> Markup:
    """Text that a browser shows as it is, and never acts on."""
    return Markup(html.escape(safe(text), quote=True))


def code(text: object) -> Markup:
    """A name or a path, in the direction of its own letters."""
    return tag("code", tag("bdi", safe(text)))
