"""A deletion, driven: which state comes next, and what errors mean where."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from sqlite_utils import Database

from ..journal import runs
from ..journal.errors import (
    AlreadyDecided,
    CommandFailed,
    CommitUnknown,
    FlushFailed,
    JournalBusy,
    JournalError,
    MonitorBusy,
    OutcomeUnknown,
    Reason,
    Refused,
    Superseded,
    WorldError,
)
from ..journal.model import FoldPlan
from ..states.by_hand import refuses_to_undo
from ..states.commit_per_disk import commit_per_disk
from ..states.context import (
    Abandon,
    Context,
    LeaveOpen,
    Move,
    Replan,
    Stuck,
    Unit,
)
from ..states.deletion import DELETION
from ..states.hold import release_votes
from ..states.pivot import pivot
from ..states.ports import Job
from ..states.prepare import prepare
from ..states.roll_back import roll_back
from ..states.start_paused import start_paused
from ..states.stop import stop
from ..states.update_metadata import update_metadata
from ..states.validate import validate
from ..states.vote import annulment, diverge, vote
from .beacon import Beacon
from .events import DowntimeEvent, ProgressEvent
from .runner import Runner

#: How often in a row an unknown outcome is asked for before the run is left open.
UNKNOWN_LIMIT: Final = 20
#: How often in a row a plain no is met after the decision, before that.
FAILURE_LIMIT: Final = 4
#: How often a run is planned again before it is given up.
REPLAN_LIMIT: Final = 10

_LOOK: Final = "Look at the monitor and the images of the domain, then try again."

HANDLERS: Final[Mapping[str, Callable[[Context], Awaitable[Move]]]] = {
    "validate": validate,
    "prepare": prepare,
    "start_paused": start_paused,
    "commit_per_disk": commit_per_disk,
    "vote": vote,
    "pivot": pivot,
    "update_metadata": update_metadata,
    "stop": stop,
    "roll_back": roll_back,
}
#: The edges that lead a fold to `failed`; its job may not have been noted as started.
_FAIL: Final = ("copying", "fail", "failed")
FAILS: Final = {
    "planned": (("planned", "start", "copying"), _FAIL),
    "copying": (_FAIL,),
    "converged": (("converged", "fail", "failed"),),
}
ABANDONABLE: Final = frozenset(
    edge.source for edge in DELETION.edges if edge.trigger == "abandon"
)


@dataclass
class DeletionModel:
    """What the guards of the deletion's machine look at."""

    ctx: Context
    state: str = DELETION.initial

    def has_no_folds(self) -> bool:
        """Nothing has to be copied."""
        return not self.ctx.plan.folds

    def needs_helper(self) -> bool:
        """The images are not those of a living QEMU of the domain."""
        return self.ctx.plan.place == "helper"

    def has_more(self) -> bool:
        """Images without a name are left for another pass."""
        return self.ctx.plan.has_more

    def is_recorded(self) -> bool:
        """An earlier pass has recorded that the snapshot is gone."""
        return bool(self.ctx.row.passes)

    def has_helper(self) -> bool:
        """The journal knows a helper."""
        return self.ctx.row.helper is not None

    def every_fold_voted(self) -> bool:
        """Every fold has voted in the hold that stands."""
        targets = {fold.target for fold in self.ctx.plan.folds}
        return self.ctx.row.hold is not None and self.ctx.voted == targets

    def nothing_finalized(self) -> bool:
        """No fold has switched."""
        return all(fold.state != "switched" for fold in self.ctx.row.folds)


class DeletionRun(Runner):
    """Drives one deletion from the state that it is in."""

    declaration = DELETION
    ctx: Context
    #: Why the run was refused, if it was.
    refusal: Refused | None = None
    #: Tells others on this host how far the disks are, while somebody drives this.
    beacon: Beacon | None = None
    _reported: frozenset[tuple[str, int, int]] = frozenset()

    @property
    def state(self) -> str:
        """The state that the journal has."""
        return self.ctx.row.state

    @property
    def subject(self) -> tuple[str, str]:
        """Domain and snapshot of the run."""
        return self.ctx.row.domain, self.ctx.row.snapshot

    def model(self) -> DeletionModel:
        """What the guards look at."""
        return DeletionModel(self.ctx)

    async def refresh(self) -> None:
        """Read the run again, and tell how long the guest stood if that is new."""
        before = self.ctx.row.downtime_ms
        await self.ctx.refresh()
        stood = self.ctx.row.downtime_ms
        if stood is not None and stood != before:
            now = self.clock.now()
            self.tell(DowntimeEvent(self.key.id, *self.subject, stood, now))

    async def run(self, until: Callable[[str], bool] = lambda state: False) -> str:
        """Go on until a final state, or a state that ``until`` accepts.

        Raises `Stuck` or `LeaveOpen` when the run stays open, `JournalError` when
        the journal cannot be written.
        """
        errors = replans = 0
        while self.state not in DELETION.final and not until(self.state):
            if self.ctx.interrupted() and self.state not in ("pivot", "roll_back"):
                raise LeaveOpen
            try:
                move = await HANDLERS[self.state](self.ctx)
            except Refused as error:
                move = self._refusal(error)
            except Replan as error:
                replans += 1
                await self.ctx.disconnect()
                move = self._planning_again(error, give_up=replans > REPLAN_LIMIT)
            except Abandon as error:
                going = await self._given_up(error)
                if going is None:
                    continue
                move = going
            except (OutcomeUnknown, CommandFailed, MonitorBusy) as error:
                errors += 1
                try:
                    if not await self._goes_back(error, errors):
                        continue
                    move = self._abandonment(error)
                except Refused as refusal:
                    move = self._refusal(refusal)
            else:
                errors = 0
            try:
                await self.fire(move)
            except JournalBusy:
                if move.trigger != "decide":
                    raise
                await self.refresh()
        return self.state

    async def give_up(self, because: str) -> str:
        """Roll back on request, from any state before the decision."""
        if await refuses_to_undo(self.ctx):
            raise AlreadyDecided(
                f"Somebody completed a job of the deletion {self.key.id} by hand.",
                data="The guest writes to the base image since; going back would lose"
                " that.",
                remedy=f"`backfold recover {self.key.id}` finishes the deletion.",
            )
        if self.state in ABANDONABLE:
            await self.fire(self._abandonment(Abandon(because)))
        elif self.state == "validate":
            await self.fire(Move("refuse", {"because": because}))
        return await self.run()

    def progress(self, fold: FoldPlan, job: Job) -> None:
        """Tell the caller how far a fold is, when it has moved."""
        seen = (fold.target, job.done, job.total)
        if seen not in self._reported:
            others = {old for old in self._reported if old[0] != fold.target}
            self._reported = frozenset(others | {seen})
            if self.beacon is not None:
                self.beacon.tell(*seen)
            now = self.clock.now()
            self.tell(ProgressEvent(self.key.id, *seen, *self.subject, now))

    def patience(self, move: Move) -> float | None:
        """The decision is made while a guest may stand: no longer than its downtime."""
        if move.trigger == "decide":
            return self.ctx.options.max_downtime_ms / 1000
        return None

    async def not_recorded(self, move: Move, error: Exception) -> None:
        """A decision that is not durable for certain must never count.

        The votes are released, unless another engine has them now. When the COMMIT
        failed, a restart could yet find its row, so that a durable annulment comes
        first. When that fails too, the fence is taken back before the guest goes on
        (as `release_votes` does): an overlay that is not fenced and went on is the
        truth.
        """
        if move.trigger != "decide" or isinstance(error, Superseded):
            return
        if isinstance(error, CommitUnknown):
            with suppress(JournalError):
                await self.write(self._annulment(error))
        await release_votes(self.ctx)

    def _annulment(self, error: CommitUnknown) -> Unit:
        ctx = self.ctx

        def annul(db: Database) -> None:
            if runs.deletion(db, ctx.id).state == "pivot":
                annulment(ctx)(db)
                runs.move(
                    db, ctx.key, "pivot", "annul", "vote", ctx.author, {}, final=False
                )
            else:
                annulled = {"what": f"annulled: {error.what}"}
                runs.remark(db, ctx.key, "vote", "alarm", ctx.author, annulled)

        return annul

    async def _goes_back(self, error: WorldError, count: int) -> bool:
        """What follows a failed call: give up (True), or ask again (False).

        An unknown outcome is asked for, in every state. A plain no leads back only
        before the decision; after it, nothing but forward. Raises `Stuck` when
        asking does not help.
        """
        refused = isinstance(error, CommandFailed)
        with suppress(JournalError):
            await self.alarm(f"{self.state}: {error.what}")
        if isinstance(error, FlushFailed):
            await self._remember_failed_flush(error)
        await self.ctx.disconnect()
        if refused and self.state in ABANDONABLE:
            if not await refuses_to_undo(self.ctx):
                return True
        if isinstance(error, FlushFailed):
            raise Stuck(
                error.what,
                "Old and new images are both there; nothing was removed.",
                "Look at the storage. What the kernel holds of that file may differ"
                " from what is stored: restart the host, then run"
                f" `backfold recover {self.key.id}`.",
            ) from error
        if self.state == "validate" and count >= FAILURE_LIMIT:
            raise Refused([Reason("unreadable", error.what, _LOOK)])
        if count >= (FAILURE_LIMIT if refused else UNKNOWN_LIMIT):
            again = f"run `backfold recover {self.key.id}`."
            raise Stuck(
                error.what,
                "Old and new images are both there; no write is lost.",
                f"{error.remedy} Then {again}" if error.remedy else again.capitalize(),
            ) from error
        await self.clock.sleep(min(2.0, 0.05 * 2**count))
        await self.refresh()
        return False

    async def _remember_failed_flush(self, error: FlushFailed) -> None:
        """Nobody asks for this file again in this boot; see `Context.sync`."""
        detail = {"path": error.path, "boot": self.clock.boot_id()}
        await self.write(
            lambda db: runs.remark(
                db, self.key, self.state, "flush_failed", self.author, detail
            )
        )

    def _refusal(self, error: Refused) -> Move:
        """Refused before anything was planned: history. Later: the run is given up."""
        self.refusal = Refused(error.reasons, self.key.id)
        reasons = [reason.as_json() for reason in error.reasons]
        trigger = "refuse" if self.ctx.row.plan is None else "abandon"

        def because(db: Database) -> None:
            runs.update_deletion(db, self.key, reason=str(error))

        return Move(trigger, {"reasons": reasons}, because)

    async def _given_up(self, error: Abandon) -> Move | None:
        """The move that gives the run up, or the one that goes on (None: here).

        A job that somebody else completed has ended too; then there is only forward.
        """
        if not await refuses_to_undo(self.ctx):
            return self._abandonment(error)
        if self.state != "vote":
            return None
        return Move("back_off", {"because": str(error)}, diverge(self.ctx))

    def _abandonment(self, error: Exception) -> Move:
        failed = error.failed if isinstance(error, Abandon) else None

        def unit(db: Database) -> None:
            runs.update_deletion(db, self.key, reason=str(error))
            for fold in self.ctx.row.folds:
                if fold.target != failed:
                    continue
                for source, trigger, dest in FAILS[fold.state]:
                    runs.move_fold(
                        db,
                        self.key,
                        fold.target,
                        source,
                        trigger,
                        dest,
                        self.author,
                    )

        return Move("abandon", {"because": str(error)}, unit)

    def _planning_again(self, error: Replan, *, give_up: bool) -> Move:
        if give_up:
            return self._abandonment(error)

        def restart(db: Database) -> None:
            for fold in self.ctx.row.folds:
                runs.move_fold(
                    db,
                    self.key,
                    fold.target,
                    fold.state,
                    "restart",
                    "planned",
                    self.author,
                )

        return Move("replan", {"because": str(error)}, restart)
