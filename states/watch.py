"""What a guard is told before a hold begins: enough to end it without the journal."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

from ..journal.model import FileId

#: Run states of a guest that was stopped; a reset makes `prelaunch` of `paused`.
STANDING: Final = frozenset({"paused", "prelaunch"})


@dataclass(frozen=True, slots=True)
class HeldDisk:
    """A disk that is to switch: its job, and its two images as they are found."""

    job: str
    top: str
    fence: str
    top_file: FileId
    base_file: FileId


@dataclass(frozen=True, slots=True)
class Watch:
    """One hold. ``process`` is that of `Session.process`, ``monitor`` a path.

    ``stops_guest`` is False when the guest stood already: then nobody lets it go
    on, but what an operator lets go on must not find its disks drained.
    """

    deletion: str
    monitor: str
    process: str | None
    stops_guest: bool
    disks: tuple[HeldDisk, ...]

    def files(self) -> frozenset[FileId]:
        """The images whose locks the hold is under."""
        return frozenset(
            f for disk in self.disks for f in (disk.top_file, disk.base_file)
        )

    def to_json(self) -> str:
        """The watch as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Watch:
        """Read it back. Raises ValueError, KeyError or TypeError when it is not one."""
        data = json.loads(text)
        disks = tuple(
            HeldDisk(
                **{
                    **disk,
                    "top_file": FileId(**disk["top_file"]),
                    "base_file": FileId(**disk["base_file"]),
                }
            )
            for disk in data["disks"]
        )
        return cls(**{**data, "disks": disks})
