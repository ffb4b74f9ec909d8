"""An operator who interferes: by the second monitor, and with the files."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from backfold.journal import runs
from backfold.journal.model import FoldPlan
from backfold.states.deletion import UNDECIDED

from .play import Play
from .qemu import Crash, No

CANCELLABLE: Final = UNDECIDED


def stop(play: Play) -> None:
    """`stop`; in a hold nobody can tell it from ours, and the guest may go on."""
    domain = play.world.domain
    if domain is not None and domain.run_state == "running":
        domain.stop(play.world.files, play.world.now)
        opened = runs.list_deletions(play.journal.db, only_open=True)
        if all(row.hold is None for row in opened):
            play.world.wanted = "paused"
        else:
            play.world.may_stand = True


def cont(play: Play) -> None:
    """`cont`, also in the middle of a hold."""
    domain = play.world.domain
    if domain is not None:
        domain.run_state = "running"
        play.world.wanted = "running"
        play.world.may_stand = False


def reset(play: Play) -> None:
    """`system_reset`: a paused guest is in prelaunch then."""
    domain = play.world.domain
    if domain is not None and domain.run_state == "paused":
        domain.run_state = "prelaunch"


def leave(play: Play) -> None:
    """`quit`, of the domain or of a helper."""
    world = play.world
    if world.domain is not None:
        world.wanted = "off"
    for qemu in list(world.qemus.values()):
        world.quit(qemu)


def boot(play: Play) -> None:
    """Start a domain that is off from its definition, or what `domain show` names."""
    world = play.world
    if world.domain is None and (
        play.definition is not None
        or all(disk.broken is None for disk in play.sources())
    ):
        before, world.wanted = world.wanted, "running"
        if play.boot() is not None:
            world.wanted = before


def cancel(play: Play) -> None:
    """A hard cancel of every job."""
    _to_jobs(play, "cancel")


def soft_cancel(play: Play) -> None:
    """A soft cancel of every READY job, which ends like success."""
    _to_jobs(play, "soft")


def complete(play: Play) -> None:
    """`job-complete` of every READY job, and `job-finalize` of a PENDING one."""
    if play.world.domain is not None:
        play.world.completed_in = play.world.domain.pid
    _to_jobs(play, "complete")


def dismiss(play: Play) -> None:
    """Forget every concluded job."""
    _to_jobs(play, "dismiss")


def unfence(play: Play) -> None:
    """Give fenced images their names back while nobody has them open."""
    files = play.world.files
    for name in list(files.names):
        plain, mark, _ = name.partition(".backfold-")
        inode = files.names[name]
        if (
            mark
            and not plain.endswith("/")
            and plain not in files.names
            and not play.world.locks(inode, None, writable=True)
        ):
            files.rename(name, plain)
            files.sync_names()


def move_base(play: Play) -> None:
    """Move a base away."""
    for fold in _folds(play)[:1]:
        _move(play, fold.base.path)


def move_top(play: Play) -> None:
    """Move a top away, whatever it is called now."""
    for fold in _folds(play)[:1]:
        for name in list(play.world.files.names):
            if name.startswith(fold.top.path) and not name.endswith(".moved"):
                _move(play, name)


def _move(play: Play, path: str) -> None:
    files = play.world.files
    if path in files.names and f"{path}.moved" not in files.names:
        files.rename(path, f"{path}.moved")
        files.sync_names()


def put_back(play: Play) -> None:
    """Bring back what was moved away, where nothing else lies there now."""
    files = play.world.files
    for name in list(files.names):
        plain = name.removesuffix(".moved")
        if plain != name and plain not in files.names:
            files.rename(name, plain)
            files.sync_names()


def _folds(play: Play) -> tuple[FoldPlan, ...]:
    for row in runs.list_deletions(play.journal.db, only_open=True):
        if row.plan is not None:
            return row.plan.folds
    return ()


def _to_jobs(play: Play, what: str) -> None:
    world = play.world
    for qemu in list(world.qemus.values()):
        for job in list(qemu.tasks):
            status = qemu.tasks[job].status
            try:
                with suppress(No):
                    if what == "cancel":
                        qemu.cancel(job)
                    elif what == "soft":
                        qemu.complete(job, soft_cancel=True)
                    elif what == "dismiss":
                        qemu.dismiss(job)
                    elif status == "pending":
                        qemu.finalize(world.files, job, world.now)
                    else:
                        qemu.complete(job)
            except Crash:
                world.kill(qemu)


OPERATIONS: Final[dict[str, Callable[[Play], None]]] = {
    "stop": stop,
    "cont": cont,
    "reset": reset,
    "quit": leave,
    "boot": boot,
    "cancel": cancel,
    "soft-cancel": soft_cancel,
    "complete": complete,
    "dismiss": dismiss,
    "unfence": unfence,
    "move-base": move_base,
    "move-top": move_top,
}
