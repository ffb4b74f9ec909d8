"""Superseded images are removed, each after a proof that nothing uses it."""

from __future__ import annotations

import os.path
from collections.abc import Mapping
from typing import Any

from sqlite_utils import Database

from ..journal import catalog
from ..journal.model import Image
from .context import Context, Stuck, Unit
from .ports import Images
from .told import size_of


async def retire(ctx: Context, target: str, image: Image, noted: Unit) -> None:
    """Remove an image that nothing needs any more, and forget it.

    Keeps invariant 5: it is renamed to the fence's name (announced with device and
    inode) before exactly that name with exactly that inode is unlinked, so that it
    is safe to be killed in. An image that no snapshot made keeps its name, unless
    it is fenced: that one must never be booted from again. ``noted`` is written with
    the row that says that it is gone.
    """
    fence = ctx.fence(image)
    ours = await ctx.read(lambda db: catalog.is_ours(db, image.path))
    name = name_of(image, fence, ctx.images)
    intent = removal(target, image, fence)

    def gone(_: object) -> Unit:
        def forget(db: Database) -> None:
            noted(db)
            if ours:
                catalog.forget_image(db, image.path)
            else:
                catalog.forget_kept(db, image.path)

        return forget

    # A block device is not ours, and its name is nobody's to change.
    if name is not None and ours and not image.file.is_block_device:
        await _prove_useless(ctx, image, name)
        if name != fence:
            await ctx.effects.perform(
                "set_aside",
                lambda: ctx.images.rename(image.path, fence, image.file),
                intent=intent,
            )

    async def unlink() -> Mapping[str, Any]:
        if not ours:
            return {"left": "it was not made by a snapshot"}
        freed = size_of(ctx.images, fence)
        await ctx.images.unlink(fence, image.file)
        if name_of(image, fence, ctx.images) is not None:
            raise Stuck(
                f"{image.path} was set aside, and somebody gave it its name back.",
                "It was not removed; the domain no longer needs it.",
                f"Leave it to `backfold recover {ctx.id}`, which removes it.",
            )
        return freed

    await ctx.effects.perform(
        "unlink", unlink, intent=intent, noting=gone, told=lambda freed: freed
    )
    await ctx.refresh()


def name_of(image: Image, fence: str, images: Images) -> str | None:
    """The name that an image has now, its fence's or its own; None when it is gone."""
    names = (fence, image.path)
    return next((name for name in names if images.identify(name) == image.file), None)


def removal(target: str, image: Image, fence: str) -> Mapping[str, Any]:
    """What is announced before an image gets its fence's name, and is unlinked."""
    return {
        "disk": target,
        "image": image.path,
        "fence": fence,
        "device": image.file.device,
        "inode": image.file.inode,
    }


async def _prove_useless(ctx: Context, image: Image, name: str) -> None:
    """Raise `Stuck` when a process, another image or the catalog still uses it."""
    users = [user.what for user in await ctx.images.users(name) if user.holds]
    folders = {os.path.dirname(image.path), os.path.dirname(name)}
    folders |= set(ctx.options.image_folders)
    below = (await ctx.images.dependents(sorted(folders))).get(image.file, ())
    named = await ctx.read(lambda db: catalog.users_of_image(db, image.path))
    if found := [*users, *below, *named]:
        raise Stuck(
            f"{name} is superseded but still in use: {', '.join(found)}.",
            "It was not removed; the domain no longer needs it.",
            f"Let go of it, then run `backfold recover {ctx.id}`.",
        )
