"""Bars as a person sees them, and calm lines, for events that cost no time."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pyte
import pytest

from backfold.engine.cli import pace, progress
from backfold.engine.cli.bars import Bars
from backfold.engine.cli.logs import configured
from backfold.engine.cli.output import Output
from backfold.engine.cli.progress import CalmLines, JsonLines, Listener
from backfold.engine.events import (
    AlarmEvent,
    DowntimeEvent,
    Event,
    ProgressEvent,
    StateEvent,
)
from backfold.engine.results import Deletion
from cli.command import parsed

RUN = "f825c66ac1f0"
AT = "2026-11-27T15:40:47.123456+00:00"
GIB = 1 << 30
MIB = 1 << 20


class FakeTty(io.StringIO):
    """A terminal that keeps what is written."""

    def isatty(self) -> bool:
        return True


class Drawing:
    """Bars on a terminal of some size."""

    def __init__(self, width: int, height: int) -> None:
        self.tty = FakeTty()
        self.width, self.height = width, height
        sys.stdout = sys.stderr = self.tty
        self.bars = Bars(Output(False))
        self.bars.open()

    def lines(self) -> list[str]:
        """What can be seen at the end."""
        self.bars.close()
        return self.seen()

    def seen(self) -> list[str]:
        """What can be seen now."""
        screen = pyte.Screen(self.width, self.height)
        pyte.Stream(screen).feed(self.tty.getvalue().replace("\n", "\r\n"))
        assert not screen.cursor.hidden
        return [line.rstrip() for line in screen.display if line.strip()]


@pytest.fixture
def draw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], Drawing]]:
    """Bars with a terminal in place of the standard streams."""
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(pace, "ENOUGH", 0.0)
    monkeypatch.setenv("TERM", "xterm")

    def made(width: int, height: int) -> Drawing:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("LINES", str(height))
        return Drawing(width, height)

    yield made


def entered(state: str, **detail: str) -> StateEvent:
    return StateEvent(RUN, "web", "s1", state, detail, at=AT)


def moved(disk: str, done: int, total: int) -> ProgressEvent:
    return ProgressEvent(RUN, disk, done, total, "web", "s1", AT)


def tell(listener: Listener, *events: Event) -> None:
    for event in events:
        listener(event)


def begin(listener: Listener) -> None:
    tell(listener, *map(entered, ("validate", "prepare", "commit_per_disk")))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 100, 200])
def test_what_matters_fits_every_width(
    draw: Callable[[int, int], Drawing], width: int
) -> None:
    drawing = draw(width, 30)
    drawing.seen()  # The cursor is there, should it be killed.
    begin(drawing.bars)
    tell(drawing.bars, moved("vda", 0, GIB), moved("vda", 512 * MIB, GIB))
    tell(drawing.bars, moved("vdb", GIB, GIB))
    lines = drawing.lines()

    (vda,) = (line for line in lines if line.startswith("vda"))
    (vdb,) = (line for line in lines if line.startswith("vdb"))
    assert len(vda) <= width
    assert any(line.startswith("s1 of web:") for line in lines)
    if width >= 40:
        assert "50 %" in vda and "512.0 MiB" in vda and "━" in vda
        assert "100 %" in vdb
    if width >= 60:
        assert "left" in vda
        assert vdb.endswith("copied")
    if width >= 80:
        assert "512.0 MiB of 1.0 GiB" in vda
        assert "/s" in vda and "/s" not in vdb


def test_many_disks_show_those_that_still_copy(
    draw: Callable[[int, int], Drawing],
) -> None:
    drawing = draw(80, 16)
    begin(drawing.bars)
    for number in range(30):
        tell(drawing.bars, moved(f"vd{number:02}", GIB, GIB))
    for number in range(25, 30):
        tell(drawing.bars, moved(f"vd{number:02}", MIB, 2 * GIB))
    lines = drawing.lines()

    shown = [line.split()[0] for line in lines if line.startswith("vd")]
    assert shown[-5:] == ["vd25", "vd26", "vd27", "vd28", "vd29"]
    (rest,) = (line for line in lines if "more disks" in line)
    assert rest.startswith(f"{30 - len(shown)} more disks: 100 %")
    assert len(lines) <= 16
    assert len(shown) >= 8


def test_lines_and_questions_stay_apart_from_bars(
    draw: Callable[[int, int], Drawing],
) -> None:
    drawing = draw(80, 24)
    with configured(verbose=True, as_json=False):
        begin(drawing.bars)
        tell(drawing.bars, moved("vda", MIB, GIB))
        logging.getLogger("backfold").warning("a warning from below")
        drawing.bars.ask(["Shall I?", "r  roll back"])
        tell(drawing.bars, AlarmEvent(RUN, "web", "s1", "smoke", AT))
    drawing.bars.note("a word \x1b[31mbetween")
    lines = drawing.lines()

    assert lines[-4].startswith("s1 of web: copying")
    assert lines[-3].startswith("vda ")
    assert lines[-2:] == ["Shall I?", "r  roll back"]
    assert any("a warning from below" in line for line in lines[:-4])
    assert "a word \\x1b[31mbetween" in lines
    # The log has it already.
    assert not any("smoke" in line for line in lines)


def test_a_question_goes_away(draw: Callable[[int, int], Drawing]) -> None:
    drawing = draw(80, 24)
    begin(drawing.bars)
    drawing.bars.ask(["Shall I?"])
    drawing.bars.unask()

    assert not any("Shall" in line for line in drawing.lines())


def test_the_next_pass_begins_with_new_bars(
    draw: Callable[[int, int], Drawing],
) -> None:
    drawing = draw(100, 24)
    begin(drawing.bars)
    tell(drawing.bars, moved("vda", GIB, GIB), moved("vdb", MIB, GIB))
    tell(drawing.bars, *map(entered, ("vote", "pivot", "update_metadata")))
    begin(drawing.bars)
    tell(drawing.bars, moved("vda", 16 * MIB, 32 * MIB))
    lines = drawing.lines()

    bars = [line for line in lines if line.startswith("vd")]
    assert [line.split()[0] for line in bars] == ["vda"]
    assert "50 %" in bars[0]


def test_a_decided_run_is_copied_whatever_was_heard_last(
    draw: Callable[[int, int], Drawing],
) -> None:
    drawing = draw(100, 24)
    begin(drawing.bars)
    tell(drawing.bars, moved("vda", GIB - 1, GIB), entered("vote"), entered("pivot"))
    tell(drawing.bars, DowntimeEvent(RUN, "web", "s1", 38.4, AT))
    lines = drawing.lines()

    assert "100 %" in lines[-1] and lines[-1].endswith("copied")
    assert lines[-2].startswith("s1 of web: decided, switching, ")
    assert lines[-2].endswith("; the guest stood still for 38 ms")
    assert f"2026-11-27 15:40:47Z  {RUN}  the guest stood still for 38 ms" in lines


def test_a_run_that_is_gone_on_with(draw: Callable[[int, int], Drawing]) -> None:
    began = datetime.now(UTC) - timedelta(minutes=90)
    run = Deletion(
        *(RUN, "web", "s1", "commit_per_disk", None, (), 12.0),
        *(began.isoformat(), None),
    )
    drawing = draw(100, 24)
    drawing.bars.attach(run)
    tell(drawing.bars, moved("vda", GIB // 2, GIB))
    lines = drawing.lines()

    head = "s1 of web: copying, 1 h 30 min; the guest stood still for 12 ms"
    assert lines[0] == head
    assert drawing.bars.state == "commit_per_disk"


def test_names_that_terminals_would_act_on(
    draw: Callable[[int, int], Drawing],
) -> None:
    drawing = draw(80, 24)
    tell(drawing.bars, StateEvent(RUN, "[red]w\x1b[2J", "\x07s", "prepare", {}, at=AT))
    tell(drawing.bars, moved("[bold]\x1b]0;x\x07", 1, 2))
    lines = drawing.lines()

    assert "\\x07s of [red]w\\x1b[2J: planning, " in "\n".join(lines)
    assert "\x07" not in drawing.tty.getvalue()
    assert any(line.startswith("[bold]\\x1b]0;x\\x07") for line in lines)


def test_an_error_of_the_display_costs_one_line(
    draw: Callable[[int, int], Drawing],
) -> None:
    def broken() -> None:
        raise ValueError("what is this")

    drawing = draw(80, 24)
    with configured(verbose=False, as_json=False):
        drawing.bars.later(broken)
        begin(drawing.bars)
        drawing.bars.close()
    lines = drawing.seen()

    assert any("listener_failed" in line for line in lines)
    assert any(line.startswith("s1 of web: copying") for line in lines)


# Where nothing can be redrawn


class Stepping:
    """A clock that somebody else moves."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_calm_lines_grow_rarer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Stepping()
    monkeypatch.setattr(progress, "time", clock)
    listener = CalmLines(Output(False))
    listener.on_state(entered("commit_per_disk"))
    for second in range(36_000):
        clock.now = float(second)
        listener.on_progress(moved("vda", second * MIB, 36_000 * MIB))
    for second in range(5):  # The guest writes on.
        listener.on_progress(moved("vda", (36_000 + second) * MIB, 36_000 * MIB))
    out = capsys.readouterr().out.splitlines()

    assert out[0].endswith(f"  {RUN}  copying")
    assert out[1] == (
        f"2026-11-27 15:40:47Z  {RUN}  vda: 5.0 MiB of 35.2 GiB (0 %), 1.0 MiB/s,"
        " 9 h 59 min left"
    )
    assert len(out) < 80
    assert out[-1] == f"2026-11-27 15:40:47Z  {RUN}  vda: 35.2 GiB of 35.2 GiB (100 %)"
    assert sum("100 %" in line for line in out) == 1


def test_calm_lines_tell_alarms_of_others_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for others in (False, True):
        listener = CalmLines(Output(False))
        listener.others = others
        listener.open()
        tell(listener, AlarmEvent(RUN, "web", "s1", "smoke\nfire", AT))
        listener.close()
        assert ("alarm: smoke\\nfire" in capsys.readouterr().out) is others


def test_progress_is_left_out_for_a_reader_that_is_too_slow(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """States never are."""
    monkeypatch.setattr(progress, "BACKLOG", 10)
    listener = JsonLines(Output(True))
    for done in range(progress.BACKLOG * 3):
        listener(moved("vda", done, GIB))
    tell(listener, entered("vote"), moved("vda", GIB, GIB), entered("pivot"))
    assert capsys.readouterr().out == ""
    listener.open()
    listener.close()
    lines = parsed("event", capsys.readouterr().out)

    assert len(lines) == progress.BACKLOG + 2
    assert [line.get("state") for line in lines[-2:]] == ["vote", "pivot"]


def test_the_same_is_not_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    listener = JsonLines(Output(True))
    listener.open()
    tell(listener, moved("vda", 1, 2), moved("vda", 1, 2), moved("vdb", 1, 2))
    tell(listener, moved("vda", 2, 2))
    listener.close()

    found = parsed("event", capsys.readouterr().out)
    assert [(line["disk"], line["done"]) for line in found] == [
        *(("vda", 1), ("vdb", 1), ("vda", 2)),
    ]
