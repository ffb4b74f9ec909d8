"""The way that a run took through its machine, from the rows of the journal. Pure.

A deletion has one route, its folds have one for each disk. What cannot be read of a
row (a time that is none) is left out, never guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from ..journal.errors import UsageError
from ..journal.runs import TransitionRow
from ..states.deletion import DELETION
from ..states.fold import FOLD
from ..states.machine import Declaration
from .results import Deletion, Run
from .seeds import MACHINES
from .words import brief


@dataclass(frozen=True, slots=True)
class Leg:
    """A transition that was made: the ``number``-th of its route.

    ``since`` are the seconds from the beginning of the run to it.
    """

    number: int
    source: str
    trigger: str
    dest: str
    since: float


@dataclass(frozen=True, slots=True)
class Visit:
    """A stay in a state, from ``since`` (seconds after the run began).

    ``seconds`` is its length, for a state that the run still stands in until the last
    row that it wrote; None in a final state.
    """

    state: str
    since: float
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Route:
    """All transitions of a run, or of its fold on ``disk``, and all stays.

    ``now`` is the state that an open run stands in; None when it has ended.
    """

    disk: str | None
    legs: tuple[Leg, ...]
    visits: tuple[Visit, ...]
    now: str | None


@dataclass(frozen=True, slots=True)
class Travelled:
    """What a run adds to the picture of a machine: its routes, and a caption."""

    machine: str
    routes: tuple[Route, ...]
    caption: str


class Moved(NamedTuple):
    """A row, and the seconds from the first row of its run to it."""

    row: TransitionRow
    since: float


def travelled(
    run: Run, rows: Sequence[TransitionRow], machine: str | None = None
) -> Travelled:
    """The way of a run through its machine, or of a deletion's folds through theirs.

    Raises `UsageError` when ``machine`` is not one of this run.
    """
    own = type(run).__name__.lower()
    machine = own if machine is None else machine
    if machine == FOLD.name and isinstance(run, Deletion):
        states = {disk.target: disk.state for disk in run.disks}
        routes: tuple[Route, ...] = of_folds(FOLD, rows, states)
    elif machine == own:
        declared = next(each for each in MACHINES if each.name == machine)
        routes = of_run(declared, rows)
    else:
        has = f"{own} and {FOLD.name}" if own == DELETION.name else own
        raise UsageError(
            f"{run.id} is a {own}, not a {machine}.",
            remedy=f"Ask for the diagram of {has}, or leave the machine out.",
        )
    if run.seconds is None:
        caption = f"{run.id}: open in {run.state}"
    else:
        caption = f"{run.id}: {run.state} after {brief(run.seconds)}"
    return Travelled(machine, routes, caption)


def of_run(declaration: Declaration, rows: Iterable[TransitionRow]) -> tuple[Route]:
    """The route of a deletion, a creation or a reversion."""
    timed = seconds_of(rows)
    return (_route(declaration, None, declaration.initial, 0.0, timed, timed),)


def of_folds(
    declaration: Declaration,
    rows: Iterable[TransitionRow],
    disks: Mapping[str, str],
) -> tuple[Route, ...]:
    """The routes of the folds of a deletion, by disk.

    ``disks`` are the targets with the states that their folds are in: a fold whose
    job was never started has no row of its own.
    """
    timed = seconds_of(rows)
    planned = [each.since for each in timed if _stores_a_plan(each.row)]
    found: dict[str, list[Moved]] = {target: [] for target in disks}
    for each in timed:
        if each.row.machine == declaration.name:
            target = str(each.row.detail.get("disk"))
            found.setdefault(target, []).append(each)
    return tuple(
        _route(
            declaration,
            target,
            disks.get(target, declaration.initial),
            _last_before(planned, moves[0].since if moves else None),
            moves,
            timed,
        )
        for target, moves in found.items()
    )


def _stores_a_plan(row: TransitionRow) -> bool:
    return row.machine == "deletion" and row.source == "prepare" != row.dest


def _last_before(instants: Sequence[float], end: float | None) -> float:
    before = [each for each in instants if end is None or each <= end]
    return before[-1] if before else end or 0.0


def _route(
    declaration: Declaration,
    disk: str | None,
    state: str,
    begin: float,
    moves: Sequence[Moved],
    everything: Sequence[Moved],
) -> Route:
    edges = [
        each
        for each in moves
        if each.row.machine == declaration.name and each.row.kind == "edge"
    ]
    legs = tuple(
        Leg(number, each.row.source, each.row.trigger, each.row.dest, each.since)
        for number, each in enumerate(edges, 1)
    )
    end = everything[-1].since if everything else 0.0
    visits = tuple(_visits(legs, state, begin, end, declaration.final))
    last = visits[-1].state
    return Route(disk, legs, visits, None if last in declaration.final else last)


def _visits(
    legs: Sequence[Leg], state: str, begin: float, end: float, final: frozenset[str]
) -> Iterator[Visit]:
    for leg in legs:
        # A later pass of a deletion begins with new folds.
        yield Visit(leg.source, begin, max(0.0, leg.since - begin))
        state, begin = leg.dest, leg.since
    yield Visit(state, begin, None if state in final else max(0.0, end - begin))


def seconds_of(rows: Iterable[TransitionRow]) -> list[Moved]:
    """The rows with their seconds since the first of them."""
    timed: list[Moved] = []
    began: datetime | None = None
    for row in rows:
        since = timed[-1].since if timed else 0.0
        try:
            at = datetime.fromisoformat(row.at)
            at = at if at.tzinfo else at.replace(tzinfo=UTC)
            began = at if began is None else began
            since = (at - began).total_seconds()
        except ValueError:
            pass
        timed.append(Moved(row, since))
    return timed


# How a route is told on a picture


def leg_lines(
    routes: Sequence[Route], source: str, trigger: str, dest: str
) -> list[str]:
    """How often and when a transition was made, a line for each disk that made it."""
    lines = []
    for route in routes:
        made = [
            leg
            for leg in route.legs
            if (leg.source, leg.trigger, leg.dest) == (source, trigger, dest)
        ]
        if made:
            lines.append(_of_disk(route, _when(made)))
    return _few(lines)


def visit_lines(routes: Sequence[Route], state: str) -> list[str]:
    """How long the run was in a state, a line for each disk."""
    lines = []
    for route in routes:
        stays = [visit for visit in route.visits if visit.state == state]
        if stays:
            still = ", still in it" if route.now == state else ""
            lines.append(_of_disk(route, f"{_stayed(stays)}{still}"))
    return _few(lines)


def visited(routes: Sequence[Route]) -> frozenset[str]:
    """Every state that a route came through."""
    return frozenset(visit.state for route in routes for visit in route.visits)


#: More lines than these are not legible on a picture.
_LINES = 4
_TIMES = 3


def _when(made: Sequence[Leg]) -> str:
    if len(made) > _TIMES:
        first, last = made[0], made[-1]
        return (
            f"{len(made)} times, {first.number} to {last.number},"
            f" +{brief(first.since)} to +{brief(last.since)}"
        )
    return " and ".join(f"{leg.number} at +{brief(leg.since)}" for leg in made)


def _stayed(stays: Sequence[Visit]) -> str:
    lengths = [visit.seconds for visit in stays if visit.seconds is not None]
    if not lengths:
        return f"after {brief(stays[-1].since)}"
    often = f"{len(stays)} times, " if len(stays) > 1 else ""
    return f"{often}{brief(sum(lengths))}"


def _of_disk(route: Route, what: str) -> str:
    return what if route.disk is None else f"{route.disk} {what}"


def _few(lines: list[str]) -> list[str]:
    if len(lines) <= _LINES:
        return lines
    rest = len(lines) - _LINES + 1
    return [*lines[: _LINES - 1], f"and {rest} more"]
