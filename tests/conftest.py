"""What every test needs, in whatever way the suite was started."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import hypothesis
import pytest
import structlog

# Tests interrupt commands as Ctrl-C does. A suite that a shell started in the
# background ignores SIGINT, and so would every command that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy with other tests must not turn an example red.
hypothesis.settings.register_profile("backfold", deadline=None)
hypothesis.settings.load_profile("backfold")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A test that configures the log does so for itself alone."""
    yield
    structlog.reset_defaults()
