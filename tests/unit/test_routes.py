"""The way that a run took, as the journal tells it and as pictures show it."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest

from backfold import Engine
from backfold.engine import diagram
from backfold.engine.results import Deletion, Run
from backfold.engine.routes import Route, Travelled, of_folds, of_run, travelled
from backfold.journal.errors import UsageError
from backfold.journal.runs import TransitionRow
from backfold.states.deletion import DELETION
from backfold.states.fold import FOLD
from written import Journal

History = tuple[Run, list[TransitionRow]]
COMPLETED, ROLLED_BACK, REFUSED, OPEN = "c0" * 6, "b0" * 6, "f0" * 6, "a0" * 6


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, History]:
    """Runs of every kind, with their rows."""
    path = tmp_path_factory.mktemp("routes") / "journal.db"
    with Journal(path) as journal:
        journal.completed(COMPLETED)
        journal.rolled_back(ROLLED_BACK)
        journal.refused(REFUSED)
        journal.interrupted(OPEN)
    return asyncio.run(read(path))


async def read(path: Path) -> dict[str, History]:
    async with Engine(path) as engine:
        return {
            run.id: (run, await engine.log(run.id)) for run in await engine.deletions()
        }


def states(route: Route) -> list[str]:
    return [visit.state for visit in route.visits]


def way(history: History, machine: str | None = None) -> Travelled:
    return travelled(history[0], history[1], machine)


def drawn(history: History, format: str, machine: str | None = None) -> str:
    made = way(history, machine)
    return diagram.render(made.machine, format, travelled=made)


def test_a_route_has_every_transition_in_order_with_its_time(
    found: dict[str, History],
) -> None:
    (route,) = way(found[COMPLETED]).routes
    told = [(leg.number, leg.trigger, round(leg.since, 3)) for leg in route.legs]

    assert told == [
        (1, "accept", 1.0),
        (2, "proceed", 2.0),
        (3, "proceed", 4.6),
        (4, "back_off", 5.1),
        (5, "proceed", 8.1),
        (6, "decide", 9.1),
        (7, "proceed", 11.1),
        (8, "proceed", 12.1),
    ]
    assert states(route)[-2:] == ["update_metadata", "completed"]
    assert route.now is None


def test_stays_touch_each_other_and_add_up_to_the_run(
    found: dict[str, History],
) -> None:
    run, rows = found[COMPLETED]
    (route,) = of_run(DELETION, rows)
    for stay, following in itertools.pairwise(route.visits):
        assert stay.seconds is not None
        assert stay.since + stay.seconds == pytest.approx(following.since)
    total = sum(stay.seconds or 0 for stay in route.visits)

    assert total == pytest.approx(run.seconds)
    assert route.visits[-1].seconds is None


def test_an_open_run_stands_somewhere_until_its_last_row(
    found: dict[str, History],
) -> None:
    (route,) = way(found[OPEN]).routes

    assert route.now == "vote"
    assert states(route) == ["validate", "prepare", "commit_per_disk", "vote"]
    assert route.visits[-1].seconds == pytest.approx(0.2)
    assert "open in vote" in way(found[OPEN]).caption


def test_each_fold_has_a_route_from_its_plan_on(found: dict[str, History]) -> None:
    routes = way(found[COMPLETED], "fold").routes

    assert [route.disk for route in routes] == ["vda", "vdb"]
    for route in routes:
        assert states(route) == [
            *("planned", "copying", "converged", "copying", "converged"),
            *("voted", "switched", "retired"),
        ]
        assert route.visits[0].since == pytest.approx(2.0)
        assert route.visits[0].seconds == pytest.approx(0.1)


def test_a_fold_whose_job_was_never_started_stands_at_its_plan(
    found: dict[str, History],
) -> None:
    _, rows = found[OPEN]
    until = next(i for i, row in enumerate(rows) if row.machine == "fold")
    (route,) = of_folds(FOLD, rows[:until], {"vda": "planned"})

    assert (route.disk, route.now, route.legs) == ("vda", "planned", ())


def test_a_second_pass_begins_with_new_folds(found: dict[str, History]) -> None:
    _, rows = found[COMPLETED]
    (vda, _) = of_folds(FOLD, [*rows, *rows], {})

    assert states(vda).count("planned") == 2
    assert states(vda)[7:9] == ["planned", "copying"]


def test_a_time_that_is_none_moves_nothing(found: dict[str, History]) -> None:
    _, rows = found[COMPLETED]
    spoilt = [*rows[:3], replace(rows[3], at="yesterday"), *rows[4:]]
    (route,) = of_run(DELETION, spoilt)

    assert [leg.number for leg in route.legs] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert route.legs[-1].since == pytest.approx(12.1)


def test_a_clock_that_was_set_back_makes_no_stay_negative(
    found: dict[str, History],
) -> None:
    _, rows = found[COMPLETED]
    back = [replace(row, at="2026-01-31T02:59:00+00:00") for row in rows[-3:]]
    (route,) = of_run(DELETION, [*rows[:-3], *back])

    assert all((stay.seconds or 0) >= 0 for stay in route.visits)


def test_only_a_machine_of_the_run_can_be_asked_for(found: dict[str, History]) -> None:
    for machine in ("creation", "reversion"):
        with pytest.raises(UsageError) as failure:
            way(found[OPEN], machine)
        assert "deletion and fold" in failure.value.remedy


# Pictures


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_a_picture_numbers_what_was_done_and_says_how_long(
    found: dict[str, History], format: str
) -> None:
    text = drawn(found[COMPLETED], format)

    assert f"({COMPLETED}: completed after 12.1 s)" in text
    for words in (
        "accept{}1 at +1.0 s",
        "decide [every_fold_voted]{}6 at +9.1 s",
        "back_off{}4 at +5.1 s",
        "proceed{}3 at +4.6 s and 5 at +8.1 s",
    ):
        assert words.format("<br/>" if format == "mermaid" else "\\l\xa0") in text
    broken = "<br/>" if format == "mermaid" else r"\n"
    assert f"vote{broken}2 times, 1.5 s" in text
    assert f"completed{broken}after 12.1 s" in text
    assert "still in it" not in text


def test_dot_emphasises_the_arrows_taken_and_greys_all_others(
    found: dict[str, History],
) -> None:
    (route,) = way(found[COMPLETED]).routes
    text = drawn(found[COMPLETED], "dot")
    arrows = dict(re.findall(r"^\t(\w+ -> \w+) \[label=.* class=(\w+)", text, re.M))
    nodes = dict(re.findall(r"^\t(\w+) \[label=.* class=(\w+)", text, re.M))
    taken = {f"{leg.source} -> {leg.dest}" for leg in route.legs}

    assert {arrow for arrow, kind in arrows.items() if kind != "not"} == taken
    assert arrows["vote -> pivot"] == "decided"
    seen = {node for node, kind in nodes.items() if kind == "seen"}
    assert seen == set(states(route))
    assert nodes["roll_back"] == "not"
    assert len(arrows) == len({(edge.source, edge.dest) for edge in DELETION.edges})


def test_mermaid_marks_states_by_class(found: dict[str, History]) -> None:
    text = drawn(found[OPEN], "mermaid")

    assert "Class vote s_now\n" in text
    assert "Class prepare s_seen\n" in text
    assert "Class pivot s_not\n" in text
    assert "Class refused s_not_final\n" in text
    assert "vote<br/>200 ms, still in it" in text


def test_a_refused_and_a_rolled_back_run_end_where_they_ended(
    found: dict[str, History],
) -> None:
    assert "Class refused s_seen_final\n" in drawn(found[REFUSED], "mermaid")
    rolled_back = drawn(found[ROLLED_BACK], "mermaid")
    assert "Class rolled_back s_seen_final\n" in rolled_back
    assert "Class completed s_not_final\n" in rolled_back
    assert "Class failed s_seen_final\n" in drawn(found[ROLLED_BACK], "mermaid", "fold")


def test_folds_are_told_apart_by_disk_and_many_are_counted(
    found: dict[str, History],
) -> None:
    _, rows = found[COMPLETED]
    disks = [f"vd{letter}" for letter in "abcdef"]
    many = [
        replace(row, detail={"disk": disk})
        for row in rows
        for disk in (disks if row.machine == "fold" else [""])
        if row.machine != "fold" or row.detail["disk"] == "vda"
    ]
    routes = of_folds(FOLD, many, {})
    text = diagram.render("fold", "dot", travelled=Travelled("fold", routes, "x"))

    assert r"retire\l vda 7 at +11.6 s\l vdb 7 at +11.6 s\l vdc 7 at" in text.replace(
        "\xa0", " "
    )
    assert "\\l\xa0and 3 more\\l" in text
    assert "vdf" not in text


def test_what_happened_often_is_told_in_short(found: dict[str, History]) -> None:
    _, rows = found[COMPLETED]
    loop = [row for row in rows if row.machine == "deletion" and row.kind == "edge"]
    turn = loop[3:5]
    (route,) = of_run(DELETION, [*loop[:5], *turn * 99])
    made = Travelled("deletion", (route,), "")
    text = diagram.render("deletion", "dot", travelled=made)

    assert "back_off\\l\xa0100 times, 4 to 202, +4.1 s to +4.1 s" in text


HOSTILE = 'vd"a\\n<b>\u202e;:#\x1b]%'


@pytest.mark.parametrize("format", ["mermaid", "dot"])
def test_the_name_of_a_disk_is_text_and_nothing_else(
    found: dict[str, History], format: str
) -> None:
    run, rows = found[COMPLETED]
    assert isinstance(run, Deletion)
    spoilt = [
        replace(row, detail={"disk": HOSTILE}) if row.machine == "fold" else row
        for row in rows
    ]
    text = drawn((replace(run, disks=()), spoilt), format, "fold")
    plain = drawn((run, rows), format, "fold")

    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", text.replace("\t", ""))
    assert len(text.splitlines()) == len(plain.splitlines())
    if format == "mermaid":
        assert "vd?a?n?b???????? 1 at" in text
        assert "<b>" not in text
    else:
        assert r"vd\"a\\n<b>\\u202e" in text
