"""What a whole run says: the matrix, and the moments that nobody died at."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from crash.case import HOW, WHO, Outcome
from crash.points import Point, declared

#: Declared moments that no case of this matrix dies at, and who tests them instead.
ELSEWHERE: Final[Mapping[str, str]] = {
    "commit_per_disk.resume_job": "storage that fails and recovers:"
    " `tests/real/test_roll_back.py`",
    "pivot.resume_job": "the same, in a disk that is folded again",
    "pivot.dismiss_jobs": "a job that ends by itself while it is looked at",
    "pivot.reopen_above": "somebody boots the old chain by hand after the decision",
    "pivot.annul": "a COMMIT that fails, written by the error path outside of steps:"
    " `tests/unit/test_runner.py`",
    "roll_back.restore_bitmaps": "only a roll back comes there:"
    " `tests/real/test_bitmaps.py`, and the cascades of `running-newest-1-noted`",
    "pivot.note_bitmaps": "a disk with bitmaps that is folded again",
    "pivot.carry_bitmaps": "the same",
    "start_paused.replan": "somebody boots the domain while the helper starts:"
    " `tests/real/test_interference.py`",
}

_BEGIN = "<!-- figures: written by `make crash ARGS=--document` -->"
_END = "<!-- end of figures -->"


def matrix(outcomes: Sequence[Outcome]) -> list[str]:
    """A Markdown table: one row per scenario, one column per kill and recovery."""
    columns = [(who, how) for who in WHO for how in HOW]
    cells: dict[tuple[str, str, str], list[Outcome]] = defaultdict(list)
    rows: list[str] = []
    for outcome in outcomes:
        scenario, who, how, *_ = outcome.case.split()
        cells[scenario, who, how].append(outcome)
        if scenario not in rows:
            rows.append(scenario)
    names = [f"{who}, {how.replace('_', ' ')}" for who, how in columns]
    lines = [
        "| scenario | " + " | ".join(names) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in rows:
        found = [_cell(cells[row, who, how]) for who, how in columns]
        lines.append(f"| {row} | " + " | ".join(found) + " |")
    lines.append(f"\n{summary(outcomes)}")
    return lines


def summary(outcomes: Sequence[Outcome]) -> str:
    """One sentence with all figures."""
    return (
        f"{len(outcomes)} cases: {sum(o.kills for o in outcomes)} kills,"
        f" {sum(o.recoveries_killed for o in outcomes)} of them in a recovery;"
        f" {sum(o.writes for o in outcomes)} acknowledged writes read back,"
        f" {sum(o.losses for o in outcomes)} losses;"
        f" {sum(bool(o.faults) for o in outcomes)} cases with a fault."
    )


def untouched(outcomes: Iterable[Outcome]) -> list[str]:
    """Declared moments that nobody died at and that are not tested elsewhere."""
    died = {name.partition("#")[0] for outcome in outcomes for name in outcome.died_at}
    return [
        str(point)
        for point in declared()
        if str(point) not in died and _step(point) not in ELSEWHERE
    ]


def document(outcomes: Sequence[Outcome]) -> None:
    """Write the figures into the page, between its two marks."""
    path = Path(__file__).parents[2] / "docs" / "crash-matrix.md"
    text = path.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    excused = [f"- `{step}`: {why}" for step, why in ELSEWHERE.items()]
    heading = "Declared steps that no case dies at, since no scenario leads there:"
    lines = [_BEGIN, "", *matrix(outcomes), "", heading, "", *excused, "", _END]
    path.write_text(before + "\n".join(lines) + after, encoding="utf-8")


def _step(point: Point) -> str:
    return f"{point.state}.{point.step}"


def _cell(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "-"
    return " / ".join(
        str(number)
        for number in (
            sum(o.kills for o in outcomes),
            sum(o.recoveries_killed for o in outcomes),
            sum(o.writes for o in outcomes),
            sum(o.losses for o in outcomes),
        )
    )
