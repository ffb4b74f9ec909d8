"""The pictures of the machines, drawn from their declarations by `transitions`.

`python -m backfold.engine.diagram DIR` writes the documents of all machines;
`--check DIR` says which of them are stale. Checking needs no `dot`: a committed SVG
carries the hash of the DOT text that it was laid out from, and only that is compared,
since every graphviz lays out a little differently.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from transitions.extensions import diagrams_graphviz, diagrams_mermaid
from transitions.extensions.diagrams import GraphMachine
from transitions.extensions.diagrams_base import BaseGraph

from ..journal.errors import BackfoldError, CommandFailed, UsageError
from ..states.deletion import DELETION, UNDECIDED
from ..states.fold import ALLOWED, FOLD
from ..states.machine import Declaration
from ..states.reversion import REVERSION
from . import state_docs
from .diagram_styles import STYLES
from .routes import Route, Travelled, leg_lines, visit_lines, visited
from .seeds import MACHINES

FORMATS: Final = ("mermaid", "dot", "svg")
#: What refreshes the committed documents.
REFRESH: Final = "make diagrams"
#: How long `dot` may take.
DOT_SECONDS: Final = 60.0

_HASH: Final = re.compile(r"<!-- sha256 of the DOT source: ([0-9a-f]{64}) -->")


class _Subject:
    """What a diagram is drawn of: a model that has done nothing yet."""

    state: str


class MermaidGraph(diagrams_mermaid.Graph):
    """A Mermaid diagram that shows where the machine ends."""

    def _add_nodes(self, states: list[dict[str, str]], container: list[str]) -> None:
        super()._add_nodes(states, container)
        for state in states:
            if state.get("final"):
                container.append(f"{state['name']} --> [*]")

    def _convert_state_attributes(self, state: dict[str, str]) -> str:
        label = super()._convert_state_attributes(state)
        return "<br/>".join([label, *map(_mermaid, self.machine.told_of_state(state))])

    def _transition_label(self, tran: dict[str, str]) -> str:
        label = super()._transition_label(tran)
        return "<br/>".join([label, *map(_mermaid, self.machine.told_of_edge(tran))])


class DotGraph(diagrams_graphviz.Graph):
    """A graphviz diagram that shows where the machine begins."""

    def _add_nodes(self, states: list[dict[str, str]], container: Any) -> None:
        super()._add_nodes(states, container)
        container.node("[*]", shape="point", width="0.15", fillcolor="black")
        container.edge("[*]", str(self.machine.initial))

    def _convert_state_attributes(self, state: dict[str, str]) -> str:
        label = super()._convert_state_attributes(state).removesuffix(r"\l")
        return r"\n".join([label, *map(_dot, self.machine.told_of_state(state))])

    def _transition_label(self, tran: dict[str, str]) -> str:
        label = super()._transition_label(tran)
        told = [_dot(line) for line in self.machine.told_of_edge(tran)]
        # The space keeps the text off its line.
        if not told:
            return f" {label}"
        # Several lines are set to the left, where browsers drop a common space.
        return "".join(f"\N{NO-BREAK SPACE}{line}\\l" for line in (label, *told))


class Diagram(GraphMachine):
    """The graph machine of `transitions` with Backfold's styles.

    It never falls back from one engine to the other, as its base class does.
    """

    def __init__(
        self,
        model: object,
        engine: str,
        declaration: Declaration,
        routes: Sequence[Route] = (),
    ) -> None:
        """Build the machine of ``declaration`` around ``model``."""
        self.machine_attributes = {"rankdir": "TB"}
        self.style_attributes = STYLES[engine]
        self.routes = routes
        table = declaration.table()
        table["states"] = [
            {"name": state.name, "final": state.final} for state in declaration.states
        ]
        super().__init__(
            model,
            **table,
            title=declaration.title,
            show_conditions=True,
            graph_engine="graphviz" if engine == "graphviz" else "mermaid",
        )

    def told_of_state(self, state: Mapping[str, str]) -> list[str]:
        """What the routes tell of a state, in lines."""
        return visit_lines(self.routes, state["name"])

    def told_of_edge(self, edge: Mapping[str, str]) -> list[str]:
        """What the routes tell of a transition, in lines."""
        return leg_lines(self.routes, edge["source"], edge["trigger"], edge["dest"])

    def _init_graphviz_engine(self, graph_engine: str) -> type[BaseGraph]:
        return DotGraph if graph_engine == "graphviz" else MermaidGraph


def forward_only(declaration: Declaration) -> frozenset[str]:
    """The states behind the point of no return, before the run ends.

    For a deletion, those that it cannot be given up in; for a fold, those that are
    allowed there only; for a reversion, those after its record. A creation has none.
    """
    open_states = {state.name for state in declaration.states if not state.final}
    if declaration.name == DELETION.name:
        return frozenset(open_states - UNDECIDED)
    if declaration.name == FOLD.name:
        decided = forward_only(DELETION)
        return frozenset(
            fold
            for fold in open_states
            if {state for state, folds in ALLOWED.items() if fold in folds} <= decided
        )
    if declaration.name == REVERSION.name:
        undone = {edge.source for edge in declaration.edges if edge.trigger == "undo"}
        return frozenset(open_states - undone)
    return frozenset()


def draw(
    declaration: Declaration,
    format: str,
    active: str | None = None,
    travelled: Travelled | None = None,
) -> str:
    """Draw a declaration; ``active`` is the state that a run stands in.

    With ``travelled``, the way that a run took stands out and the rest is grey.

    Raises `UsageError` for an unknown format or state, and `CommandFailed` when an
    SVG is asked for and there is no `dot`.
    """
    if format not in FORMATS:
        raise UsageError(
            f"{format!r} is not a format of diagrams.",
            remedy=f"Use one of: {', '.join(FORMATS)}.",
        )
    names = [state.name for state in declaration.states]
    if active is not None and active not in names:
        raise UsageError(
            f"{active!r} is not a state of a {declaration.name}.",
            remedy=f"Use one of: {', '.join(names)}.",
        )
    model = _Subject()
    engine = "mermaid" if format == "mermaid" else "graphviz"
    routes = () if travelled is None else travelled.routes
    graph = Diagram(model, engine, declaration, routes).model_graphs[id(model)]
    assert isinstance(graph, MermaidGraph | DotGraph)
    title = declaration.title
    if travelled is None:
        _style(graph, declaration, active)
    else:
        _style_travelled(graph, declaration, routes)
        title = f"{title} ({travelled.caption})"
    if isinstance(graph, MermaidGraph):
        # Front matter: the title has to be a YAML mapping to be shown.
        title = f"title: {json.dumps(title, ensure_ascii=False)}"
        lines = graph.get_graph(title).source.splitlines()
        return "".join(f"{line.rstrip()}\n" for line in lines)
    dot = str(graph.get_graph(title).source)
    return dot if format == "dot" else svg(dot)


def _style(
    graph: MermaidGraph | DotGraph, declaration: Declaration, active: str | None
) -> None:
    """Replace the style of the current state by ours, and drop unused styles."""
    forward = forward_only(declaration)
    styles = dict.fromkeys(declaration.final, "final")
    styles |= dict.fromkeys(forward, "forward")
    if active is not None:
        styles[active] = "active"
    _style_states(graph, styles)
    line = set(itertools.pairwise(state.name for state in declaration.states))
    edges: Any = graph.custom_styles["edge"]
    for edge in declaration.edges:
        decides = edge.dest in forward and edge.source not in forward
        words = ["forward"] * decides + ["line"] * ((edge.source, edge.dest) in line)
        edges[edge.source][edge.dest] = " ".join(words)


def _style_travelled(
    graph: MermaidGraph | DotGraph, declaration: Declaration, routes: Sequence[Route]
) -> None:
    """The styles of a run: where it was, where it is, and what it did not touch."""
    forward, seen = forward_only(declaration), visited(routes)
    now = {route.now for route in routes}
    styles = {}
    for state in declaration.states:
        words = [
            "now" if state.name in now else "seen" if state.name in seen else "not"
        ]
        words += ["final"] * state.final
        styles[state.name] = "_".join(words)
    _style_states(graph, styles)
    line = set(itertools.pairwise(state.name for state in declaration.states))
    made = {(leg.source, leg.dest) for route in routes for leg in route.legs}
    edges: Any = graph.custom_styles["edge"]
    for edge in declaration.edges:
        decides = edge.dest in forward and edge.source not in forward
        arrow = (edge.source, edge.dest)
        words = ["not" if arrow not in made else "decided" if decides else "made"]
        words += ["line"] * (arrow in line)
        edges[edge.source][edge.dest] = " ".join(words)


def _style_states(graph: MermaidGraph | DotGraph, styles: Mapping[str, str]) -> None:
    graph.reset_styling()
    for name, style in styles.items():
        graph.set_node_style(name, style)
    attributes: dict[str, Any] = dict(graph.machine.style_attributes)
    used = {"default", *styles.values()}
    attributes["node"] = {k: v for k, v in attributes["node"].items() if k in used}
    graph.machine.style_attributes = attributes


def _dot(text: str) -> str:
    """Other people's words (a disk's name) inside of a label of DOT."""
    return _plain(text).replace("\\", r"\\")


def _mermaid(text: str) -> str:
    """The same in Mermaid, which cannot show every character, however it is told."""
    return re.sub(r"[^\w ,.+()/=@'!-]", "?", text)


def _plain(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def render(
    machine: str,
    format: str,
    active: str | None = None,
    travelled: Travelled | None = None,
) -> str:
    """The diagram of a machine by its name; see `draw`.

    Raises `UsageError` for an unknown machine, format or state, and `CommandFailed`
    when an SVG is asked for and there is no `dot`.
    """
    for declaration in MACHINES:
        if declaration.name == machine:
            return draw(declaration, format, active, travelled)
    raise UsageError(
        f"{machine!r} is not a machine.",
        remedy=f"Use one of: {', '.join(known.name for known in MACHINES)}.",
    )


def svg(dot: str) -> str:
    """Lay out DOT text by the `dot` program; the SVG carries the text's hash.

    Raises `CommandFailed` when there is no `dot`, or when it fails.
    """
    try:
        done = subprocess.run(
            ["dot", "-Tsvg"],
            input=dot,
            capture_output=True,
            encoding="utf-8",
            timeout=DOT_SECONDS,
            check=True,
        )
    except OSError as error:
        raise CommandFailed(
            f"The program `dot` cannot be run: {error.strerror}.",
            remedy="Install Debian's package `graphviz`, or ask for the format"
            " mermaid or dot, which need no program.",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CommandFailed(
            f"`dot` did not end within {DOT_SECONDS:.0f} seconds.",
            remedy="Ask for the format mermaid or dot, which need no program.",
        ) from error
    except subprocess.CalledProcessError as error:
        raise CommandFailed(
            f"`dot` failed with status {error.returncode}: {error.stderr.strip()}",
            remedy="Check the installation of Debian's package `graphviz`.",
        ) from error
    head, root, body = done.stdout.partition("<svg")
    return f"{head}<!-- sha256 of the DOT source: {_sha256(dot)} -->\n{root}{body}"


def svg_hash(text: str) -> str | None:
    """The hash of the DOT text that an SVG was made from, as the SVG says."""
    found = _HASH.search(text)
    return None if found is None else found[1]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stale(folder: Path, machines: Sequence[Declaration] = MACHINES) -> dict[str, str]:
    """What is wrong with the documents in ``folder``: file name → why."""
    wrong = {}
    pages, dots = _documents(machines)
    for name, text in pages.items():
        old = _read(folder / name)
        if old != text.encode():
            wrong[name] = "is missing" if old is None else "differs"
    for name, dot in dots.items():
        old = _read(folder / name)
        if old is None:
            wrong[name] = "is missing"
        elif svg_hash(old.decode(errors="replace")) != _sha256(dot):
            wrong[name] = "was drawn from another declaration"
    if folder.is_dir():
        extra = {path.name for path in folder.iterdir()} - pages.keys() - dots.keys()
        wrong |= dict.fromkeys(sorted(extra), "is not a generated document: remove it")
    return wrong


def write(folder: Path, machines: Sequence[Declaration] = MACHINES) -> None:
    """Write the documents; an SVG only when its DOT text has changed.

    Raises `CommandFailed` before anything is written when an SVG needs `dot` and
    there is none.
    """
    pages, dots = _documents(machines)
    outdated = stale(folder, machines)
    pages |= {name: svg(dot) for name, dot in dots.items() if name in outdated}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def _documents(
    machines: Iterable[Declaration],
) -> tuple[dict[str, str], dict[str, str]]:
    """The pages, and the DOT texts of the pictures, by file name."""
    machines = tuple(machines)
    drawn = {machine.name: draw(machine, "mermaid") for machine in machines}
    dots = {f"{machine.name}.svg": draw(machine, "dot") for machine in machines}
    return state_docs.pages(machines, drawn, REFRESH), dots


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def main(
    arguments: Sequence[str] | None = None,
    machines: Sequence[Declaration] = MACHINES,
) -> int:
    """Write or check the documents; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m backfold.engine.diagram")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="write nothing")
    options = parser.parse_args(arguments)
    folder: Path = options.folder
    try:
        if not options.check:
            write(folder, machines)
            return 0
        wrong = stale(folder, machines)
    except BackfoldError as error:
        print(error.what, error.remedy, file=sys.stderr)
        return error.exit_status
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    for name, why in wrong.items():
        print(f"{folder / name} {why}", file=sys.stderr)
    if wrong:
        print(f"Refresh the documents by: {REFRESH}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
