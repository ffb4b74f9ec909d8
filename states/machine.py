"""What a machine is: states, edges and steps as data.

One `Declaration` drives everything: the engine fires its edges through a
`transitions.Machine`, the journal seeds them into a table that every recorded
transition refers to, the runner performs only declared steps, crash points are the
moments of those steps, and the diagrams are drawn from it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ..journal.schema import DeclaredTransition

with warnings.catch_warnings():  # It adds a filter, which is not ours to add.
    from transitions import Machine


class Recovery(StrEnum):
    """What recovery does about a step that was announced and not noted."""

    #: The step does no harm when it is done again.
    REPEAT = "repeat"
    #: Recovery looks whether it happened, and does it only if it did not.
    OBSERVE = "observe"


class Moment(StrEnum):
    """The instants of a step at which a process can die."""

    ANNOUNCED = "announced"
    DONE = "done"
    NOTED = "noted"


#: Rows beside the edges and steps that every state of every machine may write.
REMARKS = ("claim", "alarm", "request_cancel", "flush_failed", "left_open")


@dataclass(frozen=True, slots=True)
class Step:
    """One side effect of a state.

    ``covered_by`` names the step or edge whose durable row announces this one too:
    while a guest stands still, nothing but the decision is made durable.
    ``undone_by`` names the step that takes it back.
    """

    name: str
    does: str
    killed: str
    recovery: Recovery
    undone_by: str | None = None
    covered_by: str | None = None


@dataclass(frozen=True, slots=True)
class State:
    """One state: what it does, what a kill in it leaves, what recovery does."""

    name: str
    does: str
    killed: str = ""
    recovers: str = ""
    steps: tuple[Step, ...] = ()
    final: bool = False

    def step(self, name: str) -> Step | None:
        """The declared step of that name."""
        return next((step for step in self.steps if step.name == name), None)


@dataclass(frozen=True, slots=True)
class Edge:
    """One transition; ``guards`` are names of bool methods of the model."""

    trigger: str
    source: str
    dest: str
    when: str
    guards: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declaration:
    """A whole machine. The first state is where a run begins."""

    name: str
    title: str
    states: tuple[State, ...]
    edges: tuple[Edge, ...]

    @property
    def initial(self) -> str:
        """The state that a new run is in."""
        return self.states[0].name

    @property
    def final(self) -> frozenset[str]:
        """The states that a run ends in."""
        return frozenset(state.name for state in self.states if state.final)

    def state(self, name: str) -> State:
        """The declared state of that name; KeyError when there is none."""
        for state in self.states:
            if state.name == name:
                return state
        raise KeyError(name)

    def transitions(self) -> Iterator[DeclaredTransition]:
        """Every row that the journal may hold for this machine."""
        for edge in self.edges:
            yield DeclaredTransition(self.name, edge.source, edge.trigger, edge.dest)
        for state in self.states:
            for name in (*(step.name for step in state.steps), *REMARKS):
                yield DeclaredTransition(self.name, state.name, name, state.name)

    def table(self) -> dict[str, Any]:
        """The arguments that build a `transitions` machine of any kind."""
        return {
            "states": [state.name for state in self.states],
            "initial": self.initial,
            "auto_transitions": False,
            "transitions": [
                {
                    "trigger": edge.trigger,
                    "source": edge.source,
                    "dest": edge.dest,
                    "conditions": list(edge.guards),
                }
                for edge in self.edges
            ],
        }

    def bind(self, model: object, state: str) -> Machine:
        """Give ``model`` this machine, standing in ``state``; nothing is entered.

        The synchronous machine is only the table: the engine awaits the work
        outside it, since `AsyncMachine` swallows cancellation.
        """
        self.state(state)
        return Machine(model, **{**self.table(), "initial": state})
