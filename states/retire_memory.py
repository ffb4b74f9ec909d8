"""The memory file of a snapshot that is gone: removed, if it is still that file."""

from __future__ import annotations

from ..journal import catalog, runs
from ..journal.errors import CommandFailed
from ..journal.model import FileId, MemoryFile
from .context import Context, Stuck
from .told import size_of


async def retire_memory(ctx: Context, memory: MemoryFile) -> None:
    """Remove a memory file, if it is still what it was at planning.

    Keeps invariant 5: the catalog has forgotten the snapshot before, and a file that
    somebody has open keeps the run open (`Stuck`). Safe to be killed in: the file
    gets the fence's name, announced with device and inode, and only that name with
    that inode is unlinked. A file that is missing, is another one by now, or has
    other names is told and left alone: the deletion does not depend on it.
    """
    path, file = memory.path, memory.file
    fence = ctx.images.fence_name(path, ctx.id)
    is_fenced = file is not None and ctx.images.identify(fence) == file
    if file is None or (not is_fenced and ctx.images.identify(path) != file):
        if not await _was_announced(ctx, path):
            await _left(ctx, path, "it is missing, or another file than it was")
        return
    intent = {
        "memory": path,
        "fence": fence,
        "device": file.device,
        "inode": file.inode,
    }
    if not is_fenced:
        if (obstacle := ctx.images.fence_obstacle(path, ctx.id)) is not None:
            await _left(ctx, path, obstacle)
            return
        if (other := await _what_else(ctx, path, file)) is not None:
            await _left(ctx, path, f"it is {other}")
            return
        await _prove_unused(ctx, path)
    if ctx.images.identify(path) == file:
        await ctx.effects.perform(
            "set_aside", lambda: ctx.images.rename(path, fence, file), intent=intent
        )
    await _prove_unused(ctx, fence)
    freed = size_of(ctx.images, fence)
    await ctx.effects.perform(
        "unlink",
        lambda: ctx.images.unlink(fence, file),
        intent=intent,
        told=lambda _: freed,
    )


async def _was_announced(ctx: Context, path: str) -> bool:
    """Whether this run has set the file aside, so that it is gone by its own hand."""
    history = await ctx.read(lambda db: list(runs.history(db, ctx.id)))
    return any(row.detail.get("memory") == path for row in history)


async def _what_else(ctx: Context, path: str, file: FileId) -> str | None:
    """What the file is besides; a name may have been used again since."""
    for words, other in await ctx.read(catalog.memories):
        if ctx.images.identify(other) == file:
            return f"the memory of {words}"
    for image in await ctx.read(catalog.image_paths):
        if ctx.images.identify(image) == file:
            return "an image of the catalog"
    try:
        await ctx.images.header(path, "qcow2")
    except CommandFailed:
        return None
    return "a qcow2 image"


async def _prove_unused(ctx: Context, name: str) -> None:
    users = [user.what for user in await ctx.images.users(name) if user.holds]
    if users:
        raise Stuck(
            f"The memory file {name} is still in use: {', '.join(users)}.",
            "It was not removed; no snapshot needs it.",
            f"Let go of it, then run `backfold recover {ctx.id}`.",
        )


async def _left(ctx: Context, path: str, why: str) -> None:
    await ctx.effects.alarm(f"the memory file {path} was not removed: {why}")
