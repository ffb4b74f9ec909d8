"""Files of a plan that was made in an earlier boot of the host."""

from __future__ import annotations

from dataclasses import replace

from ..journal.model import FileId, FoldPlan, Image, MemoryFile, Plan
from .ports import Images


def identify_again(plan: Plan, images: Images, run: str, boot_id: str) -> Plan:
    """A plan of an earlier boot, with this boot's device numbers.

    Only a file that still has its inode is taken for the one of the plan: one that
    was replaced meanwhile keeps its old identity, and is reported as a difference.
    """

    def image(old: Image) -> Image:
        return image_again(old, images, images.fence_name(old.path, run))

    def fold(old: FoldPlan) -> FoldPlan:
        return replace(old, chain=tuple(image(item) for item in old.chain))

    def memory(old: MemoryFile) -> MemoryFile:
        if old.file is None:
            return old
        names = (old.path, images.fence_name(old.path, run))
        return replace(old, file=_file_again(old.file, images, *names))

    if plan.boot_id == boot_id:
        return plan
    return replace(
        plan,
        boot_id=boot_id,
        folds=tuple(fold(f) for f in plan.folds),
        retired=tuple(replace(r, image=image(r.image)) for r in plan.retired),
        memories=tuple(memory(each) for each in plan.memories),
    )


def image_again(old: Image, images: Images, *others: str) -> Image:
    """An image of an earlier boot as it is found now, under its name or others."""
    data = old.data
    if data is not None:
        data = replace(data, file=_file_again(data.file, images, data.path))
    file = _file_again(old.file, images, old.path, *others)
    return replace(old, file=file, data=data)


def _file_again(then: FileId, images: Images, *names: str) -> FileId:
    for path in names:
        found = images.identify(path)
        if found is not None and found.inode == then.inode:
            return found
    return then
