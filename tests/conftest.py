"""What every test needs, in whatever way the suite was started."""

from __future__ import annotations

import signal

import hypothesis

# Tests interrupt commands as Ctrl-C does. A suite that a shell started in the
# background ignores SIGINT, and so would every command that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy with other tests must not turn an example red.
hypothesis.settings.register_profile("backfold", deadline=None)
hypothesis.settings.load_profile("backfold")
