"""What the pictures of the machines look like, for graphviz and for Mermaid."""

from __future__ import annotations

from typing import Any, Final

_FONT: Final = "Helvetica,Arial,sans-serif"
_RED: Final = "#b02a1a"
_BLUE: Final = "#1f5f99"
_GREY: Final = "#6f6f6f"
_LIGHT: Final = "#c8c8c8"

#: From a state to the one declared after it: these make a straight line.
_LINE: Final = {"weight": "100"}
_FORWARD: Final = {"color": _RED, "fontcolor": _RED, "penwidth": "3"}
# What a run did and did not touch. `class` is for those who put the SVG on a page.
_SEEN: Final = {
    "class": "seen",
    "fillcolor": "#dcebfa",
    "color": _BLUE,
    "penwidth": "2",
}
_NOW: Final = {
    "class": "now",
    "fillcolor": "#ffe9a8",
    "color": "#7a5a00",
    "penwidth": "4",
}
_NOT: Final = {
    "class": "not",
    "fillcolor": "#f5f5f5",
    "color": _LIGHT,
    "fontcolor": _GREY,
}
_MADE: Final = {"class": "made", "color": _BLUE, "fontcolor": _BLUE, "penwidth": "2.5"}
_DECIDED: Final = {"class": "decided", **_FORWARD}
_NOT_MADE: Final = {"class": "not", "color": _LIGHT, "fontcolor": _GREY}
_END: Final = {"peripheries": "2"}

#: In DOT `color` is the border's, in Mermaid the text's; hence two tables.
_DOT_STYLES: Final[dict[str, Any]] = {
    "graph": {
        "default": {
            "fontname": _FONT,
            "fontsize": "16",
            "labelloc": "t",
            "nodesep": "0.3",
            "ranksep": "0.45",
        }
    },
    "node": {
        "default": {
            "shape": "box",
            "style": "rounded,filled",
            "fillcolor": "white",
            "fontname": _FONT,
            "fontsize": "13",
        },
        "final": {"fillcolor": "#e8e8e8", "peripheries": "2"},
        "forward": {"fillcolor": "#fde3c8", "color": _RED, "penwidth": "2"},
        "active": {"fillcolor": "#cfe5ff", "penwidth": "3"},
        "seen": _SEEN,
        "seen_final": {**_SEEN, **_END},
        "now": _NOW,
        "not": _NOT,
        "not_final": {**_NOT, **_END},
    },
    "edge": {
        "default": {"fontname": _FONT, "fontsize": "11"},
        "line": _LINE,
        "forward": _FORWARD,
        "forward line": {**_FORWARD, **_LINE},
        "made": _MADE,
        "made line": {**_MADE, **_LINE},
        "decided": _DECIDED,
        "decided line": {**_DECIDED, **_LINE},
        "not": _NOT_MADE,
        "not line": {**_NOT_MADE, **_LINE},
    },
}
_MERMAID_SEEN: Final = {
    "fill": "#dcebfa",
    "color": "black",
    "stroke": _BLUE,
    "stroke-width": "2px",
}
_MERMAID_NOT: Final = {"fill": "#f5f5f5", "color": _GREY, "stroke": _LIGHT}
_MERMAID_STYLES: Final[dict[str, Any]] = {
    "node": {
        "default": {"fill": "white", "color": "black", "stroke": "black"},
        "final": {"fill": "#e8e8e8", "color": "black", "stroke": "black"},
        "forward": {
            "fill": "#fde3c8",
            "color": "black",
            "stroke": _RED,
            "stroke-width": "3px",
        },
        "active": {
            "fill": "#cfe5ff",
            "color": "black",
            "stroke": "black",
            "stroke-width": "4px",
        },
        "seen": _MERMAID_SEEN,
        "seen_final": {**_MERMAID_SEEN, "stroke-width": "4px"},
        "now": {
            "fill": "#ffe9a8",
            "color": "black",
            "stroke": "#7a5a00",
            "stroke-width": "4px",
        },
        "not": _MERMAID_NOT,
        "not_final": _MERMAID_NOT,
    },
    "edge": {"default": {}},
}

#: By the engines' names in `transitions`.
STYLES: Final = {"graphviz": _DOT_STYLES, "mermaid": _MERMAID_STYLES}
