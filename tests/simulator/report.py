"""What a run of the simulator says, on the terminal and in its page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from backfold.engine.seeds import MACHINES

from .explorer import Tally

BEGIN: Final = (
    "<!-- figures: written by `make simulate DOCUMENT=docs/simulation.md` -->"
)
END: Final = "<!-- end of figures -->"
#: How many failures are told.
SHOWN: Final = 40


def summary(tally: Tally, seconds: float, cpu: float, jobs: int) -> str:
    """The figures of one run."""
    return "\n".join(_lines(tally, seconds, cpu, jobs))


def missed(tally: Tally) -> list[tuple[str, str, str, str]]:
    """Declared transitions that no history took."""
    return [
        (machine.name, edge.source, edge.trigger, edge.dest)
        for machine in MACHINES
        for edge in machine.edges
        if (machine.name, edge.source, edge.trigger, edge.dest) not in tally.edges
    ]


def document(page: Path, text: str) -> None:
    """Write the figures between the two marks of a page."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} has no place for figures")
    figures = f"{BEGIN}\n\n```text\n{text}\n```\n\n{END}"
    page.write_text(f"{before}{figures}{after}", encoding="utf-8")


def _lines(tally: Tally, seconds: float, cpu: float, jobs: int) -> Iterator[str]:
    each = cpu / tally.schedules * 1000 if tally.schedules else 0.0
    declared = sum(len(machine.edges) for machine in MACHINES)
    left = missed(tally)
    yield f"schedules          {tally.schedules}"
    yield f"distinct states    {len(tally.states)}"
    yield f"states met again   {tally.repeats}"
    yield f"transitions taken  {declared - len(left)} of {declared}"
    for machine, source, trigger, dest in left:
        yield f"  not taken: {machine}: {source} -> {dest} ({trigger})"
    yield f"time               {seconds:.0f} s, {jobs} processes"
    yield f"CPU time           {cpu:.0f} s, {each:.1f} ms for a schedule"
    yield f"failures           {len(tally.failures)}"
    for schedule, what in tally.failures[:SHOWN]:
        yield f"  make replay SEED='{schedule}'"
        yield f"    {what[:300]}"
