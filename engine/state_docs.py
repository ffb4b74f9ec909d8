"""The pages about the machines: tables and texts of the declarations as Markdown.

Whatever these pages say about behaviour is a text of a declaration. Here is only the
frame around it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..states.deletion import DELETION
from ..states.fold import ALLOWED, FOLD
from ..states.machine import Declaration, Edge, Moment, State, Step
from .markdown import bullets, code, escape, table, text
from .runner import announces, crash_points

CRASH_POINTS: Final = "crash-points.md"
_NONE: Final = "-"


def pages(
    machines: Sequence[Declaration], drawn: Mapping[str, str], refresh: str
) -> dict[str, str]:
    """The Markdown documents by file name.

    ``drawn`` holds the Mermaid text of each machine, ``refresh`` is the command that
    writes these documents.
    """
    texts = {"README.md": _index(machines, refresh)}
    for machine in machines:
        texts[f"{machine.name}.md"] = _page(machine, drawn[machine.name])
    texts[CRASH_POINTS] = _crash_page(machines)
    note = f"<!-- Generated from states/*.py by `{refresh}`. Do not edit. -->"
    return {name: f"{note}\n\n{text}" for name, text in texts.items()}


def _index(machines: Sequence[Declaration], refresh: str) -> str:
    points = sum(len(crash_points(machine)) for machine in driven(machines))
    parts = [
        "# The state machines",
        f"Everything in this folder is generated from the declarations in"
        f" `states/*.py`, the same that the engine runs on. After a change of a"
        f" declaration, `{refresh}` writes it anew; `make lint` fails until then."
        f" The pictures are laid out by graphviz' `dot` and carry the hash of what"
        f" they were laid out from, so the check needs no `dot`.",
        bullets(
            [
                *(f"[{each.title}]({each.name}.md)" for each in machines),
                f"[Crash points]({CRASH_POINTS}): every moment that a crash test"
                f" can kill at ({points})",
            ]
        ),
        "## How to read them",
        bullets(
            [
                "An edge is labelled with its trigger and, in brackets, its guards."
                " Of several edges with one trigger the first whose guards hold is"
                " taken, in the order of the table.",
                "Coloured states lie behind the point of no return: the run cannot"
                " be given up in them. In the SVGs the edges into them are bold.",
                "*Announced by*: the row that is durable before the step begins; an"
                " own row, or that of another step or edge.",
                "*Recovery* of a step that was announced and not noted: *repeat* does"
                " it again, *observe* looks whether it happened.",
            ]
        ),
    ]
    for machine in machines:
        parts += [
            f"## {machine.title}",
            f"[![{machine.title}]({machine.name}.svg)]({machine.name}.md)",
        ]
    return text(parts)


def _page(machine: Declaration, mermaid: str) -> str:
    parts = [
        f"# {machine.title}",
        f"```mermaid\n{mermaid}```",
        f"The same [as a picture]({machine.name}.svg)."
        f" [How to read it](README.md#how-to-read-them).",
        "## Edges",
        table(
            ("from", "trigger", "to", "guards", "when"),
            (
                (
                    _link(edge.source),
                    code(edge.trigger),
                    _link(edge.dest),
                    _guards(edge),
                    escape(edge.when),
                )
                for edge in machine.edges
            ),
        ),
    ]
    if machine.name == FOLD.name:
        parts += ["## Allowed in the states of a deletion", _allowed(machine)]
    parts.append("## States")
    for state in machine.states:
        parts += _section(machine, state)
    return text(parts)


def _allowed(fold: Declaration) -> str:
    """Which states of a fold each state of a deletion allows."""
    rows = []
    for state in DELETION.states:
        folds = [each.name for each in fold.states if each.name in ALLOWED[state.name]]
        rows.append(
            (
                f"[{state.name}]({DELETION.name}.md#{state.name})",
                ", ".join(_link(name) for name in folds) or _NONE,
            )
        )
    return table(("deletion", "folds"), rows)


def _section(machine: Declaration, state: State) -> list[str]:
    """One state: what it does, how it is left, its steps, a kill in it."""
    parts = [f"### {state.name}", escape(state.does)]
    if state.name == machine.initial:
        parts.append("The initial state.")
    if state.final:
        parts.append("A final state.")
    edges = [edge for edge in machine.edges if edge.source == state.name]
    if edges:
        rows = ((code(edge.trigger), _link(edge.dest), _guards(edge)) for edge in edges)
        parts.append(table(("trigger", "to", "guards"), rows))
    if state.steps:
        parts.append(
            table(
                (
                    "step",
                    "does",
                    "announced by",
                    "a kill in it leaves",
                    "recovery",
                    "undone by",
                ),
                (_step(step) for step in state.steps),
            )
        )
    if state.killed:
        parts.append(f"**A kill here leaves:** {escape(state.killed)}")
    if state.recovers:
        parts.append(f"**Recovery:** {escape(state.recovers)}")
    return parts


def _step(step: Step) -> tuple[str, ...]:
    own = "own row" if announces(step) else "no row"
    return (
        code(step.name),
        escape(step.does),
        own if step.covered_by is None else code(step.covered_by),
        escape(step.killed),
        step.recovery.value,
        _NONE if step.undone_by is None else code(step.undone_by),
    )


def driven(machines: Iterable[Declaration]) -> list[Declaration]:
    """The machines that a runner drives.

    One without steps moves inside of another's transactions only, so that the probe
    is never told of its edges.
    """
    return [m for m in machines if any(state.steps for state in m.states)]


def _crash_page(machines: Sequence[Declaration]) -> str:
    """Every crash point of every machine, counted."""
    machines = driven(machines)
    points = {machine.name: crash_points(machine) for machine in machines}
    counts = []
    for machine in machines:
        moments = Counter(moment for _, _, moment in points[machine.name])
        counts.append(
            (
                f"[{machine.name}](#{machine.name})",
                *(str(moments[moment.value]) for moment in Moment),
                str(len(points[machine.name])),
            )
        )
    total = sum(len(each) for each in points.values())
    parts = [
        "# Crash points",
        f"Every moment that the probe is told of, {total} in all.",
        table(("machine", *(moment.value for moment in Moment), "all"), counts),
    ]
    for machine in machines:
        rows = (
            (
                str(number),
                f"[{state}]({machine.name}.md#{state})",
                code(name),
                "edge" if machine.state(state).step(name) is None else "step",
                moment,
            )
            for number, (state, name, moment) in enumerate(points[machine.name], 1)
        )
        parts += [
            f"## {machine.name}",
            table(("", "state", "step or edge", "kind", "moment"), rows),
        ]
    return text(parts)


def _guards(edge: Edge) -> str:
    return " and ".join(code(guard) for guard in edge.guards) or _NONE


def _link(state: str) -> str:
    return f"[{state}](#{state})"
