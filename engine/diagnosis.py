"""Whether a journal can be used for recovery; if not, what is still knowable.

Nothing is written, neither into the journal nor anywhere near the images: the journal
is looked at in a private copy, and folders of images are listed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..journal import audit
from ..journal.audit import Audit, KnownRun
from ..journal.errors import JournalDamaged, JournalError, JournalNewer, JournalOlder
from ..journal.versions import pending
from .files import FENCE, FENCED

#: States of a run in which a fence may be on the disks without a hold.
FENCING: Final = frozenset(
    {"pivot", "update_metadata", "stop", "completed", "recorded", "reverted"}
)

#: How often a journal is looked at before it is called damaged.
LOOKS: Final = 2

_RULE: Final = (
    "The images were not touched. Without a journal, an overlay that is not fenced is"
    " the truth; beside a fenced one the base is complete."
)
_RESCUE: Final = (
    "Keep a copy of the journal with its -wal file, bring back the right one, or follow"
    " the guide's chapter on rescue by hand."
)


@dataclass(frozen=True, slots=True)
class Fence:
    """A fenced image on the disks; ``known`` is the run that its name belongs to."""

    path: str
    image: str
    run: str
    known: KnownRun | None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why a journal must not be used, and what could be read of it."""

    journal: Path
    problem: JournalError
    audit: Audit
    fences: tuple[Fence, ...]

    def lines(self) -> Iterator[str]:
        """What is still knowable, for people."""
        for complaint in self.audit.complaints:
            yield f"found: {complaint}"
        for run in self.audit.open_runs:
            yield (
                f"open:  {run.machine} {run.id} of snapshot {run.snapshot} of"
                f" {run.domain}, in {run.state}, begun {run.started}"
            )
            for target, state, top, base in run.images:
                yield f"         {target}: {state}, overlay {top}, base {base}"
        if not self.audit.open_runs:
            yield "open:  no run that can be read"
        for domain, target, source in self.audit.disks:
            there = "" if os.path.lexists(source) else " (is missing)"
            yield f"disk:  {target} of {domain} is {source}{there}"
        for fence in self.fences:
            whose = "of no run that is known"
            if fence.known is not None:
                whose = f"of the {fence.known.machine} {fence.run}, {fence.known.state}"
            yield f"fence: {fence.path}, {whose}"


def diagnose(journal: Path) -> Diagnosis | None:
    """Look at a journal before recovery uses it; None when it can be used.

    Damage, a log of another journal, a newer version, and a journal that is older
    than the disks are told apart; nothing is guessed and nothing repaired. An empty
    file is damage too: nobody recovers from a journal that was never used. Raises
    `JournalError` when it cannot be read at all. See `journal.audit` for when not to
    call this.
    """
    if journal.is_symlink() or not journal.is_file():
        return None  # `Store.open` has the words for these.
    for _ in range(LOOKS):
        # Two commits within one tick of the clock can look like none: look again.
        with audit.private_copy(journal) as copy:
            found = audit.examine(copy)
            problem = _newer(journal, copy) or _damaged(journal, found)
        if problem is None:
            break
    fences = tuple(find_fences(found))
    problem = problem or _older(journal, fences)
    return None if problem is None else Diagnosis(journal, problem, found, fences)


def find_fences(found: Audit) -> Iterator[Fence]:
    """Fenced images beside the images that a journal knows, in their real folders.

    Fences of images that it does not know are another journal's.
    """
    runs = {run.id: run for run in found.runs}
    paths = {os.path.realpath(path) for path in _image_paths(found)}
    for folder in sorted({os.path.dirname(path) for path in paths}):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            if not FENCED.search(name):
                continue
            stem, _, run = name.rpartition(FENCE)
            image = os.path.join(folder, stem)
            if image in paths:
                yield Fence(os.path.join(folder, name), image, run, runs.get(run))


def _image_paths(found: Audit) -> Iterator[str]:
    yield from found.images
    for _, _, source in found.disks:
        yield source
    for run in found.runs:
        for _, _, top, base in run.images:
            yield from (top, base)


def is_stray(fence: Fence) -> bool:
    """Whether the journal cannot have seen the moment when this fence was made.

    A fence is made under a durable row: the hold of a vote, or what comes after the
    decision; and it is taken back before the end of the hold is recorded.
    """
    known = fence.known
    if known is None:
        return True
    return not known.has_hold and known.state not in FENCING


def _older(journal: Path, fences: Sequence[Fence]) -> JournalError | None:
    stray = [fence.path for fence in fences if is_stray(fence)]
    if not stray:
        return None
    return JournalOlder(
        f"The journal {journal} is older than the disks: it does not know how"
        f" {', '.join(stray)} came to be fenced.",
        data=_RULE,
        remedy="Bring back the journal that was in use last, with its -wal file, or"
        " follow the guide's chapter on rescue by hand. A fence that you know to be"
        " useless may be moved to another folder.",
    )


def _damaged(journal: Path, found: Audit) -> JournalError | None:
    if not found.complaints:
        return None
    return JournalDamaged(
        f"The journal {journal} is damaged: {found.complaints[0]}.",
        data=_RULE,
        remedy=_RESCUE,
    )


def _newer(journal: Path, copy: Path) -> JournalError | None:
    try:
        with closing(sqlite3.connect(copy)) as connection:
            pending(connection)
    except JournalNewer as error:
        return error
    except Exception:
        return None  # The audit has said what is wrong with it.
    return None
