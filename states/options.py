"""What a caller asks of a deletion; stored with its row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: What goes: the snapshot, it and its whole subtree, or only that subtree.
SCOPES: Final = ("snapshot", "children", "children-only")
#: How the images of a fold become one; ``auto`` takes the cheaper way.
STRATEGIES: Final = ("auto", "commit", "stream")


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller asked for: bytes per second, milliseconds, seconds.

    ``through`` is the last snapshot of a range that begins with the one that is
    named. With ``metadata_only`` all images stay as they are. ``image_folders`` are
    searched for other users of an image, besides those of the catalog's images.
    ``secrets`` names, by target, the files with the keys of encrypted images: never
    the keys.
    """

    bandwidth: int | None = None
    max_downtime_ms: int = 500
    timeout: float | None = None
    insist: bool = False
    through: str | None = None
    scope: str = "snapshot"
    metadata_only: bool = False
    strategy: str = "auto"
    image_folders: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
