"""What recovery will do about an open run, and why that is safe, before it does it.

Pure: everything here follows from the rows of the journal. The world may have changed
since, which is why each state looks at it before it acts; what is said here holds
whatever it finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ..journal.runs import (
    CreationRow,
    DeletionRow,
    ReversionRow,
    TransitionRow,
)
from .deletion import UNDECIDED

#: The states behind the point of no return.
DECIDED: Final = frozenset({"pivot", "update_metadata", "stop"})


@dataclass(frozen=True, slots=True)
class Outlook:
    """An open run as an operator has to see it before it is recovered.

    ``begun`` is when it began and ``last`` when its last row was written, by ``who``
    (UTC, ISO 8601). ``step`` is a step that was announced and not noted: it may have
    been done or not. ``held`` is since when the guest may stand still.
    """

    machine: str
    run: str
    domain: str
    snapshot: str
    state: str
    begun: str
    last: str
    who: str | None
    step: str | None
    held: str | None
    decided: bool
    happened: tuple[str, ...]
    will: tuple[str, ...]
    safe: str


#: What recovery does in each state of a deletion, and why no write can be lost by it.
_FORWARD: Final[Mapping[str, tuple[str, str]]] = {
    "validate": (
        "Look at the images again; then go on, or refuse with all reasons.",
        "Nothing has been changed yet.",
    ),
    "prepare": (
        "Check everything again under the lock, and plan from what is there now.",
        "No image was renamed and no link was changed: the chain below each disk is"
        " whole, and its overlay holds every write.",
    ),
    "start_paused": (
        "Attach to the paused QEMU that was started for it, or start another one;"
        " then copy.",
        "The domain is off, and that QEMU runs no guest. The chain below each disk is"
        " whole.",
    ),
    "commit_per_disk": (
        "Attach to its block jobs where QEMU still has them, else plan again; copy"
        " what is left, then vote and switch.",
        "The overlays are the truth and keep every write; copying into the images"
        " below takes nothing away from them.",
    ),
    "vote": (
        "Take the vote back (jobs cancelled, fenced overlays under their names, the"
        " guest running if it ran), then converge and vote again.",
        "Nothing is decided, so that the overlays are the truth; nothing was removed.",
    ),
    "pivot": (
        "Go forward only: finalize what still waits, and prove by QEMU's graph, or by"
        " size and time of the images when QEMU is gone, which image each disk is on.",
        "The decision is durable. Overlay and base of each disk were equal at that"
        " moment, and neither is removed before the switch is proved.",
    ),
    "update_metadata": (
        "Record the new chain in the catalog, then remove the superseded images, each"
        " after a proof that nothing uses it.",
        "Every disk was read back on its base before this state was entered.",
    ),
    "stop": (
        "End the paused QEMU and check the bases.",
        "The deletion is recorded, and nobody writes into the images.",
    ),
    "roll_back": (
        "Undo the rest: cancel jobs, take fences back, let the guest go on; then say"
        " whether the snapshot is still valid.",
        "No link was ever changed; the overlays are the truth and keep every write.",
    ),
}
_BACK: Final = (
    "Give it up: cancel its jobs, take fences back, let the guest go on; then say"
    " whether the snapshot is still valid.",
    "Nothing is decided; the overlays are the truth and keep every write.",
)
_NO_WAY_BACK: Final = (
    "Refuse to roll back, and change nothing; without --roll-back it is finished.",
    "It is decided: the guest may have written into the bases since, and going back"
    " would lose that.",
)
_CREATION: Final[Mapping[str, tuple[str, str]]] = {
    "planned": (
        "Remove the new overlays, if they are empty: the snapshot is not taken.",
        "The guest has never seen them.",
    ),
    "overlays_made": (
        "Ask QEMU which images the disks are on. All on the new overlays: record the"
        " snapshot. None: remove them, the snapshot is not taken.",
        "QEMU switches all disks in one transaction. With QEMU gone, an overlay that"
        " holds data is kept, and what nobody can tell is reported and left alone.",
    ),
    "switched": (
        "Record the snapshot in the catalog; if the domain was booted from its old"
        " images meanwhile, keep those, and the snapshot is not taken.",
        "What holds the last write stays the disk; where both images went on, that is"
        " reported and both are left alone.",
    ),
}
_REVERSION: Final[Mapping[str, tuple[str, str]]] = {
    "planned": (
        "Remove the new overlays, if they are empty: nothing is reverted.",
        "The disks are as before; nothing of them was touched.",
    ),
    "overlays_made": (
        "Remove the new overlays, if they are empty: nothing is reverted.",
        "The disks are as before; nothing of them was touched.",
    ),
    "recorded": (
        "Remove the former images of the disks, each after a proof that nothing uses"
        " it and that nobody wrote into it since the revert was planned.",
        "The disks are on their new overlays. A former image that was written into is"
        " reported and left alone.",
    ),
}


def of_deletion(
    row: DeletionRow, history: Sequence[TransitionRow], *, roll_back: bool = False
) -> Outlook:
    """What becomes of an open deletion. Raises KeyError for a finished one."""
    decided = row.state in DECIDED
    will, safe = _FORWARD[row.state]
    if roll_back and row.state != "roll_back":
        will, safe = _BACK if row.state in UNDECIDED else _NO_WAY_BACK
    first = []
    if row.hold is not None and row.hold.get("stops_guest"):
        first.append("Let the guest go on, if it still stands.")
    held = None if row.hold is None else row.hold.get("at")
    if not (row.hold or {}).get("stops_guest"):
        held = None
    happened = list(_interrupted_at(row.state, history))
    if held is not None:
        happened.append(f"The guest was held at {held}; its guard lets it go on.")
    happened.append(
        f"It is decided: {_count(row, 'voted', 'switched', 'retired')}"
        " have their data in the base."
        if decided and row.folds
        else "It is decided."
        if decided
        else "Nothing is decided."
    )
    if row.helper is not None:
        happened.append("The domain was off: a paused QEMU was started for it.")
    if row.cancel_requested and not decided:
        happened.append("Somebody asked to cancel it: it will be rolled back.")
    if row.has_foreign_plan:
        will = "Nothing: another version of Backfold stored its plan."
        safe = "It is left as it is for that version."
    return Outlook(
        machine="deletion",
        run=row.id,
        domain=row.domain,
        snapshot=row.snapshot,
        state=row.state,
        begun=row.started,
        last=history[-1].at if history else row.started,
        who=history[-1].who if history else None,
        step=open_step(history),
        held=held,
        decided=decided,
        happened=tuple(happened),
        will=(*first, will),
        safe=safe,
    )


def of_creation(row: CreationRow, history: Sequence[TransitionRow]) -> Outlook:
    """What becomes of an open creation. Raises KeyError for a finished one."""
    what = _targets(row) or "the memory alone"
    return _of_planned(
        "creation",
        row,
        history,
        _CREATION[row.state],
        f"A snapshot of {what} was being taken.",
        is_decided=row.state == "switched",
    )


def of_reversion(row: ReversionRow, history: Sequence[TransitionRow]) -> Outlook:
    """What becomes of an open reversion. Raises KeyError for a finished one."""
    return _of_planned(
        "reversion",
        row,
        history,
        _REVERSION[row.state],
        f"{_targets(row)} of {row.domain} was being reverted to {row.snapshot}.",
        is_decided=row.state == "recorded",
    )


def _of_planned(
    machine: str,
    row: CreationRow | ReversionRow,
    history: Sequence[TransitionRow],
    told: tuple[str, str],
    what: str,
    *,
    is_decided: bool,
) -> Outlook:
    will, safe = told
    return Outlook(
        machine=machine,
        run=row.id,
        domain=row.domain,
        snapshot=row.snapshot,
        state=row.state,
        begun=row.started,
        last=history[-1].at if history else row.started,
        who=history[-1].who if history else None,
        step=open_step(history),
        held=None,
        decided=is_decided,
        happened=(*_interrupted_at(row.state, history), what),
        will=(will,),
        safe=safe,
    )


def _targets(row: CreationRow | ReversionRow) -> str:
    return ", ".join(overlay.target for overlay in row.plan.overlays)


def open_step(history: Iterable[TransitionRow]) -> str | None:
    """The last step that was announced and neither noted nor left behind by an edge.

    Only of the run itself: rows of its folds are results of steps, not steps.
    """
    found = None
    for row in history:
        if row.kind == "announce":
            found = row.trigger
        elif row.machine == "fold" or row.kind == "remark":
            continue
        elif row.kind == "edge" or row.trigger == found:
            found = None
    return found


def _interrupted_at(state: str, history: Sequence[TransitionRow]) -> Iterable[str]:
    step = open_step(history)
    place = state.replace("_", " ")
    if step is None:
        yield f"It was interrupted in {place}, between two steps."
    else:
        name = step.replace("_", " ")
        yield (
            f"It was interrupted in {place}: {name} was announced, and may have"
            " happened or not."
        )


def _count(row: DeletionRow, *states: str) -> str:
    number = sum(fold.state in states for fold in row.folds)
    return f"{number} of {len(row.folds)} disk{'s' if len(row.folds) > 1 else ''}"
