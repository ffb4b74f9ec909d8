"""Images below the active one are read-only again when nothing writes them any more.

A cancelled active commit leaves its base open for writing, and an image above an
intermediate top was reopened for the change of its link (both measured).
"""

from __future__ import annotations

from collections.abc import Iterable

from ..journal.errors import CommandFailed
from ..journal.model import FoldPlan
from .context import Context
from .ports import Session


async def restore_read_only(
    ctx: Context, session: Session, folds: Iterable[FoldPlan]
) -> None:
    """Reopen bases and images above read-only, wherever they are not active.

    Idempotent. One that stays writable is told as an alarm: nothing writes to it.
    """
    ours = {
        image.file
        for fold in folds
        for image in (fold.survivor, fold.relinked)
        if image is not None
    }
    for chain in await ctx.chains(session):
        for image in chain.images[1:]:
            if image.read_only or image.file not in ours:
                continue
            try:
                await session.set_writable(image, False)
            except CommandFailed as error:
                await ctx.effects.alarm(f"{image.filename} stays writable: {error}")
