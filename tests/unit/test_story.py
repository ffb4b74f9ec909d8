"""The story of a run from its rows: sentences, lengths of time, and what is missing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from backfold.engine import sentences, storyteller
from backfold.engine.results import Creation, Deletion, FoldResult
from backfold.engine.seeds import MACHINES
from backfold.engine.step_sentences import STEPS
from backfold.engine.story import Chapter, Entry, Story
from backfold.journal.runs import TransitionRow
from backfold.states.machine import REMARKS

RUN = "0123456789ab"
ME = "root@host:100"
DELETION = Deletion(
    RUN,
    "web",
    "s1",
    "completed",
    None,
    (
        FoldResult(
            *("vda", "commit", "/i/vda.s1", "/i/vda.qcow2", 4 << 20, "retired"),
            is_active=True,
            superseded=("/i/vda.s1",),
        ),
    ),
    12.5,
    "2025-01-01T00:00:00+00:00",
    "2025-01-01T00:00:09+00:00",
    ("s1",),
)


class Rows:
    """Writes rows, one second apart."""

    def __init__(self, machine: str = "deletion", state: str = "validate") -> None:
        self.rows: list[TransitionRow] = []
        self.machine, self.state, self.who = machine, state, ME
        self.second = 0

    def add(
        self, kind: str, trigger: str, dest: str | None = None, **detail: Any
    ) -> Rows:
        """One row of the run; an edge leads to ``dest``."""
        at = f"2025-01-01T00:00:{self.second:02}.000000+00:00"
        row = TransitionRow(
            machine=self.machine,
            source=self.state,
            trigger=trigger,
            dest=dest or self.state,
            kind=kind,
            who=self.who,
            generation=1,
            detail=detail,
            at=at,
        )
        self.rows.append(row)
        self.state = row.dest
        self.second += 1
        return self

    def fold(self, source: str, trigger: str, dest: str, **detail: Any) -> Rows:
        """One row of a fold."""
        self.add("edge", trigger, **detail)
        row = replace(self.rows[-1], machine="fold", source=source, dest=dest)
        self.rows[-1] = row
        return self

    def told(self, run: Deletion | Creation = DELETION) -> Story:
        return storyteller.tell(self.rows, run)

    def entries(self) -> list[Entry]:
        return [entry for chapter in self.told().chapters for entry in chapter.entries]


def whole(detail: bool) -> Rows:
    """A deletion of one disk, with what its rows tell, or as version 3 wrote them."""

    def given(**facts: Any) -> dict[str, Any]:
        return facts if detail else {}

    rows = Rows()
    rows.add("remark", "claim", began=True)
    rows.add("edge", "accept", "prepare", bytes={"vda": 4 << 20}, power="running")
    plan = {
        "strategy": "commit",
        "bytes": 4 << 20,
        "top": "/i/vda.s1",
        "base": "/i/vda.qcow2",
        "switches": True,
    }
    rows.add(
        *("edge", "proceed", "commit_per_disk"),
        power="running",
        **given(place="domain", snapshots=["s1"], disks={"vda": plan}),
    )
    rows.add("announce", "start_job", disk="vda", **given(command="block-commit"))
    rows.add("note", "start_job")
    rows.fold("planned", "start", "copying", disk="vda")
    copied = given(bytes=6 << 20, total=6 << 20, copied=5 << 20, seconds=2.0)
    copied = {**copied, **given(active=True)}
    rows.fold("copying", "converge", "converged", disk="vda", **copied)
    rows.add("edge", "proceed", "vote")
    hold: dict[str, Any] = {
        "disks": ["vda"],
        "stops_guest": True,
        "run_state": "running",
    }
    rows.add("announce", "hold", fences={"/i/vda.s1": "/i/vda.s1.fence"}, **hold)
    rows.add("note", "hold")
    rows.fold("converged", "vote", "voted", disk="vda")
    pending = {"vda": {"status": "pending", "bytes": 7 << 20, "total": 7 << 20}}
    steps = {
        "complete_jobs": {"jobs": pending, "seconds": 0.004},
        "fence": {"names": {"/i/vda.s1": "/i/vda.s1.fence"}, "seconds": 0.002},
        "stop_guest": {"found": "running", "seconds": 0.001},
    }
    rows.add("edge", "decide", "pivot", disks=["vda"], **given(steps=steps))
    let_go = given(found="paused", sent="cont", held_ms=12.5, downtime_ms=12.5)
    rows.add("note", "release_guest", **let_go)
    rows.add("edge", "proceed", "update_metadata")
    file = {"disk": "vda", "image": "/i/vda.s1", "fence": "/i/vda.s1.fence"}
    rows.add("announce", "unlink", **file)
    rows.add("note", "unlink", **given(bytes=3 << 20))
    rows.fold("switched", "retire", "retired", disk="vda")
    rows.add("edge", "proceed", "completed")
    return rows


def test_a_whole_deletion() -> None:
    story = whole(detail=True).told()
    said = [entry.what for chapter in story.chapters for entry in chapter.entries]

    assert said == [
        f"{ME} began it.",
        "All checks passed: 4.0 MiB to copy on 1 disk; the domain is running.",
        "Planned: 1 disk in the domain's QEMU; the domain is running.",
        "vda: commit vda.s1 into vda.qcow2, 4.0 MiB to copy.",
        "vda: QEMU accepted block-commit.",
        "vda converged: 5.0 MiB copied in 2.0 s (2.5 MiB/s), after 1.0 MiB before"
        " that.",
        "Called the vote of vda; the guest is running, and is stopped for it.",
        "QEMU stopped the guest, which was running.",
        "QEMU was told to complete the jobs: vda pending at 7.0 MiB.",
        "Fenced vda.s1 as vda.s1.fence.",
        "Decided for vda: only forward from here.",
        "QEMU had the guest paused, and let it go on; it stood still for 12 ms.",
        "Every disk was proved to be switched.",
        "Removed vda.s1 (3.0 MiB).",
    ]


def test_its_header_and_its_numbers() -> None:
    story = whole(detail=True).told()
    (disk,) = story.disks

    assert (story.machine, story.run, story.who) == ("deletion", RUN, ME)
    assert story.outcome == "Completed: s1 of web is gone."
    assert story.decided == "2025-01-01T00:00:11.000000+00:00"
    assert (story.downtime_ms, story.bytes, story.seconds) == (12.5, 7 << 20, 9.0)
    assert (disk.planned_bytes, disk.copied_bytes) == (4 << 20, 7 << 20)
    assert (disk.seconds, disk.rate) == (2.0, (5 << 20) / 2)


def test_chapters_follow_each_other_and_tell_how_long_a_state_took() -> None:
    chapters = whole(detail=True).told().chapters

    assert [(c.state, c.since_seconds, c.took_seconds) for c in chapters] == [
        ("validate", 0, 1),
        ("prepare", 1, 1),
        ("commit_per_disk", 2, 5),
        ("vote", 7, 4),
        ("pivot", 11, 2),
        ("update_metadata", 13, 4),
        ("completed", 17, None),
    ]


def test_a_steps_two_rows_are_one_entry() -> None:
    chapter = whole(detail=True).told().chapters[2]
    (started, _) = chapter.entries

    assert (started.kind, started.name, started.disk) == ("step", "start_job", "vda")
    assert (started.since_seconds, started.took_seconds) == (3, 1)
    assert started.facts == {"disk": "vda", "command": "block-commit"}


def test_steps_without_a_row_are_told_in_their_order_with_their_lengths() -> None:
    vote = whole(detail=True).told().chapters[3]

    assert [(e.name, e.took_seconds) for e in vote.entries if e.kind == "step"] == [
        ("hold", 1.0),
        ("stop_guest", 0.001),
        ("complete_jobs", 0.004),
        ("fence", 0.002),
    ]
    assert vote.entries[-1].kind == "decision"


def test_rows_of_an_older_version_tell_the_same_with_fewer_numbers() -> None:
    new, old = whole(detail=True).told(), whole(detail=False).told()
    said = [entry.what for chapter in old.chapters for entry in chapter.entries]

    assert [c.state for c in old.chapters] == [c.state for c in new.chapters]
    assert old.decided == new.decided
    assert (
        "All checks passed: 4.0 MiB to copy on 1 disk; the domain is running." in said
    )
    assert "vda converged: all that there was is copied." in said
    assert "No guest had been stopped." in said
    assert "Removed vda.s1." in said
    assert (old.disks[0].copied_bytes, old.disks[0].rate) == (None, None)
    assert old.bytes == 4 << 20


def test_another_engine_that_takes_over() -> None:
    rows = Rows(state="pivot")
    rows.add("remark", "claim", began=True).add("announce", "relink", disk="vda")
    rows.second, rows.who = 13, "root@host:200"
    rows.add("remark", "claim").add("note", "relink")
    rows.add("remark", "claim")
    rows.who = "root@host:300"
    rows.add("remark", "claim", guard=True)
    began, lost, taken, noted, again, guard = rows.entries()

    assert began.kind == "begin"
    assert lost.kind == "unfinished"
    assert lost.what == (
        "Relink was announced and not noted as done: it may have happened or not."
    )
    assert taken.kind == "takeover"
    assert taken.what == (
        "Another engine, root@host:200, took over after 12.0 s without a word from"
        f" {ME}."
    )
    # Noted by one that has not announced it: its own entry, without a length.
    assert (noted.kind, noted.took_seconds) == ("step", None)
    assert again.what == "root@host:200 took it up again after 1.0 s."
    assert guard.what.startswith("Its guard, root@host:300, took over after 1.0 s")


def test_alarms_in_a_row_that_say_the_same_are_told_once() -> None:
    rows = Rows()
    for what in ("no answer", "no answer", "no answer", "gone", "no answer"):
        rows.add("remark", "alarm", what=what)

    assert [(e.kind, e.what, e.times) for e in rows.entries()] == [
        ("alarm", "Alarm: no answer", 3),
        ("alarm", "Alarm: gone", 1),
        ("alarm", "Alarm: no answer", 1),
    ]


def test_why_it_was_given_up_asked_for_and_left_open() -> None:
    rows = Rows(state="commit_per_disk")
    rows.add("remark", "request_cancel")
    rows.add("remark", "flush_failed", path="/i/a", boot="b")
    rows.add("remark", "left_open", what="It is stuck.", data="", remedy="Pull.")
    rows.add("edge", "abandon", "roll_back", because="a cancel was asked for")
    rows.add("edge", "proceed", "rolled_back", written=["/i/vda.qcow2"])

    assert [(entry.kind, entry.what) for entry in rows.entries()] == [
        ("request", f"{ME} asked to cancel it."),
        (
            "alarm",
            "/i/a could not be flushed; no sync of it is trusted before the host is"
            " restarted.",
        ),
        ("left_open", "Left open: It is stuck. Pull."),
        ("transition", "Given up: a cancel was asked for."),
        (
            "transition",
            "Everything is undone. Written into meanwhile: vda.qcow2: what it held at"
            " its snapshot cannot be gone back to.",
        ),
    ]


def test_a_refusal_names_every_reason() -> None:
    reason = {"code": "no_space", "message": "Too little room.", "disk": "vda"}
    other = {"code": "monitor_busy", "message": "Somebody talks.", "disk": None}
    rows = Rows().add("edge", "refuse", "refused", reasons=[reason, other])

    (entry,) = rows.entries()

    assert entry.what == (
        "Refused: Too little room. [no_space] Somebody talks. [monitor_busy]"
    )


def test_a_decision_that_was_taken_back_does_not_count() -> None:
    rows = Rows(state="vote")
    rows.add("edge", "decide", "pivot", disks=["vda"])
    rows.add("edge", "annul", "vote")
    before = rows.told().decided
    rows.add("edge", "decide", "pivot", disks=["vda"])

    assert (before, rows.told().decided) == (None, "2025-01-01T00:00:02.000000+00:00")


def test_each_pass_keeps_its_own_bytes() -> None:
    rows = Rows(state="commit_per_disk")
    facts = {"active": True, "copied": 1, "seconds": 1.0, "total": 9}
    rows.fold("copying", "converge", "converged", disk="vda", bytes=100, **facts)
    rows.state = "update_metadata"
    rows.add("edge", "again", "prepare", done=["vda"])
    rows.state = "commit_per_disk"
    rows.fold("copying", "converge", "converged", disk="vda", bytes=200, **facts)
    twice = replace(DELETION, disks=DELETION.disks * 2)

    story = rows.told(twice)

    assert [disk.copied_bytes for disk in story.disks] == [100, 200]
    assert story.bytes == 300


@pytest.mark.parametrize(
    ("state", "reason", "outcome"),
    [
        ("vote", None, f"Open in vote. `backfold recover {RUN}` finishes it."),
        ("refused", "no room", "Refused, and nothing was changed: no room."),
        ("rolled_back", "a job failed", "Rolled back: a job failed. The domain is as"),
    ],
)
def test_the_outcome(state: str, reason: str | None, outcome: str) -> None:
    finished = None if state == "vote" else DELETION.finished
    run = replace(DELETION, state=state, reason=reason, finished=finished)

    assert Rows().add("remark", "claim").told(run).outcome.startswith(outcome)


def test_a_creation() -> None:
    rows = Rows("creation", "planned").add("remark", "claim", began=True)
    rows.add("announce", "make_overlays")
    rows.add("note", "make_overlays", disks={"vda": "/i/vda.s1"})
    rows.add("edge", "undo", "undone", because="no room", left=[])
    run = Creation(RUN, "web", "s1", "undone", "no room", "", "")

    story = rows.told(
        replace(run, started=DELETION.started, finished=DELETION.finished)
    )

    assert story.outcome == "Undone, the disks are as before: no room."
    assert (story.disks, story.bytes, story.decided) == ((), None, None)
    assert [e.what for c in story.chapters for e in c.entries] == [
        f"{ME} began it.",
        "Made the new overlays: vda.s1.",
        "Undone: no room.",
    ]


def test_every_step_and_remark_has_a_sentence() -> None:
    """A new step says in `engine.step_sentences` what it did."""
    steps = {s.name for m in MACHINES for state in m.states for s in state.steps}
    told_elsewhere = {"claim", "request_cancel"}

    assert steps - set(STEPS) == set()
    assert set(REMARKS) - set(sentences.REMARKS) == told_elsewhere


@pytest.mark.parametrize(
    "value",
    [None, 7, "x", [], {}, {"vda": 3}, ["\x1b[2J"], math.nan, math.inf, 10**400],
)
def test_details_that_are_not_what_they_should_be(value: Any) -> None:
    """A damaged or hostile journal is told as far as it goes."""
    names = ("jobs", "disks", "images", "names", "steps", "bytes", "found", "reasons")
    more = ("seconds", "because", "what", "fences", "links", "done", "copied")
    detail = dict.fromkeys((*names, *more), value)
    for state in MACHINES[0].states:
        rows = Rows(state=state.name)
        for step in state.steps:
            rows.add("announce", step.name, **detail)
            rows.add("note", step.name, **detail)
        for remark in REMARKS:
            rows.add("remark", remark, **detail)
        rows.fold("copying", "converge", "converged", **{**detail, "disk": value})
        for edge in MACHINES[0].edges:
            if edge.source == state.name:
                rows.add("edge", edge.trigger, edge.dest, **detail)
                rows.state = state.name
        rows.second = 0

        assert rows.told().chapters


def test_times_that_are_none_or_go_backwards() -> None:
    rows = Rows().add("remark", "claim", began=True).add("remark", "alarm", what="x")
    first, second = rows.rows
    rows.rows = [replace(second, at=first.at), replace(first, at="no time")]
    rows.rows.append(replace(second, at="2024-01-01T00:00:00+00:00"))

    assert [entry.since_seconds for entry in rows.entries()] == [0, 0, 0]


def test_no_rows_at_all() -> None:
    story = storyteller.tell([], DELETION)

    assert story.chapters == tuple[Chapter, ...]()
    assert story.outcome == "Completed: s1 of web is gone."
