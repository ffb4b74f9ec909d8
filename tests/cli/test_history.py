"""`log` and `status`: what happened, what is open, and what to do about it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from backfold.engine.cli import standing, stories
from backfold.engine.files import identify
from backfold.engine.history import History
from backfold.journal.holders import COMMAND_SHOWN, Holder
from backfold.journal.locks import Locks
from backfold.journal.look import look
from cli.command import Cli
from cli.conftest import Inside
from written import HOSTILE, MIB, Journal

DONE, BACK, OPEN, EVIL = "c0" * 6, "b0" * 6, "a0" * 6, "d0" * 6


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with a completed, a rolled back, a refused and a hostile deletion."""
    path = tmp_path_factory.mktemp("made") / "journal" / "journal.db"
    with Journal(path) as journal:
        journal.rolled_back()
        journal.refused()
        journal.hostile()
        done = journal.completed()
        assert done.state == "completed"
    return path


@pytest.fixture
def written(cli: Cli, made: Path) -> Path:
    """The same, to write into."""
    shutil.copytree(made.parent, cli.journal.parent)
    return cli.journal


def test_the_story_of_a_deletion(written: Path, inside: Inside) -> None:
    text = inside("log", DONE).out

    assert text.startswith(f"deletion {DONE} of snapshot s1 of web\n  state     comp")
    assert "\n  outcome   Completed: s1 of web is gone.\n" in text
    assert "\n  begun     2026-01-31 03:00:00Z by ann@host:1\n" in text
    assert "\n  downtime  42 ms\n" in text
    assert "\n            base  /srv/web/vda.qcow2\n" in text
    chapters = [line for line in text.splitlines() if line.startswith("03:")]
    assert [line.partition("  ")[2] for line in chapters] == [
        "validate, 1.0 s",
        "prepare, 1.0 s",
        "commit per disk, 2.6 s",
        "vote, 500 ms",
        "commit per disk, 3.0 s",
        "vote, 1.0 s",
        "pivot, 2.0 s",
        "update metadata, 1.0 s",
        "completed",
    ]
    assert "   +9.100 s          * Decided: only forward from here.\n" in text


def test_the_story_of_one_that_was_rolled_back(written: Path, inside: Inside) -> None:
    text = inside("log", BACK[:3]).out

    assert "  outcome   Rolled back: No space left. The domain is as before.\n" in text
    assert "            vda: its job failed.\n" in text
    assert "    Given up.\n" in text
    assert "    Everything is undone.\n" in text
    assert "decided" not in text


def test_the_story_of_one_that_was_refused(written: Path, inside: Inside) -> None:
    text = inside("log", "f0f0").out

    assert "  outcome   Refused, and nothing was changed: It does not fit.\n" in text
    assert "    Refused.\n" in text


def test_json_has_the_rows_and_the_story(written: Path, inside: Inside) -> None:
    found = inside.json("log", "log", DONE)
    story = found["story"]
    (decision,) = [
        entry
        for chapter in story["chapters"]
        for entry in chapter["entries"]
        if entry["kind"] == "decision"
    ]

    assert (found["run"], found["machine"]) == (DONE, "deletion")
    assert decision["time"] == story["decided"]
    assert story["decided"] in [row["time"] for row in found["log"]]
    assert (story["downtime_ms"], story["bytes"]) == (42.0, 16 * MIB)
    assert [disk["copied"] for disk in story["disks"]] == [None, None]


def test_steps_are_the_rows_themselves(written: Path, inside: Inside) -> None:
    found = inside.json("log", "log", DONE)
    lines = inside("log", DONE, "--steps").out.splitlines()

    assert len(lines) == 1 + len(found["log"])
    assert lines[0].split() == ["TIME", "SINCE", "WHAT", "KIND", "WHO", "DETAIL"]
    assert [line for line in lines if "vote → pivot" in line]


def test_hostile_names_are_escaped_in_every_form(written: Path, inside: Inside) -> None:
    for arguments in (["log"], ["log", "--steps"], ["status"]):
        said = inside(*arguments, EVIL)
        assert "<script>" in said.out
        assert r"\x1b[31m\u202e" in said.out
        assert not {"\x1b", "\u202e"} & set(said.out + said.err)
    story = inside.json("log", "log", EVIL)["story"]
    assert story["snapshot"] == f"s1{HOSTILE}"


@pytest.mark.parametrize("width", [50, 80])
def test_a_narrow_terminal_wraps_and_breaks_no_name(written: Path, width: int) -> None:
    story = look(written, lambda rows: History(rows).story(DONE))

    def lines_of(width: int | None) -> list[str]:
        told = *stories.header(story, width), *stories.time_line(story, width)
        return [line for line, _ in told]

    lines, whole = lines_of(width), lines_of(None)

    assert (len(lines) > len(whole)) == (width == 50)
    assert " ".join(lines).split() == " ".join(whole).split()
    assert max(map(len, lines)) <= width


# status


def test_open_ones_come_first_with_what_to_do(
    written: Path, cli: Cli, inside: Inside
) -> None:
    with Journal(cli.journal) as journal:
        journal.deletion(OPEN).go("accept").wait(5)
    text = inside("status").out
    listed = [line.split()[0] for line in text.splitlines() if line[8:12].isalnum()]

    assert listed[0] == OPEN
    assert {DONE, BACK, EVIL} < set(listed)
    assert text.endswith(
        f"The deletion {OPEN} is open. Nobody is seen working on it:"
        f" `backfold recover {OPEN}` finishes it; with --dry-run it only says how, and"
        " why that is safe.\n"
    )
    assert inside.json("status", "status")["open"] == [
        {
            "machine": "deletion",
            "run": OPEN,
            "domain": "web",
            "snapshot": "s1",
            "state": "prepare",
            "worker": None,
            "next": f"backfold recover {OPEN}",
        }
    ]


def test_whoever_works_on_it_is_named(web: Cli, inside: Inside) -> None:
    with Journal(web.journal) as journal:
        journal.deletion(OPEN).go("accept")
    image = identify(str(web.folder / "vdb.qcow2"))
    assert image is not None
    with Locks() as locks:
        locks.acquire([image])
        (found,) = inside.json("status", "status", OPEN[:4])["open"]
        text = inside("status", OPEN).out

    # A child of pytest-xdist is named otherwise than pytest.
    command = Path("/proc/self/cmdline").read_text().replace("\0", " ").strip()
    assert found["worker"]["pid"] == os.getpid()
    assert found["worker"]["command"] == command[:COMMAND_SHOWN]
    assert found["next"] is None
    assert f"is open. Process {found['worker']['pid']} works on it: " in text
    (after,) = inside.json("status", "status")["open"]
    assert after["worker"] is None


def test_one_that_is_open_in_words(written: Path, cli: Cli, inside: Inside) -> None:
    with Journal(cli.journal) as journal:
        journal.deletion(OPEN).go("accept").wait(5)
    text = inside("status", OPEN).out

    assert "\n  state     prepare (open)\n" in text
    assert "\n  heard of  2026-01-31 03:00:01Z by ann@host:1\n" in text
    assert "\n  happened  It was interrupted in prepare, between two steps.\n" in text
    assert "\n  will      Check everything again under the lock," in text
    assert "\n  safe      No image was renamed" in text
    assert f"`backfold recover {OPEN}` finishes it" in text


def test_one_that_is_finished_in_words(written: Path, inside: Inside) -> None:
    text = inside("status", DONE).out

    assert "\n  ended     2026-01-31 03:00:12Z, after 12.1 s\n" in text
    assert "\n  vda       commit, retired; 8.0 MiB planned\n" in text
    assert text.endswith(f"`backfold log {DONE}` tells how it went.\n")


def test_recent_ones_are_listed_and_all_when_that_is_asked_for(
    cli: Cli, inside: Inside
) -> None:
    with Journal(cli.journal) as journal:
        for number in range(12):
            journal.refused(f"{number:012x}")
    some, every = inside("status").out, inside("status", "--all").out

    assert (some.count("refused"), every.count("refused")) == (10, 12)
    assert some.endswith("Older ones: `backfold status --all`.\n")
    assert "Older ones" not in every
    found = inside.json("status", "status", "--all")
    assert (len(found["deletions"]), found["more"]) == (12, False)
    assert inside.json("status", "status")["more"]


def test_a_line_that_is_too_long_is_cut_to_the_terminal(written: Path) -> None:
    found = look(written, standing.look)
    lines = [line for line, _ in standing.table(found, 60)]

    assert max(map(len, lines[: len(found.runs) + 1])) == 60
    assert any(line.endswith("...") for line in lines)


def test_what_is_said_of_an_open_run(written: Path) -> None:
    run = look(written, standing.look).runs[0]

    assert standing.todo(run, Holder(7, "backfold delete web s1")) == (
        f"The deletion {run.id} is open. Process 7 works on it: backfold delete web s1"
    )
