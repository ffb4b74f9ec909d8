"""Dirty bitmaps across a fold: which blocks were written since each was made.

Incremental backup knows a bitmap by its name. Its notes may lie in several images of
a chain: in each image what was written while that image was the active one. So what
survives a fold must have the notes of all images that become one, must go on
recording if the uppermost did, and may have more blocks than were written but never
fewer. Everything here is about one fold, its images from the bottom to the top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from .ports import Bitmap


class Fate(StrEnum):
    """What becomes of the bitmaps of one name."""

    #: Only the image that survives has it: it stays as it is. If it is recording, it
    #: notes what a commit copies, which is what was written above it.
    STAYS = "stays"
    #: The notes of the other images are merged into that of the one that survives.
    CARRIED = "carried"
    #: A part of it is inconsistent already: the next backup must be a full one.
    BROKEN = "broken"
    #: It is of before a revert, and says nothing of the disk of today: it goes.
    DROPPED = "dropped"
    #: This fold would lose it: it must not be done this way.
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Outlook:
    """What becomes of the bitmaps of one name.

    ``parts`` are the images, by number from the bottom, whose notes are merged into
    the one that survives. With ``copied`` an image between has no notes, so that
    what the job copies counts as written: never too little, perhaps too much. With
    ``forgets`` the survivor's own notes do not count.
    """

    name: str
    fate: Fate
    granularity: int
    persistent: bool
    recording: bool
    parts: tuple[int, ...] = ()
    copied: bool = False
    forgets: bool = False


def outlooks(
    layers: Sequence[Sequence[Bitmap]], survivor: int, keeps: bool, stale: int = 0
) -> tuple[Outlook, ...]:
    """What becomes of every bitmap when these images become one.

    ``survivor`` is the number of the image that stays: the lowest (a commit) or the
    uppermost (a stream). ``keeps`` says whether its format holds bitmaps. The notes
    of the lowest ``stale`` images are of before a revert: a backup that was made
    after them may hold what they do not tell of.
    """
    names = dict.fromkeys(bitmap.name for layer in layers for bitmap in layer)
    return tuple(_outlook(name, layers, survivor, keeps, stale) for name in names)


def _outlook(
    name: str,
    layers: Sequence[Sequence[Bitmap]],
    survivor: int,
    keeps: bool,
    stale: int,
) -> Outlook:
    every = {
        number: bitmap
        for number, layer in enumerate(layers)
        for bitmap in layer
        if bitmap.name == name
    }
    found = {number: one for number, one in every.items() if number >= stale}
    if not found:
        best = every[max(every)]
        return Outlook(
            name, Fate.DROPPED, best.granularity, best.persistent, best.recording
        )
    own = every.get(survivor)
    if survivor not in found and own is not None and own.inconsistent:
        found[survivor] = own  # Nothing sound can take its name.
    sound = {number: one for number, one in found.items() if not one.inconsistent}
    best = found[max(sound or found)]
    parts = tuple(number for number in sorted(sound) if number != survivor)
    gaps = any(number not in sound for number in range(min(found), len(layers)))
    broken = not sound or (survivor in found and survivor not in sound)
    is_commit = survivor == 0
    if broken:
        fate = Fate.BROKEN
    elif not keeps and best.persistent:
        fate = Fate.LOST
    elif not is_commit and gaps and (best.recording or len(sound) < len(found)):
        # What a stream copies is noted by nobody, and what it leaves must not look
        # sound when a part of it was not.
        fate = Fate.LOST
    elif not parts:
        fate = Fate.STAYS
    else:
        fate = Fate.CARRIED
    return Outlook(
        name=name,
        fate=fate,
        granularity=best.granularity,
        persistent=best.persistent,
        recording=best.recording,
        parts=parts if fate is Fate.CARRIED else (),
        copied=fate is Fate.CARRIED and gaps and best.recording,
        forgets=own is not None and survivor < stale,
    )
