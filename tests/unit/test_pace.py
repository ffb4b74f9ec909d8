"""Rate and time left, whatever QEMU counts."""

from __future__ import annotations

import pytest

from backfold.engine.cli.pace import SPAN, Pace

MIB = 1 << 20


def test_a_steady_copy() -> None:
    pace = Pace()
    for second in range(5):
        pace.see(second, second * 10 * MIB, 100 * MIB)

    assert pace.rate(4) == 10 * MIB
    assert pace.left(4) == 6
    assert pace.share == 40


def test_nothing_is_said_too_early() -> None:
    pace = Pace()
    assert (pace.rate(0), pace.left(0), pace.share, pace.is_copied) == (
        *(None, None, 0),
        False,
    )
    pace.see(0, 0, 0)
    assert pace.left(5) is None
    pace.see(0.1, MIB, 100 * MIB)
    assert (pace.rate(0.2), pace.left(0.2)) == (None, None)


def test_a_total_that_grows_puts_the_end_off() -> None:
    """A guest that writes half as fast as is copied doubles the time left."""
    pace = Pace()
    for second in range(5):
        pace.see(second, second * 10 * MIB, (100 + 5 * second) * MIB)

    assert pace.rate(4) == 10 * MIB
    assert pace.left(4) == (120 - 40) / 5


@pytest.mark.parametrize("grows", [10, 20])
def test_a_guest_that_writes_faster_leaves_no_time_to_tell(grows: int) -> None:
    pace = Pace()
    for second in range(5):
        pace.see(second, second * 10 * MIB, (100 + grows * second) * MIB)

    assert pace.left(4) is None
    assert pace.rate(4) == 10 * MIB


def test_silence_slows_it_down() -> None:
    pace = Pace()
    pace.see(0, 0, 100 * MIB)
    pace.see(1, 10 * MIB, 100 * MIB)

    assert pace.rate(10) == MIB
    assert pace.left(10) == 90
    assert pace.left(1e6) is None


def test_only_the_last_seconds_count() -> None:
    pace = Pace()
    for second in range(100):
        pace.see(second, second * 100 * MIB, 100_000 * MIB)
    for second in range(100, 100 + 2 * int(SPAN)):
        done = 9900 + (second - 99)
        pace.see(second, done * MIB, 100_000 * MIB)

    assert pace.rate(100 + 2 * SPAN - 1) == pytest.approx(MIB)


def test_another_job_begins_anew() -> None:
    pace = Pace()
    pace.see(0, 0, 100 * MIB)
    pace.see(9, 90 * MIB, 100 * MIB)
    pace.see(10, 0, 50 * MIB)
    pace.see(12, 10 * MIB, 50 * MIB)

    assert pace.rate(12) == 5 * MIB
    assert pace.left(12) == 8


def test_all_copied() -> None:
    pace = Pace()
    pace.see(0, 0, 10)
    pace.see(2, 999, 1000)
    assert (pace.share, pace.is_copied) == (99, False)
    pace.see(3, 1000, 1000)
    assert (pace.share, pace.is_copied, pace.left(3)) == (100, True, None)
