"""What becomes of dirty bitmaps, by the images of a fold that have them."""

from __future__ import annotations

import pytest

from backfold.states.bitmaps import Fate, Outlook, outlooks
from backfold.states.ports import Bitmap

GRAIN = 64 << 10
ON = Bitmap("b", GRAIN, True)
OFF = Bitmap("b", GRAIN, False)
BAD = Bitmap("b", GRAIN, False, inconsistent=True)
PASSING = Bitmap("b", GRAIN, True, persistent=False)
NONE = None

COMMIT, STREAM = "commit", "stream"


def outlook(
    layers: tuple[Bitmap | None, ...],
    strategy: str,
    *,
    keeps: bool = True,
    stale: int = 0,
) -> Outlook:
    survivor = 0 if strategy == COMMIT else len(layers) - 1
    found = [(one,) if one else () for one in layers]
    (only,) = outlooks(found, survivor, keeps, stale)
    return only


@pytest.mark.parametrize(
    ("layers", "strategy", "fate", "parts", "copied", "recording"),
    [
        # From the bottom to the top.
        ((ON, NONE), COMMIT, Fate.STAYS, (), False, True),
        ((OFF, NONE), COMMIT, Fate.STAYS, (), False, False),
        ((NONE, ON), COMMIT, Fate.CARRIED, (1,), False, True),
        ((NONE, OFF), COMMIT, Fate.CARRIED, (1,), False, False),
        ((ON, ON), COMMIT, Fate.CARRIED, (1,), False, True),
        ((ON, OFF), COMMIT, Fate.CARRIED, (1,), False, False),
        ((OFF, ON), COMMIT, Fate.CARRIED, (1,), False, True),
        ((ON, ON, ON), COMMIT, Fate.CARRIED, (1, 2), False, True),
        # An image between has no notes, or none that can be used.
        ((ON, ON, NONE), COMMIT, Fate.CARRIED, (1,), True, True),
        ((NONE, ON, NONE), COMMIT, Fate.CARRIED, (1,), True, True),
        ((NONE, OFF, NONE), COMMIT, Fate.CARRIED, (1,), False, False),
        ((ON, NONE, ON), COMMIT, Fate.CARRIED, (2,), True, True),
        ((NONE, BAD, ON), COMMIT, Fate.CARRIED, (2,), True, True),
        ((ON, ON, BAD), COMMIT, Fate.CARRIED, (1,), True, True),
        # The base notes by itself what is copied.
        ((ON, BAD), COMMIT, Fate.STAYS, (), False, True),
        # What cannot be mended.
        ((BAD, ON), COMMIT, Fate.BROKEN, (), False, True),
        ((BAD, NONE), COMMIT, Fate.BROKEN, (), False, False),
        ((NONE, BAD), COMMIT, Fate.BROKEN, (), False, False),
        ((NONE, BAD), STREAM, Fate.BROKEN, (), False, False),
        ((ON, BAD), STREAM, Fate.BROKEN, (), False, True),
        # A stream writes what nobody notes.
        ((NONE, ON), STREAM, Fate.STAYS, (), False, True),
        ((ON, ON), STREAM, Fate.CARRIED, (0,), False, True),
        ((ON, ON, ON), STREAM, Fate.CARRIED, (0, 1), False, True),
        ((OFF, NONE), STREAM, Fate.CARRIED, (0,), False, False),
        ((ON, NONE), STREAM, Fate.LOST, (), False, True),
        ((ON, NONE, ON), STREAM, Fate.LOST, (), False, True),
        ((BAD, ON), STREAM, Fate.LOST, (), False, True),
        ((BAD, OFF), STREAM, Fate.LOST, (), False, False),
    ],
)
def test_what_becomes_of_a_bitmap(
    layers: tuple[Bitmap | None, ...],
    strategy: str,
    fate: Fate,
    parts: tuple[int, ...],
    copied: bool,
    recording: bool,
) -> None:
    found = outlook(layers, strategy)

    assert found == Outlook("b", fate, GRAIN, True, recording, parts, copied)


def test_a_format_without_bitmaps_would_lose_them_unless_nobody_stores_them() -> None:
    assert outlook((NONE, ON), COMMIT, keeps=False).fate is Fate.LOST
    assert outlook((NONE, OFF), COMMIT, keeps=False).fate is Fate.LOST
    assert outlook((NONE, PASSING), COMMIT, keeps=False).fate is Fate.CARRIED
    assert outlook((NONE, BAD), COMMIT, keeps=False).fate is Fate.BROKEN


@pytest.mark.parametrize(
    ("layers", "strategy", "fate", "parts", "forgets"),
    [
        # The lowest image is of before a revert.
        ((ON, NONE), COMMIT, Fate.DROPPED, (), False),
        ((BAD, NONE), COMMIT, Fate.DROPPED, (), False),
        ((ON, NONE), STREAM, Fate.DROPPED, (), False),
        ((ON, ON), COMMIT, Fate.CARRIED, (1,), True),
        ((NONE, ON), COMMIT, Fate.CARRIED, (1,), False),
        ((ON, NONE, ON), COMMIT, Fate.CARRIED, (2,), True),
        ((BAD, ON), COMMIT, Fate.BROKEN, (), True),
        ((ON, ON), STREAM, Fate.STAYS, (), False),
        ((ON, ON, ON), STREAM, Fate.CARRIED, (1,), False),
    ],
)
def test_what_was_noted_before_a_revert_does_not_count(
    layers: tuple[Bitmap | None, ...],
    strategy: str,
    fate: Fate,
    parts: tuple[int, ...],
    forgets: bool,
) -> None:
    found = outlook(layers, strategy, stale=1)

    assert (found.fate, found.parts, found.forgets) == (fate, parts, forgets)
    assert not found.copied


def test_every_name_is_looked_at_once() -> None:
    other = Bitmap("other", 2 * GRAIN, True)

    found = outlooks([(ON,), (ON, other)], 0, True)

    assert [(one.name, one.parts, one.granularity) for one in found] == [
        ("b", (1,), GRAIN),
        ("other", (1,), 2 * GRAIN),
    ]
