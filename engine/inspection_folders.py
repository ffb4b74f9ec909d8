"""Files that Backfold itself leaves beside images, found by their names."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ..journal.model import FileId
from . import files
from .files import FENCE, FENCED, PROBES
from .images import UNFINISHED

_PROBE: Final = re.compile(
    "(?:" + "|".join(map(re.escape, PROBES)) + r")([0-9a-f]{12})\Z", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Stray:
    """A file beside the images of a domain.

    ``image`` is the path that it belongs to, which the catalog may know; ``run`` the
    run in its name, if it has one. ``file`` is None for what is no regular file.
    """

    kind: Literal["fence", "unfinished", "probe"]
    path: str
    image: str
    run: str | None
    file: FileId | None
    size: int
    is_known: bool = False


def strays(folders: Sequence[str], images: Sequence[str]) -> Iterator[Stray]:
    """Fences, unfinished overlays and probes in these folders. Only reads.

    ``images`` are those that the catalog knows. What cannot be listed is passed over.
    """
    known = {os.path.realpath(path) for path in images}
    for folder in sorted({os.path.realpath(folder) for folder in folders}):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for name in names:
            path = os.path.join(folder, name)
            found = _stray(path)
            if found is not None:
                yield replace(found, is_known=found.image in known)


def _stray(path: str) -> Stray | None:
    folder, name = os.path.split(path)
    run: str | None = None
    kind: Literal["fence", "unfinished", "probe"]
    if FENCED.search(name):
        kind, (stem, _, run) = "fence", name.rpartition(FENCE)
    elif (probe := _PROBE.search(name)) is not None:
        kind, stem, run = "probe", name[: probe.start()], probe[1]
    elif name.endswith(UNFINISHED):
        kind, stem = "unfinished", name.removesuffix(UNFINISHED)
    else:
        return None
    try:
        looked = os.lstat(path)
    except OSError:
        return None
    file = files.file_id(looked) if stat.S_ISREG(looked.st_mode) else None
    return Stray(kind, path, os.path.join(folder, stem), run, file, looked.st_size)
