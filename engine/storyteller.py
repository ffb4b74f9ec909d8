"""The rows of a run's journal as a story: chapters by state, entries by step. Pure.

A step's two rows become one entry with its length. What steps without a row have told
is found in the next row; rows of folds are told where they say what was copied. Rows
of versions that told less make the same story with fewer numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from ..journal.runs import TransitionRow
from ..states.deletion import DELETION
from . import sentences
from .results import Deletion, Run
from .story import Chapter, DiskStory, Entry, Kind, Story
from .story_header import COPIED, as_number, disk_story, outcome
from .words import brief

#: What a step without a row is ordered by: the order in which a vote does them.
_ORDER: Final = {
    step.name: number
    for number, step in enumerate(s for state in DELETION.states for s in state.steps)
}


def tell(rows: Sequence[TransitionRow], run: Run) -> Story:
    """The story of a run from all of its rows, in order. Reads nothing else."""
    teller = _Teller(rows[0].at if rows else run.started, run)
    for row in rows:
        teller.row(row)
    chapters = teller.chapters()
    deletion = run if isinstance(run, Deletion) else None
    disks = () if deletion is None else tuple(teller.disks(deletion))
    known = [
        disk.planned_bytes if disk.copied_bytes is None else disk.copied_bytes
        for disk in disks
        if disk.copied_bytes is not None or disk.state in COPIED
    ]
    return Story(
        machine=type(run).__name__.lower(),
        run=run.id,
        domain=run.domain,
        snapshot=run.snapshot,
        state=run.state,
        outcome=outcome(run, teller.decided),
        who=rows[0].who if rows else "",
        started=run.started,
        finished=run.finished,
        seconds=run.seconds,
        decided=teller.decided,
        downtime_ms=None if deletion is None else deletion.downtime_ms,
        bytes=sum(known) if known else None,
        reason=run.reason,
        disks=disks,
        chapters=chapters,
    )


@dataclass
class _Draft:
    """A chapter that is being told."""

    state: str
    at: str
    who: str
    entries: list[Entry] = field(default_factory=list)
    #: Where an announced step's entry is, until it is noted.
    pending: dict[str, tuple[int, TransitionRow]] = field(default_factory=dict)


class _Teller:
    """Reads one row after the other."""

    def __init__(self, began: str, run: Run) -> None:
        self._began = _time(began, None)
        self._drafts: list[_Draft] = []
        self._ends: list[str] = []
        self._last: TransitionRow | None = None
        #: What was copied, by disk, in each pass; the last plan of a pass counts.
        self._passes: list[dict[str, dict[str, Any]]] = [{}]
        self._lengths: list[int] = []
        self._planned = {
            disk.target: disk.bytes
            for disk in (run.disks if isinstance(run, Deletion) else ())
        }
        self.decided: str | None = None

    def row(self, row: TransitionRow) -> None:
        """Go on with the next row."""
        if not self._drafts:
            self._drafts.append(_Draft(row.source, row.at, row.who))
        steps = row.detail.get("steps")
        if isinstance(steps, Mapping):
            self._untold(row, steps)
        if row.machine == "fold":
            self._fold(row)
        elif row.kind == "edge":
            self._edge(row)
        elif row.kind == "announce":
            self._announced(row)
        elif row.kind == "note":
            self._noted(row)
        else:
            self._remark(row)
        self._last = row

    def chapters(self) -> tuple[Chapter, ...]:
        """What was told."""
        found = []
        for draft, end in zip(self._drafts, [*self._ends, None], strict=False):
            took = None if end is None else self._between(draft.at, end)
            found.append(
                Chapter(
                    draft.state,
                    draft.at,
                    self._since(draft.at),
                    took,
                    draft.who,
                    tuple(draft.entries),
                )
            )
        return tuple(found)

    def disks(self, deletion: Deletion) -> Iterable[DiskStory]:
        """Each disk of each pass, with what was copied."""
        lengths = [*self._lengths, len(deletion.disks)]
        number, left = 0, lengths[0]
        for disk in deletion.disks:
            while left == 0 and number + 1 < len(self._passes):
                number, left = number + 1, lengths[number + 1]
            left -= 1
            yield disk_story(disk, self._passes[number].get(disk.target, {}))

    def _edge(self, row: TransitionRow) -> None:
        facts = {k: v for k, v in row.detail.items() if k != "steps"}
        said = sentences.of_edge(row.source, row.trigger, row.dest, facts)
        if row.trigger == "decide":
            self.decided = self.decided or row.at
        elif row.trigger == "annul":
            self.decided = None
        if said is not None:
            kind: Kind = "decision" if row.trigger == "decide" else "transition"
            self._add(row, kind, said, facts)
        disks = facts.get("disks")
        if row.source == "prepare" and isinstance(disks, Mapping):
            self._plan(row, disks)
        if row.trigger == "again":
            done = facts.get("done")
            self._lengths.append(len(done) if isinstance(done, list) else 0)
            self._passes.append({})
        self._ends.append(row.at)
        self._drafts.append(_Draft(row.dest, row.at, row.who))

    def _plan(self, row: TransitionRow, disks: Mapping[str, Any]) -> None:
        self._passes[-1] = {}
        for disk, facts in disks.items():
            if isinstance(facts, Mapping):
                self._planned[disk] = facts.get("bytes", 0)
                said = sentences.of_plan(disk, facts)
                self._add(row, "plan", said, facts, disk=disk)

    def _announced(self, row: TransitionRow) -> None:
        draft = self._drafts[-1]
        draft.pending[row.trigger] = (len(draft.entries), row)
        self._add(
            row,
            "unfinished",
            sentences.unfinished(row.trigger),
            row.detail,
            disk=row.detail.get("disk"),
        )

    def _noted(self, row: TransitionRow) -> None:
        draft = self._drafts[-1]
        told = {k: v for k, v in row.detail.items() if k != "steps"}
        index, announced = draft.pending.pop(row.trigger, (None, None))
        if index is None or announced is None or announced.who != row.who:
            took = told.pop("seconds", None)
            self._step(row, row.trigger, told, took)
            return
        facts = {**announced.detail, **told}
        draft.entries[index] = replace(
            draft.entries[index],
            kind="step",
            took_seconds=self._between(announced.at, row.at),
            what=sentences.of_step(row.trigger, facts),
            facts=facts,
        )

    def _untold(self, row: TransitionRow, steps: Mapping[str, Any]) -> None:
        """Steps that have no row of their own, from the row that tells them."""
        for name in sorted(steps, key=lambda name: _ORDER.get(name, len(_ORDER))):
            told = dict(steps[name]) if isinstance(steps[name], Mapping) else {}
            took = told.pop("seconds", None)
            self._step(row, name, told, took)
            if name == "complete_jobs":
                self._completed(told)

    def _step(
        self, row: TransitionRow, name: str, facts: Mapping[str, Any], took: Any
    ) -> None:
        said = sentences.of_step(name, facts)
        self._add(row, "step", said, facts, name=name, took=as_number(took))

    def _completed(self, told: Mapping[str, Any]) -> None:
        """Jobs that voted have copied on since they had converged."""
        jobs = told.get("jobs")
        for disk, job in jobs.items() if isinstance(jobs, Mapping) else ():
            if isinstance(job, Mapping) and "bytes" in job:
                self._passes[-1].setdefault(disk, {})["all"] = job["bytes"]

    def _fold(self, row: TransitionRow) -> None:
        disk = str(row.detail.get("disk"))
        if row.trigger == "converge":
            facts = {"planned": self._planned.get(disk), **row.detail}
            self._passes[-1][disk] = facts
            said = sentences.of_copy(disk, facts)
            seconds = as_number(facts.get("seconds"))
            self._add(row, "copied", said, facts, disk=disk, took=seconds)
        elif row.trigger == "fail":
            said = f"{disk}: its job failed."
            self._add(row, "transition", said, row.detail, disk=disk)

    def _remark(self, row: TransitionRow) -> None:
        if row.trigger == "claim":
            self._claimed(row)
        elif row.trigger == "request_cancel":
            said = f"{row.who} asked to cancel it."
            self._add(row, "request", said, row.detail)
        else:
            kind: Kind = "left_open" if row.trigger == "left_open" else "alarm"
            said = sentences.of_remark(row.trigger, row.detail)
            last = self._drafts[-1].entries[-1:]
            if last and (last[0].what, last[0].kind) == (said, kind):
                again = replace(last[0], times=last[0].times + 1)
                self._drafts[-1].entries[-1] = again
            else:
                self._add(row, kind, said, row.detail)

    def _claimed(self, row: TransitionRow) -> None:
        last = self._last
        if last is None or row.detail.get("began"):
            self._add(row, "begin", f"{row.who} began it.", row.detail)
            return
        silence = brief(self._between(last.at, row.at))
        if row.who == last.who:
            said = f"{row.who} took it up again after {silence}."
        else:
            whose = "Its guard" if row.detail.get("guard") else "Another engine"
            said = (
                f"{whose}, {row.who}, took over after {silence} without a word from"
                f" {last.who}."
            )
        self._add(row, "takeover", said, {**row.detail, "before": last.who})
        self._drafts[-1].pending.clear()

    def _add(
        self,
        row: TransitionRow,
        kind: Kind,
        said: str,
        facts: Mapping[str, Any],
        *,
        disk: Any = None,
        name: str | None = None,
        took: float | None = None,
    ) -> None:
        self._drafts[-1].entries.append(
            Entry(
                row.at,
                self._since(row.at),
                took,
                kind,
                said,
                disk if isinstance(disk, str) else None,
                dict(facts),
                name or row.trigger,
            )
        )

    def _since(self, at: str) -> float:
        return round(
            max(0.0, (_time(at, self._began) - self._began).total_seconds()), 6
        )

    def _between(self, begin: str, end: str) -> float:
        length = _time(end, self._began) - _time(begin, self._began)
        return round(max(0.0, length.total_seconds()), 6)


def _time(text: str, otherwise: datetime | None) -> datetime:
    """A time of the journal; a damaged one counts as another."""
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        return otherwise or datetime.fromisoformat("1970-01-01T00:00:00+00:00")
