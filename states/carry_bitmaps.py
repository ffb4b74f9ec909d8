"""Carry dirty bitmaps through a fold, so that incremental backup goes on.

What a commit copies is noted by the bitmaps of its base, which is too much, and a
fold may be given up after its vote. So before its job begins, what the base's bitmaps
have noted is kept in **notes**, bitmaps that are not persistent and belong to the
job; from these and the images above the result is made when the job is PENDING, as
often as it is asked for, and what was before can be made again. A stream needs no
notes: what it copies is noted by nobody, and what it merges is right before, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..journal.errors import CommandFailed
from ..journal.model import FoldPlan
from .bitmaps import Fate, Outlook, outlooks
from .context import Abandon, Context
from .ports import Bitmap, LiveChain, LiveImage, MergedBitmap, Session

#: How the names of all notes of all deletions begin.
NOTES = "backfold-"


def is_note(bitmap: Bitmap) -> bool:
    """Whether a bitmap is a note of a deletion, and not somebody's."""
    return not bitmap.persistent and bitmap.name.startswith(NOTES)


def without_notes(bitmaps: Iterable[Bitmap]) -> tuple[Bitmap, ...]:
    """The bitmaps that are somebody's."""
    return tuple(bitmap for bitmap in bitmaps if not is_note(bitmap))


class _Images:
    """The images that a fold makes one, from the bottom to the top."""

    def __init__(
        self,
        fold: FoldPlan,
        images: Sequence[LiveImage],
        bitmaps: Sequence[Sequence[Bitmap]],
    ) -> None:
        self.fold = fold
        self.images = images
        self.survivor = len(images) - 1 if fold.is_stream else 0
        self.notes = {b.name: b for b in bitmaps[self.survivor] if is_note(b)}
        self.bitmaps = [without_notes(layer) for layer in bitmaps]

    @classmethod
    async def read(cls, session: Session, fold: FoldPlan, chain: LiveChain) -> _Images:
        top, base = chain.index(fold.top.file), chain.index(fold.base.file)
        if top is None or base is None:
            raise CommandFailed(f"QEMU has the chain of {fold.target} no more.")
        images = chain.images[top : base + 1][::-1]
        return cls(fold, images, await session.bitmaps(images))

    @property
    def kept_image(self) -> LiveImage:
        """The image that survives."""
        return self.images[self.survivor]

    def outlooks(self) -> tuple[Outlook, ...]:
        keeps = self.kept_image.format == "qcow2"
        return outlooks(self.bitmaps, self.survivor, keeps, self.fold.stale)

    def note(self, what: str, name: str = "") -> str:
        return f"{self.fold.job}.{what}.{name}"

    def kept(self, bitmap: Bitmap) -> str:
        """The note that keeps what a bitmap of the base had noted."""
        return self.note("on" if bitmap.recording else "off", bitmap.name)

    def find_kept(self, name: str) -> str | None:
        """That note, if there is one."""
        names = (self.note(what, name) for what in ("on", "off"))
        return next((name for name in names if name in self.notes), None)


async def note_bitmaps(
    ctx: Context, session: Session, fold: FoldPlan, chain: LiveChain
) -> None:
    """Keep what the base's bitmaps have noted, before a commit adds to it.

    Safe to be killed in and to repeat: all notes are made at once, and those that
    are there already are older and better.
    """
    if fold.is_stream:
        return
    found = await _Images.read(session, fold, chain)
    copied = found.note("copied")
    if copied in found.notes or not any(found.bitmaps):
        return
    # With that mark everything in the base is of an earlier vote of this deletion.
    mine = found.note("carried") in found.notes
    granularity = min(one.granularity for layer in found.bitmaps for one in layer)
    base = found.kept_image
    notes = [
        MergedBitmap(base, copied, granularity, recording=True, persistent=False),
        *(
            MergedBitmap(
                base,
                found.kept(one),
                one.granularity,
                recording=False,
                persistent=False,
                parts=((base, one.name),),
            )
            for one in found.bitmaps[found.survivor]
            if not one.inconsistent and not mine
        ),
    ]
    await ctx.effects.perform(
        "note_bitmaps",
        lambda: session.merge_bitmaps(notes),
        intent={"disk": fold.target, "job": fold.job},
    )


async def bitmaps_to_carry(
    session: Session, folds: Iterable[FoldPlan], chains: Iterable[LiveChain]
) -> tuple[MergedBitmap, ...]:
    """What the bitmaps of the survivors are to be, once every job is PENDING.

    What is there now counts, not what was there when it was planned: a backup may
    have made bitmaps meanwhile. Can be repeated as long as no job is finalized.
    Raises `Abandon` when a bitmap has come that would be lost.
    """
    chains = tuple(chains)
    wanted: list[MergedBitmap] = []
    for fold in folds:
        chain = next((c for c in chains if c.index(fold.base.file) is not None), None)
        if chain is None:
            raise CommandFailed(f"QEMU has the chain of {fold.target} no more.")
        found = await _Images.read(session, fold, chain)
        carried = [
            _carried(found, one) for one in found.outlooks() if _moves(fold, one)
        ]
        if carried and not found.notes and not fold.is_stream:
            # So that a roll back knows that it has to take them back.
            mark = found.note("carried")
            carried.append(MergedBitmap(found.kept_image, mark, 64 << 10, False, False))
        wanted += carried
    return tuple(wanted)


def _moves(fold: FoldPlan, outlook: Outlook) -> bool:
    if outlook.fate is Fate.LOST:
        raise Abandon(
            f"the bitmap {outlook.name} of {fold.target} was made meanwhile, and would"
            " be lost"
        )
    return outlook.fate is Fate.CARRIED


def _carried(found: _Images, outlook: Outlook) -> MergedBitmap:
    base, name = found.kept_image, outlook.name
    parts = [(found.images[number], name) for number in outlook.parts]
    kept = found.find_kept(name)
    if kept is not None and not outlook.forgets:
        parts.append((base, kept))
    copied = found.note("copied")
    if outlook.copied:
        if copied in found.notes:
            parts.append((base, copied))
        else:
            kept = None  # What the job copied is in the bitmap itself, if anywhere.
    return MergedBitmap(
        base,
        name,
        outlook.granularity,
        outlook.recording,
        outlook.persistent,
        tuple(parts),
        anew=kept is not None,
    )


async def has_notes(session: Session, fold: FoldPlan, chain: LiveChain) -> bool:
    """Whether there is something to restore, or to forget."""
    return bool((await _Images.read(session, fold, chain)).notes)


async def restore_bitmaps(session: Session, fold: FoldPlan, chain: LiveChain) -> None:
    """Make the bitmaps of the base as they were before the job. Safe to repeat.

    The notes go last. The base is open for writing afterwards.
    """
    found = await _Images.read(session, fold, chain)
    if not found.notes:
        return
    base = found.kept_image
    before: list[MergedBitmap] = []
    added: list[str] = []
    for bitmap in found.bitmaps[found.survivor]:
        if bitmap.inconsistent:
            continue
        kept = found.find_kept(bitmap.name)
        if kept is None:
            added.append(bitmap.name)
            continue
        before.append(
            MergedBitmap(
                base,
                bitmap.name,
                bitmap.granularity,
                recording=kept == found.note("on", bitmap.name),
                persistent=bitmap.persistent,
                parts=((base, kept),),
                anew=True,
            )
        )
    if base.read_only and (before or added):
        await session.set_writable(base, True)
    await session.merge_bitmaps(before)
    await session.remove_bitmaps(base, added)
    await session.remove_bitmaps(base, tuple(found.notes))


async def forget_notes(
    session: Session, folds: Iterable[FoldPlan], images: Sequence[LiveImage]
) -> None:
    """Remove the notes of folds that are done, and what they dropped. Idempotent."""
    dropped = {
        fold.survivor.file: {one.name for one in fold.bitmaps if one.fate == "dropped"}
        for fold in folds
    }
    kept = [image for image in images if image.file in dropped]
    for image, bitmaps in zip(kept, await session.bitmaps(kept), strict=True):
        assert image.file is not None
        names = [
            bitmap.name
            for bitmap in bitmaps
            if is_note(bitmap) or bitmap.name in dropped[image.file]
        ]
        if names:
            await session.remove_bitmaps(image, names)
