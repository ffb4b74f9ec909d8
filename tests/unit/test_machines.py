"""The three tables are sound, alone and together, and the states keep to them."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import backfold.states
from backfold.engine import deletion_run, planned_run
from backfold.engine.seeds import MACHINES, SEEDS
from backfold.states import revert, take_snapshot
from backfold.states.creation import CREATION
from backfold.states.deletion import DELETION, UNDECIDED
from backfold.states.fold import ALLOWED, FOLD
from backfold.states.machine import REMARKS, Declaration, Recovery, Step
from backfold.states.reversion import REVERSION

Node = tuple[str, str]

#: Edges that are taken by deletions without folds only.
WITHOUT_FOLDS = {
    ("refuse", "refused"),
    ("proceed", "update_metadata"),
    ("finish", "completed"),
}
#: Edges that do not belong to the way of one pass: back before the decision, and
#: those that a guard allows only when the snapshot is gone already.
ACROSS = frozenset({"annul", "again", "finish"})

machines = pytest.mark.parametrize("machine", MACHINES, ids=lambda m: m.name)


def names(machine: Declaration) -> list[str]:
    return [state.name for state in machine.states]


def steps(machine: Declaration) -> Iterator[tuple[str, Step]]:
    for state in machine.states:
        for step in state.steps:
            yield state.name, step


def reached(
    machine: Declaration, start: str, without: frozenset[str] = frozenset()
) -> set[str]:
    """The states that can follow a state, itself included."""
    found = {start}
    while more := {
        edge.dest
        for edge in machine.edges
        if edge.source in found
        and edge.dest not in found
        and edge.trigger not in without
    }:
        found |= more
    return found


# Each table by itself


@machines
def test_edges_join_declared_states(machine: Declaration) -> None:
    """`transitions` accepts unknown states silently and fails when it is too late."""
    known = set(names(machine))

    assert len(known) == len(machine.states)
    for edge in machine.edges:
        assert {edge.source, edge.dest} <= known
        assert edge.when
    assert len({(e.source, e.trigger, e.dest) for e in machine.edges}) == len(
        machine.edges
    )


@machines
def test_every_state_is_reached_and_leads_to_an_end(machine: Declaration) -> None:
    """No state is for show, and none is a trap."""
    assert reached(machine, machine.initial) == set(names(machine))
    for state in names(machine):
        assert reached(machine, state) & machine.final


@machines
def test_final_states_are_those_without_a_way_out(machine: Declaration) -> None:
    """Final is final: no edge, no step."""
    sources = {edge.source for edge in machine.edges}

    assert machine.final == set(names(machine)) - sources
    for state in machine.states:
        assert not (state.final and state.steps)


@machines
def test_names_can_be_drawn_and_stored(machine: Declaration) -> None:
    """Hyphens make Mermaid that does not parse; a step is not named like a remark."""
    triggers = {edge.trigger for edge in machine.edges}
    for name in (
        *names(machine),
        *triggers,
        *(step.name for _, step in steps(machine)),
    ):
        assert name.isidentifier() and name.islower()
    for state in machine.states:
        own = [step.name for step in state.steps]
        leaving = {edge.trigger for edge in machine.edges if edge.source == state.name}
        assert len(set(own)) == len(own)
        assert not set(own) & (leaving | set(REMARKS))


@machines
def test_a_choice_between_edges_is_made_by_guards(machine: Declaration) -> None:
    """Of several edges with one trigger, only the last may be without a guard."""
    for state in names(machine):
        for trigger in {e.trigger for e in machine.edges if e.source == state}:
            same = [
                e for e in machine.edges if (e.source, e.trigger) == (state, trigger)
            ]
            assert all(edge.guards for edge in same[:-1])


def test_every_guard_is_a_method_that_returns_bool() -> None:
    """`transitions` takes anything but True for no."""
    models: Mapping[str, type] = {
        "deletion": deletion_run.DeletionModel,
        "creation": planned_run.PlannedModel,
        "reversion": planned_run.PlannedModel,
    }
    for machine in MACHINES:
        for edge in machine.edges:
            for guard in edge.guards:
                method = getattr(models[machine.name], guard)
                assert inspect.signature(method).return_annotation == "bool"


@machines
def test_undo_and_cover_name_what_is_declared(machine: Declaration) -> None:
    """A covered step's row is one of its own state, or the edge into it."""
    declared = {step.name for _, step in steps(machine)}
    for state, step in steps(machine):
        assert step.undone_by is None or step.undone_by in declared
        if step.covered_by is not None:
            own = {each.name for each in machine.state(state).steps}
            into = {edge.trigger for edge in machine.edges if edge.dest == state}
            assert step.covered_by in own | into
            cover = machine.state(state).step(step.covered_by)
            assert cover is None or cover.covered_by is None


@machines
def test_what_undoes_a_step_can_be_repeated(machine: Declaration) -> None:
    """An undo may be interrupted, and then it is done again."""
    undoing = {step.undone_by for _, step in steps(machine)}
    for _, step in steps(machine):
        if step.name in undoing:
            assert step.recovery is Recovery.REPEAT
            assert step.undone_by is None


def test_roll_back_can_undo_every_step_before_the_decision() -> None:
    """What roll_back cannot take back must not be done before the decision."""
    undoing = {step.name for step in DELETION.state("roll_back").steps}
    abandoned = {e.source for e in DELETION.edges if e.trigger == "abandon"}
    for state, step in steps(DELETION):
        if state in abandoned and step.undone_by is not None:
            assert step.undone_by in undoing


def test_an_undone_creation_can_remove_its_overlays_wherever_it_stands() -> None:
    """Every state with an edge to `undone` has the step that undoes."""
    for machine in (CREATION, REVERSION):
        for edge in machine.edges:
            if edge.dest == "undone":
                assert machine.state(edge.source).step("remove_overlays")


def test_a_reversion_has_no_way_back_once_the_catalog_names_its_overlays() -> None:
    """An undo would take disks away that a guest may have written to."""
    back = {edge.source for edge in REVERSION.edges if edge.dest == "undone"}
    into = [edge for edge in REVERSION.edges if edge.dest == "recorded"]

    assert back == {"planned", "overlays_made"}
    assert [edge.source for edge in into] == ["overlays_made"]


# The point of no return


def test_decide_is_the_only_way_into_pivot() -> None:
    """One durable decision covers every disk; nothing else leads past it."""
    into = [edge for edge in DELETION.edges if edge.dest == "pivot"]

    assert [(edge.source, edge.trigger) for edge in into] == [("vote", "decide")]
    before = set(names(DELETION)) - reached(DELETION, "pivot", without=ACROSS)
    assert before == {
        "validate",
        "prepare",
        "start_paused",
        "commit_per_disk",
        "vote",
        "roll_back",
        "rolled_back",
        "refused",
    }
    for edge in DELETION.edges:
        crosses = edge.source in before and edge.dest not in before
        assert (
            not crosses
            or edge.trigger == "decide"
            or edge.guards in (("has_no_folds",), ("is_recorded",))
        )


def test_nothing_leads_back_from_the_decision_but_its_annulment() -> None:
    """After it there is only forward; an annulment is of a COMMIT that failed."""
    after = reached(DELETION, "pivot", without=ACROSS)
    back = [e for e in DELETION.edges if e.source in after and e.dest not in after]

    assert [(e.trigger, e.source, e.dest, e.guards) for e in back] == [
        ("annul", "pivot", "vote", ("nothing_finalized",)),
        ("again", "update_metadata", "prepare", ("has_more",)),
        ("again", "stop", "prepare", ("has_more",)),
    ]
    assert after == {"pivot", "update_metadata", "stop", "completed"}


def test_a_run_can_be_given_up_in_every_open_state_before_the_decision() -> None:
    """`UNDECIDED` is what the API goes by."""
    after = reached(DELETION, "pivot", without=ACROSS)

    assert set(names(DELETION)) - after - DELETION.final == UNDECIDED


# A model and its table


class Model:
    """Notes every callback that the machine could find on it."""

    def __init__(self) -> None:
        self.state = ""
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("on_enter", "on_exit", "before", "after", "on_")):
            return partial(self._note, name)
        if name in {guard for e in DELETION.edges for guard in e.guards}:
            return partial(self._note, name)
        raise AttributeError(name)

    def _note(self, name: str, *_: object) -> bool:
        self.called.append(name)
        return True


@machines
def test_binding_restores_a_state_and_runs_nothing(machine: Declaration) -> None:
    """Recovery stands where the journal says, without entering anything."""
    for state in names(machine):
        model = Model()
        bound = machine.bind(model, state)

        assert model.state == state
        assert model.called == []
        assert set(bound.states) == set(names(machine))
        assert set(bound.get_triggers(state)) == {
            edge.trigger for edge in machine.edges if edge.source == state
        }


@machines
def test_an_unknown_state_cannot_be_restored(machine: Declaration) -> None:
    """`transitions` would add it silently."""
    with pytest.raises(KeyError):
        machine.bind(Model(), "nowhere")
    assert machine.state(machine.initial).step("nothing") is None


def test_the_journal_may_hold_exactly_what_is_declared() -> None:
    """The seeds: every edge, every step and remark of a state, and nothing twice."""
    rows = [(r.machine, r.source, r.trigger, r.dest) for r in SEEDS.transitions]
    edges = {(m.name, e.source, e.trigger, e.dest) for m in MACHINES for e in m.edges}
    own = {(m.name, s, step.name, s) for m in MACHINES for s, step in steps(m)}
    remarks = {(m.name, s, r, s) for m in MACHINES for s in names(m) for r in REMARKS}

    assert len(set(rows)) == len(rows)
    assert set(rows) == edges | own | remarks


# Deletion and folds together


def fold_steps(state: str) -> set[str]:
    """Where a fold can be one edge later, and where it is."""
    return {state} | {edge.dest for edge in FOLD.edges if edge.source == state}


def fold_moves(node: Node) -> Iterator[Node]:
    """Edges of a fold while its deletion stays where it is."""
    deletion, fold = node
    for dest in fold_steps(fold) & ALLOWED[deletion]:
        yield deletion, dest


def together(node: Node) -> Iterator[Node]:
    """An edge of the deletion, with at most one edge of the fold in its transaction."""
    deletion, fold = node
    for edge in DELETION.edges:
        if edge.source == deletion and edge.trigger == "again":
            yield edge.dest, "planned"  # Of another plan.
        elif edge.source == deletion:
            for dest in fold_steps(fold) & ALLOWED[edge.dest]:
                yield edge.dest, dest


@cache
def product() -> frozenset[Node]:
    """Where a deletion and a fold of it can be, from the first plan on."""
    found: set[Node] = set()
    new: set[Node] = {("prepare", "planned")}
    while new:
        found |= new
        new = {n for node in new for n in (*fold_moves(node), *together(node))} - found
    return frozenset(found)


def test_the_table_of_allowed_folds_is_whole() -> None:
    """Each deletion state says which fold states it allows, all of them declared."""
    assert set(ALLOWED) == set(names(DELETION))
    assert set().union(*ALLOWED.values()) == set(names(FOLD))


def test_every_allowed_pair_can_happen() -> None:
    """What cannot happen must not be allowed: the journal checks by this table."""
    pairs = {(state, fold) for state, folds in ALLOWED.items() for fold in folds}

    assert product() == pairs


def test_no_pair_is_a_dead_end() -> None:
    """From every deletion and fold that can be, some end can be reached."""
    good = {node for node in product() if node[0] in DELETION.final}
    while more := {
        node for node in product() - good if good & {*fold_moves(node), *together(node)}
    }:
        good |= more

    assert product() - good == set()


def test_a_deletion_ends_with_folds_that_have_ended() -> None:
    """A finished run leaves no fold in the middle."""
    for state in DELETION.final:
        assert ALLOWED[state] <= FOLD.final


def test_every_edge_of_a_fold_is_used() -> None:
    """In some deletion state, alone or with an edge of the deletion."""
    used = set()
    for node in product():
        for dest in (*fold_moves(node), *together(node)):
            used.add((node[1], dest[1]))

    assert {(edge.source, edge.dest) for edge in FOLD.edges} <= used


def test_every_edge_of_a_deletion_with_folds_can_be_taken() -> None:
    """Both tables agree; edges for deletions without folds are named above."""
    taken = {(node[0], dest[0]) for node in product() for dest in together(node)}
    for edge in DELETION.edges:
        if edge.source == "validate" or (
            edge.source == "prepare" and (edge.trigger, edge.dest) in WITHOUT_FOLDS
        ):
            continue
        assert (edge.source, edge.dest) in taken


def paths(state: str, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every way from a state to an end on which no state comes twice."""
    if state in DELETION.final:
        yield (*seen, state)
    for edge in DELETION.edges:
        if edge.source == state and edge.dest not in (*seen, state):
            yield from paths(edge.dest, (*seen, state))


def test_every_way_of_a_deletion_can_be_gone_with_folds() -> None:
    """On each path there is one for its folds, states of both allowed all along."""
    gone = 0
    for path in paths("prepare"):
        if path[1] in ("refused", "update_metadata", "completed"):
            continue
        folds = {"planned"}
        for here, there in pairwise(path):
            while (
                more := {dest for fold in folds for _, dest in fold_moves((here, fold))}
                - folds
            ):
                folds |= more
            folds = {
                dest
                for fold in folds
                for state, dest in together((here, fold))
                if state == there
            }
            assert folds, path
        assert folds <= FOLD.final
        gone += 1
    assert gone > 5


def test_a_voted_fold_is_one_that_is_decided() -> None:
    """The decision and the votes of all folds are one."""
    decided = reached(DELETION, "pivot", without=ACROSS)
    for state, folds in ALLOWED.items():
        if state == "completed":
            continue  # Folds of a later pass may have been given up.
        if state in decided:
            assert not folds & {"planned", "cancelled", "failed"}
        else:
            assert not folds & {"voted", "switched", "retired"}


# What the states do, by their sources


class Function:
    """What one function of `states` performs by itself, and whom it mentions."""

    def __init__(self, module: str, node: ast.AsyncFunctionDef | ast.FunctionDef):
        self.module = module
        self.performs: set[str] = set()
        self.mentions: set[str] = set()
        self.moves: set[str] = set()
        self.fold_moves: set[tuple[str, ...]] = set()
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name):
                self.mentions.add(inner.id)
            if (
                isinstance(inner, ast.Call)
                and isinstance(inner.func, ast.Attribute)
                and inner.func.attr == "perform"
            ):
                name = inner.args[0]
                assert isinstance(name, ast.Constant), f"{module}: not a plain name"
                self.performs.add(str(name.value))
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                if inner.func.id == "Move":
                    (trigger, *_) = inner.args
                    assert isinstance(trigger, ast.Constant)
                    self.moves.add(str(trigger.value))
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute):
                if inner.func.attr == "move_fold":
                    edge = [a for a in inner.args[3:6] if isinstance(a, ast.Constant)]
                    self.fold_moves.add(tuple(str(a.value) for a in edge))


@cache
def functions() -> Mapping[tuple[str, str], Function]:
    """Every function of `states`, under every name by which a module knows it."""
    trees = {
        path.stem: ast.parse(path.read_text())
        for folder in backfold.states.__path__
        for path in Path(folder).glob("*.py")
    }
    found = {
        (module, node.name): Function(module, node)
        for module, tree in trees.items()
        for node in tree.body
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
    }
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                for alias in node.names:
                    there = found.get((str(node.module), alias.name))
                    if there is not None:
                        found[module, alias.asname or alias.name] = there
    return found


def used_by(handler: Any) -> list[Function]:
    """A state's function and all that it calls, or hands over to be called."""
    todo = [functions()[handler.__module__.rpartition(".")[2], handler.__name__]]
    seen: list[Function] = []
    while todo:
        function = todo.pop()
        if function not in seen:
            seen.append(function)
            for name in function.mentions:
                if (other := functions().get((function.module, name))) is not None:
                    todo.append(other)
    return seen


def handled() -> list[Any]:
    """Every state that has work to do, with the function that does it."""
    driven = (
        (DELETION, deletion_run.HANDLERS),
        (CREATION, take_snapshot.HANDLERS),
        (REVERSION, revert.HANDLERS),
    )
    return [
        pytest.param(machine, state, handlers[state], id=f"{machine.name}-{state}")
        for machine, handlers in driven
        for state in names(machine)
        if state not in machine.final
    ]


@pytest.mark.parametrize(("machine", "state", "handler"), handled())
def test_a_state_performs_the_steps_that_it_declares(
    machine: Declaration, state: str, handler: Any
) -> None:
    """An undeclared step would stop a run; a declared one that is never done lies."""
    declared = {step.name for step in machine.state(state).steps}

    assert {name for f in used_by(handler) for name in f.performs} == declared


@pytest.mark.parametrize(("machine", "state", "handler"), handled())
def test_a_state_leaves_by_its_own_edges(
    machine: Declaration, state: str, handler: Any
) -> None:
    """A trigger that the state does not have would end the run with `Undeclared`."""
    leaving = {edge.trigger for edge in machine.edges if edge.source == state}
    moves = {trigger for f in used_by(handler) for trigger in f.moves}

    assert moves
    assert moves <= leaving


def test_folds_are_moved_along_declared_edges() -> None:
    """Wherever a state names an edge of a fold, or its trigger and destination."""
    declared = {(edge.source, edge.trigger, edge.dest) for edge in FOLD.edges}
    found = set().union(*(f.fold_moves for f in functions().values())) - {()}

    assert len(found) > 5
    assert found <= declared | {edge[1:] for edge in declared}


def test_a_fold_can_fail_wherever_a_deletion_can_be_given_up() -> None:
    """Along declared edges; a job that was not noted as started is noted on the way."""
    edges = {(edge.source, edge.trigger, edge.dest) for edge in FOLD.edges}
    folds = set().union(*(ALLOWED[state] for state in deletion_run.ABANDONABLE))

    assert set(deletion_run.FAILS) == folds
    for fold, path in deletion_run.FAILS.items():
        assert set(path) <= edges
        assert [source for source, _, _ in path] + ["failed"] == [
            fold,
            *(dest for _, _, dest in path),
        ]
        assert path[-1][1] == "fail"


def test_every_open_state_has_its_function_and_no_other() -> None:
    """The tables of functions are the machines' open states."""
    assert set(deletion_run.HANDLERS) == set(names(DELETION)) - DELETION.final
    assert set(take_snapshot.HANDLERS) == set(names(CREATION)) - CREATION.final
    assert set(revert.HANDLERS) == set(names(REVERSION)) - REVERSION.final


def test_effects_happen_in_states_only_through_perform() -> None:
    """The scan above sees every step only if all of them are called this way."""
    found = set().union(*(f.performs for f in functions().values()))
    declared = {step.name for m in MACHINES for _, step in steps(m)}

    assert found == declared
