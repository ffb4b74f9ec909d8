"""pivot with QEMU gone: which image is the truth, and links changed by hand."""

from __future__ import annotations

from ..journal.errors import CommandFailed, OutcomeUnknown
from ..journal.model import FoldPlan
from .context import Context, Stuck
from .hold import end_watch, nothing_else, released, stood, take_fences_back
from .stamps import WentOn, went_on


async def switch_links_off(
    ctx: Context, folds: tuple[FoldPlan, ...]
) -> tuple[FoldPlan, ...]:
    """Switch what is not switched yet of these folds, with nobody at their images.

    Returns the folds whose disk somebody kept on its overlay. Keeps invariant 2:
    the stamps of the decision tell which image went on. What intermediate folds
    copied was flushed before the decision, so their link may change now; until
    "switched" is durable, the old chain still opens. One that was being folded again
    has copied since, so that it is kept too, until it has voted again.
    """
    await _nobody_else(ctx, folds)
    if ctx.row.hold is not None:
        told = stood(ctx)
        await ctx.effects.perform(
            "release_guest",
            nothing_else,
            noting=lambda _: released(ctx, told),
            told=lambda _: {"found": "no QEMU", **told},
        )
        await end_watch(ctx)
    actives = tuple(fold for fold in folds if fold.is_active)
    kept = tuple(fold for fold in actives if _overlay_went_on(ctx, fold))
    if kept:
        await ctx.effects.perform(
            "unfence",
            lambda: take_fences_back(ctx, kept),
            told=lambda names: {"names": names},
        )
    lower = tuple(fold for fold in folds if not fold.is_active)
    again = tuple(fold for fold in lower if is_folded_again(ctx, fold))
    for fold in lower:
        if fold not in again:
            await _relink(ctx, fold)
    return kept + again


def is_folded_again(ctx: Context, fold: FoldPlan) -> bool:
    """Whether a disk was kept on its overlay, and its fold has not voted again yet."""
    return ctx.fold_state(fold.target) in ("copying", "converged")


async def _nobody_else(ctx: Context, folds: tuple[FoldPlan, ...]) -> None:
    """Nobody has the bases: a QEMU whose monitor does not answer may yet do so.

    Raises `OutcomeUnknown`, so that the monitor is asked again for a while.
    """
    for fold in folds:
        if users := await ctx.images.users(fold.survivor.path):
            raise OutcomeUnknown(
                f"{fold.survivor.path} is in use ({users[0].what}), but no monitor of"
                " the domain answers.",
                remedy="End that process, or make its monitor reachable.",
            )


def _overlay_went_on(ctx: Context, fold: FoldPlan) -> bool:
    """Whether somebody cancelled, and the guest wrote on into the overlay.

    Raises `Stuck` when overlay and base both changed since the decision: then
    nobody can tell, and nothing is touched.
    """
    row = next(row for row in ctx.row.folds if row.target == fold.target)
    if is_folded_again(ctx, fold):
        return True
    if row.state != "voted":
        return False
    found = went_on(fold, row, ctx.images, ctx.id)
    if found is WentOn.BASE_MISSING:
        raise Stuck(
            f"{fold.base.path} is missing.",
            f"It holds the data of {fold.target} since the decision.",
            "Bring it back to that name, then run recover.",
        )
    if found in (WentOn.BASE_REPLACED, WentOn.OVERLAY_REPLACED):
        is_base = found is WentOn.BASE_REPLACED
        path = fold.base.path if is_base else f"{fold.top.path} (or its fence)"
        raise Stuck(
            f"{path} is not the image of the decision: it was replaced, or cut.",
            f"The data of {fold.target} was complete in {fold.base.path} at the"
            " decision; nothing was touched.",
            "Bring the image itself back to its name, then run recover. A file at the"
            " overlay's name that nobody needs can be moved away.",
        )
    if found is WentOn.BOTH:
        raise Stuck(
            f"Both {fold.top.path} (or its fence) and {fold.base.path} were changed"
            " since the decision.",
            f"Nobody can tell which one the guest of {fold.target} wrote last; both are"
            " untouched.",
            "The guide's chapter on rescue by hand says how to compare them.",
        )
    if found is WentOn.UNTOLD:
        raise Stuck(
            f"{fold.top.path} has its name back, or was changed since the decision, and"
            f" {fold.base.path} is a block device, which does not tell whether it was"
            " written into.",
            f"Nobody can tell which one the guest of {fold.target} wrote last; both are"
            " untouched.",
            "The guide's chapter on rescue by hand says how to compare them.",
        )
    return found is WentOn.OVERLAY


async def _relink(ctx: Context, fold: FoldPlan) -> None:
    image, target = fold.relinked, fold.linked_to
    assert image is not None
    header = await ctx.images.header(image.path, image.format)
    named = header.backing_path and ctx.images.identify(header.backing_path)
    if named == (target and target.file):
        return
    format = None if target is None else target.format
    former = fold.layers[1 if fold.is_stream else 0]
    if named != former.file:
        wanted = "nothing" if target is None else target.path
        raise CommandFailed(
            f"The header of {image.path} names {header.backing}, which is neither"
            f" {former.path} nor {wanted}."
        )
    await ctx.effects.perform(
        "relink",
        lambda: ctx.images.relink(image, fold.link, format),
        intent={"disk": fold.target, "image": image.path, "link": fold.link},
    )
