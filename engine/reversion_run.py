"""A reversion, driven: going back to a snapshot, all disks or none."""

from __future__ import annotations

from dataclasses import replace

from ..journal import runs
from ..states.reversion import REVERSION
from ..states.revert import HANDLERS, ReversionContext, identify_reversion_again
from .planned_run import PlannedRun


class ReversionRun(PlannedRun[ReversionContext]):
    """Drives one reversion from the state that it is in."""

    declaration = REVERSION
    handlers = HANDLERS
    safe = "`backfold domain show` names the images to boot from, as ever."

    async def refresh(self) -> None:
        """Read the run again, with the device numbers of this boot."""
        row = await self.store.read(lambda db: runs.reversion(db, self.key.id))
        plan = identify_reversion_again(
            row.plan, self.ctx.images, row.id, self.clock.boot_id()
        )
        self.ctx.row = replace(row, plan=plan)
