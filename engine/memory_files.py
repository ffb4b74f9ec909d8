"""Whether a file can be recorded as the memory of a snapshot."""

from __future__ import annotations

from typing import Final

from sqlite_utils import Database

from ..journal import catalog
from ..journal.errors import CommandFailed, Reason
from .reader import Reader

#: Stands for the run that will remove the file one day.
_SOME_RUN: Final = "0" * 12


async def memory_obstacles(reader: Reader, path: str) -> list[Reason]:
    """Every reason why ``path`` cannot be a memory file; only reads.

    The file goes with its snapshot. So it must be one that can be removed, that is no
    disk's image, and that nobody has open or still writes.
    """
    images = reader.images
    file = images.identify(path)
    if file is None:
        return [
            _reason(
                f"The memory file {path} is missing.",
                "Save the guest's memory first (QMP `migrate` to a file, say): Backfold"
                " does not save it.",
            )
        ]
    if (obstacle := images.fence_obstacle(path, _SOME_RUN)) is not None:
        return [
            _reason(
                f"{path} could not be removed with the snapshot: {obstacle}.",
                "Name a plain file of its own.",
            )
        ]

    def known(db: Database) -> tuple[list[str], list[tuple[str, str]]]:
        return catalog.image_paths(db), catalog.memories(db)

    image_paths, memories = await reader.store.read(known)
    reasons = [
        _reason(f"{path} is an image of the catalog.", "Name the memory file.")
        for image in image_paths
        if images.identify(image) == file
    ]
    if not reasons and await _is_qcow2(reader, path):
        reasons.append(_reason(f"{path} is a qcow2 image.", "Name the memory file."))
    reasons += [
        _reason(
            f"{path} is the memory of {owner} already.",
            "Each snapshot has a memory file of its own.",
        )
        for owner, other in memories
        if images.identify(other) == file
    ]
    reasons += [
        _reason(
            f"{path} is in use: {user.what}.",
            "Wait until the memory is saved and the file is closed.",
        )
        for user in await images.users(path)
        if user.holds
    ]
    return reasons


async def _is_qcow2(reader: Reader, path: str) -> bool:
    try:
        await reader.images.header(path, "qcow2")
    except CommandFailed:
        return False
    return True


def _reason(message: str, remedy: str) -> Reason:
    return Reason("memory_file", message, remedy)
