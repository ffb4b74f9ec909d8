"""What a journal tells of its runs, asked without waiting.

`Engine` answers with it; commands that only show runs use it without an engine.
"""

from __future__ import annotations

from ..journal import runs
from ..journal.rows import Rows
from ..journal.runs import TransitionRow
from ..states import outlook as outlooks
from ..states.outlook import Outlook
from . import storyteller
from .results import Creation, Deletion, Reversion, Run
from .story import Story


class History:
    """The runs of one journal."""

    def __init__(self, rows: Rows) -> None:
        """Ask ``rows``."""
        self._rows = rows

    def find(self, run: str) -> Run:
        """The run that an id or an unambiguous prefix names. Raises `UsageError`."""
        machine, found = runs.find(self._rows, run)
        if machine == "deletion":
            return Deletion.of(runs.deletion(self._rows, found))
        if machine == "reversion":
            return Reversion.of(runs.reversion(self._rows, found))
        return Creation.of(runs.creation(self._rows, found))

    def deletion(self, run: str) -> Deletion:
        """One deletion, by its id or an unambiguous prefix. Raises `UsageError`."""
        found = runs.find_deletion(self._rows, run)
        return Deletion.of(runs.deletion(self._rows, found))

    def deletions(
        self, *, only_open: bool = False, limit: int | None = 50
    ) -> list[Deletion]:
        """Deletions, the newest first: ``limit`` of them, or all (None).

        Open ones are never left out with ``only_open``.
        """
        rows = runs.list_deletions(self._rows, only_open=only_open, limit=limit)
        return [Deletion.of(row) for row in rows]

    def creations(self) -> list[Creation]:
        """Open creations of snapshots."""
        return [Creation.of(row) for row in runs.open_creations(self._rows)]

    def reversions(self) -> list[Reversion]:
        """Open reverts."""
        return [Reversion.of(row) for row in runs.open_reversions(self._rows)]

    def log(self, run: str) -> list[TransitionRow]:
        """Everything that happened in a run, in order. Raises `UsageError`."""
        _, found = runs.find(self._rows, run)
        return list(runs.history(self._rows, found))

    def story(self, run: str) -> Story:
        """What happened in a run, for people. Raises `UsageError`."""
        record = self.find(run)
        return storyteller.tell(self.log(record.id), record)

    def outlook(self, run: str, *, roll_back: bool = False) -> Outlook | None:
        """What recovery would do about a run; None when it is finished.

        Raises `UsageError`.
        """
        machine, found = runs.find(self._rows, run)
        if self.find(found).finished is not None:
            return None
        history = list(runs.history(self._rows, found))
        if machine == "creation":
            return outlooks.of_creation(runs.creation(self._rows, found), history)
        if machine == "reversion":
            return outlooks.of_reversion(runs.reversion(self._rows, found), history)
        row = runs.deletion(self._rows, found)
        return outlooks.of_deletion(row, history, roll_back=roll_back)
