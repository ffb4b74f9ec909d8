"""Hypothesis decides what happens: orders, kills, faults and an operator at rest."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from simulator import actions, operators
from simulator.explorer import ALL_KILLS, Explorer
from simulator.history import History, Schedule
from simulator.invariants import judge, judge_end
from simulator.quiet import silence
from simulator.scenes import SCENES

#: What an operator may do between two orders.
AT_REST = ("stop", "cont", "reset", "quit", "boot", "cancel", "soft-cancel", "dismiss")
#: What may meet an engine; the rest keeps a run open, and is the explorer's.
MEETING = sorted(set(actions.DISTURBANCES) - actions.EXCUSES - actions.MEDDLING)
moments = st.integers(1, 220)


class Host(RuleBasedStateMachine):
    """One host: engines come and go, one at a time."""

    @initialize(scene=st.sampled_from(sorted(SCENES)))
    def begin(self, scene: str) -> None:
        silence()
        self.folder = tempfile.TemporaryDirectory(prefix="backfold-sim-")
        self.explorer = Explorer(Path(self.folder.name))
        self.scene = scene
        self.play = self.explorer.host(scene)
        self.orders = 0

    @rule(moment=moments, action=st.sampled_from(ALL_KILLS))
    def order_and_kill(self, moment: int, action: str) -> None:
        self._order((moment, action))

    @rule(moment=moments, action=st.sampled_from(MEETING))
    def order_and_disturb(self, moment: int, action: str) -> None:
        self._order((moment, action))

    @rule(
        moment=moments,
        action=st.sampled_from(MEETING),
        gap=moments,
        kill=st.sampled_from(ALL_KILLS),
    )
    def order_disturb_and_kill(
        self, moment: int, action: str, gap: int, kill: str
    ) -> None:
        self._order((moment, action), (moment + gap, kill))

    @rule(action=st.sampled_from(AT_REST))
    def operator(self, action: str) -> None:
        operators.OPERATIONS[action](self.play)

    @invariant()
    def nothing_is_lost(self) -> None:
        judge(self.play)

    def teardown(self) -> None:
        if not hasattr(self, "play"):
            return
        try:
            self.play.world.full = self.play.world.broken = False
            for _ in range(4):
                if self.orders and not self.play.open_runs():
                    break
                self._order()
            judge_end(self.play, excused=False)
        finally:
            self.play.journal.close()
            self.explorer.close()
            self.folder.cleanup()

    def _order(self, *steps: tuple[int, str]) -> None:
        if self.orders and not self.play.open_runs():
            return
        history = History(self.play, Schedule(self.scene, steps), orders=self.orders)
        history.next_order()
        self.orders += 1
        if self.play.world.guarded is not None:
            History(self.play, Schedule(self.scene), orders=1).next_order()


TestHost = Host.TestCase
TestHost.settings = settings(
    max_examples=60,
    stateful_step_count=6,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
