"""What a report is made of, read from the journal once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...journal import runs
from ...journal.errors import CommandFailed, UsageError
from ...journal.model import FoldPlan, Plan, TreeImage
from ...journal.runs import TransitionRow
from ...states.deletion import UNDECIDED
from .. import diagram, storyteller
from ..driver import Driver
from ..images import in_thread
from ..results import Deletion
from ..routes import Route, travelled
from ..story import Story


@dataclass(frozen=True, slots=True)
class Facts:
    """A deletion with its plan, its rows and its pictures.

    ``plan`` is that of the last pass; None before there is one, and when another
    version made it. Plans of 0.1 do not know branches and snapshots
    (``has_whole_trees``): their images are those of the chains. ``machine`` and
    ``folds`` are SVG texts; when they could not be drawn, ``undrawn`` says why.
    ``made`` is the instant of the report (UTC, ISO 8601).
    """

    run: Deletion
    plan: Plan | None
    has_whole_trees: bool
    rows: tuple[TransitionRow, ...]
    story: Story
    route: Route
    machine: str | None
    folds: str | None
    undrawn: str | None
    made: str

    @property
    def is_decided(self) -> bool:
        """Whether the run is past the point of no return, or was to its end."""
        return self.run.state not in UNDECIDED | {"rolled_back", "refused"}

    @property
    def is_undone(self) -> bool:
        """Whether the images are as the plan found them, and stay so.

        A deletion can be completed although its last pass was undone: the snapshots
        were gone before it.
        """
        if self.run.state in ("rolled_back", "refused"):
            return True
        tops = {fold.top.path for fold in self.plan.folds} if self.plan else set()
        states = [disk.state for disk in self.run.disks if disk.top in tops]
        return bool(states) and set(states) <= {"cancelled", "failed"}

    @property
    def decided(self) -> float | None:
        """Seconds from the beginning to the last decision; None without one."""
        made = [leg.since for leg in self.route.legs if leg.trigger == "decide"]
        return made[-1] if made else None


async def read(driver: Driver, prefix: str, made: str) -> Facts:
    """The facts of a deletion. Raises `UsageError` for an id of something else."""
    machine, found = await driver.store.read(lambda db: runs.find(db, prefix))
    if machine != "deletion":
        raise UsageError(
            f"{found} is a {machine}; reports are of deletions.",
            remedy=f"`backfold log {found}` tells what happened in it.",
        )
    row = await driver.row(found)
    rows = await driver.store.read(lambda db: list(runs.history(db, found)))
    run = Deletion.of(row)
    pictures = await in_thread(_draw, run, rows)
    route = travelled(run, rows).routes[0]
    plan, is_whole = row.plan, row.plan is None or bool(row.plan.images)
    if plan is not None and not is_whole:
        chains = [image for fold in plan.folds for image in _of_chain(fold)]
        plan = replace(plan, images=tuple(chains))
    story = storyteller.tell(rows, run)
    return Facts(run, plan, is_whole, tuple(rows), story, route, *pictures, made)


def _draw(
    run: Deletion, rows: Sequence[TransitionRow]
) -> tuple[str | None, str | None, str | None]:
    """The pictures of the machines, or why there are none."""
    try:
        machine, folds = (
            diagram.render(name, "svg", travelled=travelled(run, rows, name))
            for name in ("deletion", "fold")
        )
    except CommandFailed as error:
        return None, None, error.what
    return machine, folds if run.disks else None, None


def _of_chain(fold: FoldPlan) -> list[TreeImage]:
    """The images of a fold's chain, the lowest first, with what is known of them."""
    gone = set(fold.superseded)
    images = []
    below: str | None = None
    for image in reversed(fold.chain):
        fate = "superseded" if image in gone else "same"
        named = fold.snapshots if image == fold.base else ()
        is_active = image == fold.active_image
        images.append(TreeImage(fold.target, image.path, below, named, is_active, fate))
        below = image.path
    survivor = fold.survivor.path
    return [
        replace(image, becomes="survivor") if image.path == survivor else image
        for image in images
    ]
