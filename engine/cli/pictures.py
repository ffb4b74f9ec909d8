"""Trees in the terminal: images before and after a deletion, snapshots, chains.

Lines for people, for 80 columns, with and without colour. Who prints them to a
terminal that cannot draw lines gets ASCII (see `output`).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from .. import trees
from .text import columns, instant, safe, size

if TYPE_CHECKING:
    from ...journal.model import Plan, Snapshot, TreeImage
    from ..results import DomainDisk

T = TypeVar("T")

#: A tree that is deeper than this is drawn flat: see `branches`.
DEEPEST: Final = 8
#: A name is never cut below this many characters.
_SHORTEST: Final = 16


def branches(
    roots: Sequence[T], children: Callable[[T], Sequence[T]]
) -> Iterator[tuple[str, str, T]]:
    """Each node of a tree, in order, with what is drawn before its line.

    The second text is for further lines of the same node. In a deep tree, the last
    child stands right below its parent and is not indented: a chain of a hundred
    images is a column then, and only branches beside it are indented.
    """
    is_flat = _depth(roots, children) > DEEPEST
    waiting = [(root, "", "") for root in reversed(roots)]
    while waiting:
        node, before, indent = waiting.pop()
        below = list(children(node))
        rest = "│  " if below and not (is_flat and len(below) == 1) else "   "
        yield before, indent + (rest if below else "   "), node
        for number, child in enumerate(reversed(below)):
            is_last = number == 0
            if is_flat and is_last:
                waiting.append((child, indent, indent))
            else:
                bar, deeper = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
                waiting.append((child, indent + bar, indent + deeper))


def images_before_and_after(
    found: Plan, target: str, width: int | None = None
) -> list[str]:
    """The images of a disk as a plan found them, and as it leaves them."""
    now = trees.before(found, target)
    names = short_names([image.path for image in now])
    lines = []
    for title, images in (("before", now), ("after", trees.after(found, target))):
        drawn = columns([list(line) for line in _images(images, names, width)])
        lines += [
            f"{title if number == 0 else '':8} {line}"
            for number, line in enumerate(drawn)
        ]
    return lines


def snapshots(found: Sequence[Snapshot], width: int | None = None) -> list[str]:
    """A domain's snapshots as a tree, each with its images and what these take.

    The first line is the head of the columns. ``width`` cuts names of images, never
    those of snapshots.
    """
    by_parent: dict[str | None, list[Snapshot]] = {}
    known = {each.name for each in found}
    for each in found:
        parent = each.parent if each.parent in known else None
        by_parent.setdefault(parent, []).append(each)
    current = _line_of_current(found)

    def children(node: Snapshot) -> list[Snapshot]:
        # Where the domain is now comes last, so that it is the main line.
        below = by_parent.get(node.name, [])
        return sorted(below, key=lambda each: each.name in current)

    paths = [disk.frozen for each in found for disk in each.disks]
    paths += [each.memory for each in found if each.memory is not None]
    names = short_names(paths)
    rows = [["SNAPSHOT", "CREATED", "STATUS", "DISK", "SIZE", "IMAGE"]]
    for before, rest, each in branches(by_parent.get(None, []), children):
        status = f"{each.status}, current" if each.current else each.status
        files = [(disk.target, disk.frozen) for disk in each.disks]
        files += [] if each.memory is None else [("memory", each.memory)]
        told = [[target, _size(path), names[path]] for target, path in files] or [
            ["-", "-", "-"]
        ]
        rows.append([before + each.name, instant(each.created), status, *told[0]])
        rows += [[rest.rstrip(), "", "", *more] for more in told[1:]]
    return columns(_cut(rows, width))


def chain(
    disk: DomainDisk, labels: Mapping[str, Sequence[str]], width: int | None = None
) -> list[str]:
    """The chain of a disk as a tree, the lowest image first.

    ``labels`` are the snapshots that froze an image, by path. Images that lie beside
    the active one are named without their folder.
    """
    paths = list(reversed(disk.chain))
    folder = os.path.dirname(disk.source)
    above = dict(itertools.pairwise(paths))

    def children(path: str) -> list[str]:
        return [above[path]] if path in above else []

    rows = []
    for before, _, path in branches(paths[:1], children):
        name = os.path.basename(path) if os.path.dirname(path) == folder else path
        what = [", ".join(labels[path])] if labels.get(path) else []
        what += ["active"] if path == disk.source else []
        rows.append([before + safe(name), _size(path), " · ".join(what) or "-"])
    return columns(_cut(rows, width, column=0))


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """File names of images where these suffice, else their paths; safe to print."""
    different = set(paths)
    whole = len({os.path.basename(path) for path in different}) < len(different)
    return {path: safe(path if whole else os.path.basename(path)) for path in different}


def _images(
    images: Sequence[TreeImage], names: Mapping[str, str], width: int | None
) -> list[list[str]]:
    known = {image.path: image for image in images}
    above: dict[str | None, list[TreeImage]] = {}
    for image in known.values():
        below = image.below if image.below in known else None
        above.setdefault(below, []).append(image)
    rows = []
    roots = above.get(None, [])
    for before, _, image in branches(roots, lambda each: above.get(each.path, [])):
        what = [", ".join(image.snapshots)] if image.snapshots else []
        what += ["active"] if image.is_active else []
        rows.append([before + names[image.path], " · ".join(what) or "-"])
    # Eleven columns are taken by the words before and after.
    return _cut(rows, None if width is None else width - 11, column=0)


def _depth(roots: Sequence[T], children: Callable[[T], Sequence[T]]) -> int:
    depth, level = 0, list(roots)
    while level and depth <= DEEPEST:
        depth, level = depth + 1, [each for node in level for each in children(node)]
    return depth


def _line_of_current(found: Sequence[Snapshot]) -> frozenset[str]:
    """The current snapshot and its ancestors."""
    parents = {each.name: each.parent for each in found}
    line = set[str]()
    name = next((each.name for each in found if each.current), None)
    while name is not None and name not in line:
        line.add(name)
        name = parents.get(name)
    return frozenset(line)


def _size(path: str) -> str:
    """What a file takes of its file system; a block device has its whole size."""
    try:
        found = os.stat(path)
        if found.st_rdev:
            with open(path, "rb") as device:
                return size(device.seek(0, os.SEEK_END))
    except OSError:
        return "missing" if not os.path.lexists(path) else "?"
    return size(found.st_blocks * 512)


def _cut(rows: list[list[str]], width: int | None, column: int = -1) -> list[list[str]]:
    """The same rows; names in one column are cut in the middle to fit the width."""
    if width is None:
        return rows
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    spare = width - (sum(widths) - widths[column]) - 2 * (len(widths) - 1)
    room = max(_SHORTEST, spare)
    cut = []
    for row in rows:
        new = list(row)
        new[column] = _middle(row[column], room)
        cut.append(new)
    return cut


def _middle(text: str, room: int) -> str:
    """A text without its middle, where the end tells more than the beginning."""
    if len(text) <= room:
        return text
    end = (room - 1) * 2 // 3
    return f"{text[: room - 1 - end]}…{text[-end:]}"
