"""The world as it was read: what the checks judge and the planner plans from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..journal.errors import Reason
from ..journal.model import (
    Domain,
    FileId,
    FileStamp,
    MemoryFile,
    Snapshot,
    TreeImage,
)
from ..states.bitmaps import Outlook, outlooks
from ..states.options import Options
from ..states.ports import Bitmap, Extent, ImageHeader, ImageUser, Job, LiveChain


@dataclass(frozen=True, slots=True)
class ChainFacts:
    """The images of a disk by their headers, the active image first.

    ``broken`` says why the chain could not be read to its end, with the reason code.
    """

    images: tuple[ImageHeader, ...]
    broken: tuple[str, str] | None = None

    def index(self, file: FileId | None) -> int | None:
        """How deep an image lies (0 is the active one); None when it is not here."""
        for depth, image in enumerate(self.images):
            if image.file == file:
                return depth
        return None


@dataclass(frozen=True, slots=True)
class FoldFacts:
    """The layers of a fold and what was measured of them; see `FoldPlan`.

    ``chain`` begins with the active image, or with the image above the top, or with
    the top. ``strangers`` are images that are based on a layer, other than the next
    one of the chain. ``top_users`` are all images that are based on the top.
    """

    chain: ChainFacts
    first: int
    last: int
    in_domain: bool
    is_ours: bool
    is_known: bool
    is_named: bool
    snapshots: tuple[str, ...]
    extents: tuple[Sequence[Extent], ...] = ()
    base_stamp: FileStamp | None = None
    #: Free bytes and file system, of the top's and of the base's.
    free_above: tuple[int, int] = (0, 0)
    free_below: tuple[int, int] = (0, 0)
    users: Sequence[tuple[str, ImageUser]] = ()
    fence_obstacle: str | None = None
    #: The file with the key of the encrypted images.
    secret: str | None = None
    strangers: tuple[tuple[str, tuple[str, ...]], ...] = ()
    top_users: tuple[str, ...] = ()
    #: Of images that a living QEMU has; the header tells of others.
    bitmaps: Mapping[FileId, tuple[Bitmap, ...]] = field(default_factory=dict)
    #: How many of the lowest layers are of before the last revert.
    stale: int = 0

    @property
    def layers(self) -> tuple[ImageHeader, ...]:
        """The images that become one, the top first."""
        return self.chain.images[self.first : self.last + 1]

    @property
    def top(self) -> ImageHeader:
        """The highest of the layers."""
        return self.chain.images[self.first]

    @property
    def base(self) -> ImageHeader:
        """The lowest of the layers."""
        return self.chain.images[self.last]

    def lacks_secret(self, image: ImageHeader) -> bool:
        """Whether an image cannot be read for want of a key."""
        return image.encrypted and self.secret is None

    def key(self, image: ImageHeader) -> str | None:
        """The file with the key of this image; None when it needs none."""
        return self.secret if image.encrypted else None

    @property
    def opened(self) -> tuple[ImageHeader, ...]:
        """The images that a QEMU opens for the fold, down to the last one."""
        return self.chain.images[max(0, self.first - 1) :]

    @property
    def above(self) -> ImageHeader | None:
        """The image above the top; None when the top is the head of the chain."""
        return self.chain.images[self.first - 1] if self.first else None

    @property
    def below(self) -> ImageHeader | None:
        """The image that the base is based on."""
        at = self.last + 1
        return self.chain.images[at] if at < len(self.chain.images) else None

    def bitmaps_after(self, strategy: str) -> tuple[Outlook, ...]:
        """What becomes of the dirty bitmaps of the layers."""
        upwards = self.layers[::-1]
        found = [self.bitmaps.get(image.file, image.bitmaps) for image in upwards]
        survivor = len(upwards) - 1 if strategy == "stream" else 0
        keeps = upwards[survivor].keeps_bitmaps
        return outlooks(found, survivor, keeps, self.stale)


@dataclass(frozen=True, slots=True)
class RetiredFacts:
    """An image that nothing needs any more, and what yet uses it.

    One that no snapshot made is left in place, whoever uses it.
    """

    image: ImageHeader
    users: Sequence[ImageUser]
    strangers: tuple[str, ...]
    is_ours: bool = True


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """The memory file of a snapshot that goes, and who has it open."""

    memory: MemoryFile
    users: tuple[ImageUser, ...]


@dataclass(frozen=True, slots=True)
class DiskFacts:
    """One disk, and what the deletion means for its images.

    ``chain`` is the active one, empty when the domain has no such disk (any more).
    ``misplaced`` are frozen images (snapshot, path, why) that are not where the
    catalog has them. ``kept`` stay without a snapshot, with their dependents.
    """

    target: str
    chain: ChainFacts
    live: LiveChain | None = None
    misplaced: tuple[tuple[str, str, str], ...] = ()
    broken: tuple[tuple[str, str], ...] = ()
    fold: FoldFacts | None = None
    retired: tuple[RetiredFacts, ...] = ()
    kept: tuple[tuple[str, tuple[str, ...]], ...] = ()
    has_more: bool = False
    images: tuple[TreeImage, ...] = ()
    searched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that a plan for one pass of a deletion depends on.

    ``snapshots`` are those that go; none in a pass that only folds what is left.
    """

    run: str
    domain: Domain
    named: str
    snapshots: tuple[Snapshot, ...]
    disks: tuple[DiskFacts, ...]
    open_runs: tuple[Reason, ...]
    monitor_busy: bool
    run_state: str | None
    jobs: Mapping[str, Job]
    exports: frozenset[str]
    managed: Mapping[FileId, str]
    options: Options
    boot_id: str
    #: Files that could not be flushed in this boot, and when.
    failed_flushes: Mapping[str, str] = field(default_factory=dict)
    earlier: int | None = None
    memories: tuple[MemoryFacts, ...] = ()
    #: Why the hook of the domain could not be called.
    hook: tuple[Reason, ...] = ()

    @property
    def is_alive(self) -> bool:
        """Whether the domain's QEMU answered."""
        return self.run_state is not None

    @property
    def place(self) -> str:
        """Where the jobs run: in the domain's own QEMU, or in a helper."""
        folds = [disk.fold for disk in self.disks if disk.fold is not None]
        in_domain = any(fold.in_domain for fold in folds)
        return "domain" if self.is_alive and (in_domain or not folds) else "helper"

    @property
    def folds(self) -> tuple[tuple[DiskFacts, FoldFacts], ...]:
        """The folds of this pass: all of one place."""
        found = [(disk, disk.fold) for disk in self.disks if disk.fold is not None]
        if self.place == "domain":
            found = [(disk, fold) for disk, fold in found if fold.in_domain]
        return tuple(found)

    @property
    def has_more(self) -> bool:
        """Whether another pass is needed."""
        every = [disk.fold for disk in self.disks if disk.fold is not None]
        return len(self.folds) < len(every) or any(d.has_more for d in self.disks)


def secret_needed(path: str, target: str) -> Reason:
    """An encrypted image, and nobody said where its key is."""
    return Reason(
        "secret_needed",
        f"{path} is encrypted.",
        f"Name the file with its key: --secret {target}=FILE.",
        target,
    )


def unsupported(image: ImageHeader) -> tuple[str, str] | None:
    """Why an image is never opened, and what helps; None when it may be."""
    if image.data_file is not None and image.data is None:
        return (
            f"{image.path} has the data file {image.data_file!r}, which is not another"
            " file of the same owner beside it, named by an absolute path.",
            "Move it there; `qemu-img amend -o data_file=PATH` changes the name.",
        )
    return None
