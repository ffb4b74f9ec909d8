"""Everything that may happen at a moment: kills, faults, and an operator.

A kill ends the engine; what remains is a state that somebody has to recover from. The
others meet an engine that is alive.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from backfold.journal import runs
from backfold.journal.errors import CommandFailed, OutcomeUnknown
from backfold.journal.runs import Author, DeletionRow

from . import operators
from .life import Life
from .play import Play

#: Calls that ask a QEMU, and calls that touch files: what can fail in which way.
IMAGE_CALLS: Final = frozenset(
    {
        *("header", "extents", "check", "create_overlay", "relink", "is_empty"),
        *("probe_fence", "rename", "unlink", "sync", "users", "dependents"),
        "hook",
    }
)
NO_CALLS: Final = frozenset({"sleep", "guard start"})


def kill(play: Play, action: str) -> None:
    """Apply a kill to a copy of the world; the engine is gone already."""
    world = play.world
    if action == "kill-both" or action == "kill-both-boot":
        if world.domain is not None:
            world.kill(world.domain)
        for qemu in list(world.qemus.values()):
            world.kill(qemu)
    elif action == "kill-back":
        world.wants_back = True
    elif action == "kill-start":
        operators.boot(play)
    elif action == "kill-unguarded":
        world.guarded = None
    elif action.startswith("power"):
        world.fence_is_void |= world.restarted
        seed = action.removeprefix("power.")
        if seed == "kept":
            for file in world.files.inodes.values():
                file.sync()
            world.files.sync_names()
        world.power_cut(random.Random(int(seed)) if seed.isdigit() else None)
    elif action != "kill":
        raise ValueError(action)
    if action.endswith("-boot") and world.wanted != "off":
        play.boot()


def kills(play: Play) -> list[str]:
    """The kills that make different states here."""
    world = play.world
    found = ["kill"]
    if any(row.state in operators.CANCELLABLE for row in _open_deletions(play)):
        found.append("kill-back")
    if world.wanted == "off" and world.domain is None:
        found.append("kill-start")
    if world.guarded is not None:
        found.append("kill-unguarded")
    if world.qemus:
        found.append("kill-both")
        if world.wanted != "off":
            found.append("kill-both-boot")
    found.append("power.lost")
    if world.files.is_unsafe():
        found += ["power.kept", f"power.{1 + world.writes % 2}", "power.3"]
    return found


def disturbances(place: str) -> Iterator[str]:
    """What can happen to a living engine at a moment of this kind."""
    call = place.removesuffix(" done")
    is_call = "." not in place and call not in NO_CALLS
    for action in DISTURBANCES:
        if action in ("timeout", "refuse", "disconnect") and not is_call:
            continue
        if action == "disconnect" and call.split()[0] in IMAGE_CALLS:
            continue
        if action == "owner" and call.split()[0] != "hook":
            continue
        if action == "refuse" and (call != place or call == "wait" or " " in call):
            continue
        yield action


def disturb(play: Play, life: Life, place: str, action: str) -> None:
    """Do something to a living engine. Raises what its call is to raise."""
    world = play.world
    world.meddled |= action in MEDDLING
    if action in ("timeout", "refuse", "disconnect"):
        if action not in disturbances(place):
            return
        if action == "timeout":
            raise OutcomeUnknown(f"No answer to {place} in time.")
        if action == "refuse":
            raise CommandFailed(f"{place}: Input/output error")
        for qemu in world.qemus.values():
            qemu.client = None
    elif action in ("qemu", "qemu-boot"):
        for qemu in list(world.qemus.values()):
            world.kill(qemu)
        if action == "qemu-boot" and world.wanted != "off":
            play.boot()
            world.restarted = True
    elif action == "slow":
        world.now += 1_000_000_000
    elif action in ("full", "broken"):
        setattr(world, action, True)
    elif action == "owner":
        world.owner_is_broken = True
    elif action in ("commit.lost", "commit.durable"):
        life.commit_fault = action.removeprefix("commit.")
    elif action == "request-cancel":
        _request_cancel(play)
    else:
        operators.OPERATIONS[action](play)


def _open_deletions(play: Play) -> list[DeletionRow]:
    return list(runs.list_deletions(play.journal.db, only_open=True))


def _request_cancel(play: Play) -> None:
    db = play.journal.db
    for row in _open_deletions(play):
        if row.state in operators.CANCELLABLE:
            with db.atomic():
                runs.request_cancel(db, row.id, Author("operator", "now"))


DISTURBANCES: Final = (
    *("timeout", "refuse", "disconnect", "qemu", "qemu-boot", "slow", "full"),
    *("broken", "commit.lost", "commit.durable", "request-cancel", "owner"),
    *operators.OPERATIONS,
)
#: After these, a run may stay open with an explanation, or end in another way.
EXCUSES: Final = frozenset({"move-base", "move-top", "complete"})
#: After these, the names of files prove nothing to whoever has no journal.
MEDDLING: Final = frozenset({"move-base", "move-top", "unfence"})
