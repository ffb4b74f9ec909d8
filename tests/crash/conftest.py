"""What the tests of this folder tell at the end of a run."""

from __future__ import annotations

import statistics

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how long the guest waited for the guard, point by point."""
    waited: dict[str, float] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "released_after_seconds" and report.when == "call":
                    waited[report.nodeid.partition("[")[2].rstrip("]")] = value
    if not waited:
        return
    terminalreporter.section("the guest ran again after the engine's death, in ms")
    for point, seconds in sorted(waited.items(), key=lambda item: item[1]):
        terminalreporter.write_line(f"{seconds * 1000:6.0f}  {point}")
    middle = statistics.median(waited.values())
    worst = max(waited.values())
    terminalreporter.write_line(
        f"{len(waited)} points: median {middle * 1000:.0f}, worst {worst * 1000:.0f}"
    )
