"""What operators type, and what they are shown."""

from __future__ import annotations

import pytest

from backfold.engine.cli import text, values
from backfold.journal.errors import UsageError


@pytest.mark.parametrize(
    ("typed", "expected"),
    [("50M", 50 << 20), ("1k", 1024), ("1.5G", 3 << 29), ("2T", 2 << 40)],
)
def test_a_rate_has_a_power_of_1024(typed: str, expected: int) -> None:
    assert values.rate(typed) == expected


@pytest.mark.parametrize(
    "typed",
    ["50", "", "M", "-5M", "0M", "5MB", "5 M", "9999999999T", "1e3M", "\u0665M"],
)
def test_other_rates_are_refused(typed: str) -> None:
    with pytest.raises(UsageError, match="rate"):
        values.rate(typed)


def test_a_rate_without_a_unit_is_told_which() -> None:
    with pytest.raises(UsageError, match="has no unit") as caught:
        values.rate("50")

    assert "K, M, G or T" in caught.value.remedy


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_senseless_timeouts_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="--timeout"):
        values.timeout(seconds)


@pytest.mark.parametrize("milliseconds", [0, -5, 2_000_001])
def test_senseless_downtimes_are_refused(milliseconds: int) -> None:
    with pytest.raises(UsageError, match="--max-downtime"):
        values.downtime(milliseconds)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("vda=/a.qcow2", ("vda", "/a.qcow2", None)),
        ("vda=/a,,b,format=raw", ("vda", "/a,b", "raw")),
        ("vda=/a=b,format=qcow2", ("vda", "/a=b", "qcow2")),
        ("vda=/a,,,,b,,", ("vda", "/a,,b,", None)),
        ("vda=json:{}", ("vda", "json:{}", None)),
    ],
)
def test_a_disk_is_read_as_qemu_reads_it(
    typed: str, expected: tuple[str, str, str | None]
) -> None:
    assert values.disk(typed) == expected


@pytest.mark.parametrize(
    "typed",
    [
        "vda",
        "=x",
        "vda=",
        "vda=x,y",
        "vda=x,format=vmdk",
        "vda=x,format=",
        "vda=x,format=raw,format=raw",
        "vda=x,",
        "vda=/\udcff",
    ],
)
def test_other_disks_are_refused(typed: str) -> None:
    with pytest.raises(UsageError):
        values.disk(typed)


def test_nothing_that_a_terminal_acts_on_is_shown() -> None:
    hostile = "a\x1b[31m\r\n\t\x00\x7f\x9b2J\u202eb\u2028\udcff ä→"

    assert text.safe(hostile) == (
        r"a\x1b[31m\r\n\t\x00\x7f\x9b2J\u202eb\u2028\udcff ä→"
    )


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 40, "5.0 TiB")],
)
def test_sizes(count: int, expected: str) -> None:
    assert text.size(count) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (61, "1 min 01 s"), (7260, "2 h 01 min")],
)
def test_lengths_of_time(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


def test_a_damaged_time_is_shown_as_it_is() -> None:
    assert text.instant("soon\x1b") == r"soon\x1b"
