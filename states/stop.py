"""stop: the helper ends, and the bases are checked now that nobody has them."""

from __future__ import annotations

from .context import Context, Move, Stuck
from .passes import onward
from .start_paused import end_helper


async def stop(ctx: Context) -> Move:
    """End the helper and check the bases; only reads images.

    While a QEMU has an image open, `qemu-img check` proves nothing.
    """
    await end_helper(ctx)

    found: dict[str, str] = {}

    async def check() -> None:
        for fold in ctx.plan.folds:
            if await ctx.images.users(fold.survivor.path):
                await ctx.effects.alarm(
                    f"{fold.survivor.path} is in use already and was not checked"
                )
                found[fold.survivor.path] = "in use"
                continue
            wrong = await ctx.images.check(
                fold.survivor.path, fold.survivor.format, fold.survivor.secret
            )
            if wrong is not None:
                raise Stuck(
                    f"qemu-img check finds errors in {fold.survivor.path}: {wrong}.",
                    "The image holds the disk of the domain; its overlay is retired.",
                    "Keep a copy, try `qemu-img check -r all`, then run recover.",
                )
            found[fold.survivor.path] = "sound"

    await ctx.effects.perform("check_bases", check, told=lambda _: {"images": found})
    return onward(ctx)
