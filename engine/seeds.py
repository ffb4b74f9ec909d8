"""What the journal may hold, from the declarations of the machines."""

from __future__ import annotations

from typing import Final

from ..journal.schema import Seeds
from ..states.creation import CREATION
from ..states.deletion import DELETION
from ..states.fold import ALLOWED, FOLD
from ..states.reversion import REVERSION

MACHINES: Final = (DELETION, FOLD, CREATION, REVERSION)

SEEDS: Final = Seeds(
    states=tuple((m.name, state.name) for m in MACHINES for state in m.states),
    transitions=tuple(row for m in MACHINES for row in m.transitions()),
    allowed_folds=tuple(
        (state, fold) for state, folds in ALLOWED.items() for fold in sorted(folds)
    ),
)
