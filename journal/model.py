"""The values that the journal keeps: domains, snapshots, images, plans.

All are frozen. `Plan` is stored as versioned JSON; a plan of another version is
not guessed at, it is made again from the facts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

#: Of deletions. Plans of version 1 are read as well.
PLAN_VERSION: Final = 2
READABLE_PLANS: Final = (1, PLAN_VERSION)
#: Of creations and reversions.
CREATION_VERSION: Final = 1


def plan_version(text: str) -> object:
    """The version of a stored plan, whatever else is in it."""
    data = json.loads(text)
    return data.get("version") if isinstance(data, dict) else None


@dataclass(frozen=True, slots=True)
class FileId:
    """A file by device and inode, whatever it is called.

    A block device has its own number, and the inode 0, which no file has.
    """

    device: int
    inode: int

    @property
    def is_block_device(self) -> bool:
        """Whether it is a block device: it cannot be renamed, and never grows."""
        return self.inode == 0


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file's size (bytes) and modification time (nanoseconds since the epoch)."""

    size: int
    mtime_ns: int

    @property
    def is_silent(self) -> bool:
        """Whether it tells nothing of writes: it is that of a block device."""
        return self == DEVICE_STAMP


#: The stamp of every block device.
DEVICE_STAMP: Final = FileStamp(0, 0)


@dataclass(frozen=True, slots=True)
class DataFile:
    """The external data file of a qcow2 image."""

    path: str
    file: FileId


@dataclass(frozen=True, slots=True)
class Image:
    """A file or block device with a format, as it was found.

    ``data`` is the file that holds its data, where that is another one. ``secret`` is
    the path of the file with the key of an encrypted image, never the key itself.
    """

    path: str
    format: str
    file: FileId
    virtual_size: int
    data: DataFile | None = None
    secret: str | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """Everything that a flush of this image must reach."""
        return (self.path,) if self.data is None else (self.path, self.data.path)


@dataclass(frozen=True, slots=True)
class Disk:
    """One block device of a domain; ``source`` is the path of its active image."""

    target: str
    source: str
    format: str


@dataclass(frozen=True, slots=True)
class Domain:
    """A virtual machine; ``monitor`` is the path of its QMP socket.

    ``hook`` is the executable that rewrites its definition, where that lives
    elsewhere.
    """

    name: str
    monitor: str | None
    disks: tuple[Disk, ...]
    hook: str | None = None

    def disk(self, target: str) -> Disk | None:
        """The disk with this target, if the domain has it."""
        return next((disk for disk in self.disks if disk.target == target), None)


@dataclass(frozen=True, slots=True)
class SnapshotDisk:
    """The frozen image that holds a snapshot's point in time for one disk."""

    target: str
    frozen: str
    format: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named point in time of a domain.

    ``status`` is ``valid``, ``deleting`` or ``invalid``; ``reason`` says why it is
    invalid; ``created`` is UTC, ISO 8601; ``memory`` is the path of the file that
    holds the guest's memory at that instant.
    """

    domain: str
    name: str
    parent: str | None
    created: str
    status: str
    reason: str | None
    current: bool
    disks: tuple[SnapshotDisk, ...]
    memory: str | None = None

    def disk(self, target: str) -> SnapshotDisk | None:
        """The snapshot's entry for a target, if it includes that disk."""
        return next((disk for disk in self.disks if disk.target == target), None)


@dataclass(frozen=True, slots=True)
class BitmapPlan:
    """What becomes of the dirty bitmaps of one name when images become one.

    ``fate`` is ``stays``, ``carried``, ``dropped`` or ``broken``; see
    `states.bitmaps`.
    """

    name: str
    fate: str
    recording: bool


@dataclass(frozen=True, slots=True)
class FoldPlan:
    """What a deletion does on one disk: some images of a chain become one.

    ``chain`` is the whole chain, the active image (or the head of a branch) first.
    The images at the depths ``first`` to ``last`` are the layers that become one:
    *commit* copies all of them down into the lowest, *stream* copies all of them up
    into the highest. ``link`` is the string that the relinked image gets as its
    backing file name (relative links stay relative), None when no link changes or
    nothing is left below. ``copy_bytes`` is what is copied, ``space_bytes`` what the
    file system of the survivor must have free. ``because`` says why this strategy.
    ``is_named``: a disk or a snapshot of the catalog refers to the top.
    ``snapshots`` lose their point in time once a commit has written into the base.
    The lowest ``stale`` layers are of before a revert; their bitmaps do not count.
    ``free_bytes`` is the room that the survivor has.
    """

    target: str
    job: str
    strategy: str
    chain: tuple[Image, ...]
    first: int
    last: int
    link: str | None
    copy_bytes: int
    space_bytes: int
    base_stamp: FileStamp
    because: str = ""
    is_named: bool = True
    snapshots: tuple[str, ...] = ()
    free_bytes: int = 0
    bitmaps: tuple[BitmapPlan, ...] = ()
    stale: int = 0

    @property
    def layers(self) -> tuple[Image, ...]:
        """The images that become one, the top first."""
        return self.chain[self.first : self.last + 1]

    @property
    def top(self) -> Image:
        """The highest of the layers."""
        return self.chain[self.first]

    @property
    def base(self) -> Image:
        """The lowest of the layers."""
        return self.chain[self.last]

    @property
    def above(self) -> Image | None:
        """The image based on the top; None when the top is the head of the chain."""
        return self.chain[self.first - 1] if self.first else None

    @property
    def below(self) -> Image | None:
        """The image that the base is based on."""
        return self.chain[self.last + 1] if self.last + 1 < len(self.chain) else None

    @property
    def is_stream(self) -> bool:
        """Whether the data goes up: nothing pivots, and the base is left as it was."""
        return self.strategy == "stream"

    @property
    def is_active(self) -> bool:
        """Whether the head of the chain changes: a commit of the very top."""
        return not self.is_stream and self.first == 0

    @property
    def survivor(self) -> Image:
        """The layer that the others are copied into."""
        return self.top if self.is_stream else self.base

    @property
    def superseded(self) -> tuple[Image, ...]:
        """The layers that are useless afterwards, the highest first."""
        return self.layers[1:] if self.is_stream else self.layers[:-1]

    @property
    def relinked(self) -> Image | None:
        """The image whose link changes; None in an active commit."""
        return self.top if self.is_stream else self.above

    @property
    def linked_to(self) -> Image | None:
        """What the link of the relinked image leads to afterwards, if to anything."""
        return self.below if self.is_stream else self.base

    @property
    def active_image(self) -> Image:
        """The head of the chain: for a disk, the image that the guest writes to."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class TreeImage:
    """An image of a disk as the plan found it, with its place in the tree.

    ``below`` is the path of the image that it is based on; ``snapshots`` froze it.
    ``becomes`` is ``same``, ``survivor`` (others are copied into it), ``superseded``,
    ``retired``, or ``kept`` (it stays without a snapshot).
    """

    target: str
    path: str
    below: str | None
    snapshots: tuple[str, ...]
    is_active: bool
    becomes: str = "same"


@dataclass(frozen=True, slots=True)
class KeptImage:
    """An image that loses its snapshot and stays, because several others need it."""

    target: str
    path: str
    dependents: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RetiredImage:
    """An image that nothing needs any more and that is removed without a copy.

    ``is_ours``: a snapshot made it. One that is not ours is left where it is.
    """

    target: str
    image: Image
    is_ours: bool


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """The memory of a snapshot, in a file of its own; ``file`` is None if missing."""

    snapshot: str
    path: str
    file: FileId | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass of a deletion will do.

    ``snapshot`` is the one that was named, ``snapshots`` are all that go in this
    pass, with the parent that the children of each get. ``power`` is ``running``,
    ``paused`` or ``off``; ``place`` is where the jobs run: in the ``domain``'s own
    QEMU or in a ``helper``. ``invalid_before`` has the reasons of snapshots that were
    invalid already. ``has_more``: another pass follows, for images that stay without
    a name until then. ``images`` are those of all disks that it is about; nothing
    else in the ``searched`` folders is based on one that changes or goes. Device
    numbers are of ``boot_id``.
    """

    domain: str
    snapshot: str
    snapshots: tuple[str, ...]
    parent: str | None
    power: str
    place: str
    boot_id: str
    folds: tuple[FoldPlan, ...]
    kept: tuple[KeptImage, ...] = ()
    retired: tuple[RetiredImage, ...] = ()
    memories: tuple[MemoryFile, ...] = ()
    invalid_before: Mapping[str, str] = field(default_factory=dict)
    risks: tuple[str, ...] = ()
    has_more: bool = False
    images: tuple[TreeImage, ...] = ()
    searched: tuple[str, ...] = ()
    version: int = PLAN_VERSION

    def fold(self, target: str) -> FoldPlan:
        """The fold of one disk; KeyError when the plan has none."""
        for fold in self.folds:
            if fold.target == target:
                return fold
        raise KeyError(target)

    def switches(self, fold: FoldPlan) -> bool:
        """Whether the disk gets another image: a commit of the one that is written to.

        The head of a branch beside the active chain is nobody's active image.
        """
        tops = [
            image.is_active
            for image in self.images
            if (image.target, image.path) == (fold.target, fold.top.path)
        ]
        return fold.is_active and all(tops)

    def to_json(self) -> str:
        """The plan as stable JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a stored plan; ValueError when its version is not readable here."""
        data = json.loads(text)
        if data.get("version") == 1:
            data = _of_version_1(data)
        if data.get("version") != PLAN_VERSION:
            raise ValueError(f"plan version {data.get('version')}, not {PLAN_VERSION}")
        return cls(
            **{
                **data,
                "snapshots": tuple(data["snapshots"]),
                "folds": tuple(_fold(item) for item in data["folds"]),
                "kept": tuple(
                    KeptImage(**{**item, "dependents": tuple(item["dependents"])})
                    for item in data["kept"]
                ),
                "retired": tuple(
                    RetiredImage(**{**item, "image": _image(item["image"])})
                    for item in data["retired"]
                ),
                "memories": tuple(
                    MemoryFile(**{**item, "file": _file(item["file"])})
                    for item in data["memories"]
                ),
                "risks": tuple(data["risks"]),
                "images": tuple(
                    TreeImage(**{**item, "snapshots": tuple(item["snapshots"])})
                    for item in data["images"]
                ),
                "searched": tuple(data["searched"]),
            }
        )


def _of_version_1(data: Mapping[str, Any]) -> dict[str, Any]:
    """A plan of 0.1: one snapshot, and two layers for each disk."""

    def fold(old: Mapping[str, Any]) -> dict[str, Any]:
        paths = [image["path"] for image in old["chain"]]
        first, last = paths.index(old["top"]["path"]), paths.index(old["base"]["path"])
        gone = ("top", "base", "above")
        same = {name: value for name, value in old.items() if name not in gone}
        return {**same, "first": first, "last": last, "snapshots": [data["snapshot"]]}

    reason = data["invalid_before"]
    return {
        **data,
        "version": 2,
        "snapshots": [data["snapshot"]],
        "place": "helper" if data["power"] == "off" else "domain",
        "folds": [fold(item) for item in data["folds"]],
        "kept": [],
        "retired": [],
        "memories": [],
        "images": [],
        "searched": [],
        "invalid_before": {} if reason is None else {data["snapshot"]: reason},
    }


def _file(data: Mapping[str, Any] | None) -> FileId | None:
    return None if data is None else FileId(**data)


def _image(data: Mapping[str, Any]) -> Image:
    beside = data.get("data")
    return Image(
        **{
            **data,
            "file": FileId(**data["file"]),
            "data": None
            if beside is None
            else DataFile(beside["path"], FileId(**beside["file"])),
        }
    )


def _fold(data: Mapping[str, Any]) -> FoldPlan:
    return FoldPlan(
        **{
            **data,
            "chain": tuple(_image(item) for item in data["chain"]),
            "base_stamp": FileStamp(**data["base_stamp"]),
            "snapshots": tuple(data["snapshots"]),
            "bitmaps": tuple(BitmapPlan(**item) for item in data.get("bitmaps", ())),
        }
    )


@dataclass(frozen=True, slots=True)
class OverlayPlan:
    """One disk of a snapshot that is being taken."""

    target: str
    frozen: Image
    overlay: str
    link: str
    frozen_stamp: FileStamp


@dataclass(frozen=True, slots=True)
class CreationPlan:
    """What taking a snapshot will do.

    ``is_stamped``: the stamps of the frozen images are of the moment after the
    switch, when nothing writes into them any more; else of the planning. ``memory``
    is the path of the memory file that is recorded with the snapshot.
    """

    domain: str
    snapshot: str
    power: str
    boot_id: str
    overlays: tuple[OverlayPlan, ...]
    version: int = CREATION_VERSION
    is_stamped: bool = False
    memory: str | None = None

    def to_json(self) -> str:
        """The plan as stable JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CreationPlan:
        """Read a stored plan; ValueError when its version is another one."""
        data = json.loads(text)
        if data.get("version") != CREATION_VERSION:
            raise ValueError(
                f"plan version {data.get('version')}, not {CREATION_VERSION}"
            )
        overlays = tuple(_overlay(item) for item in data.pop("overlays"))
        return cls(**{**data, "overlays": overlays})


def _overlay(data: Mapping[str, Any]) -> OverlayPlan:
    return OverlayPlan(
        **{
            **data,
            "frozen": _image(data["frozen"]),
            "frozen_stamp": FileStamp(**data["frozen_stamp"]),
        }
    )


@dataclass(frozen=True, slots=True)
class DiskReversion:
    """One disk of a revert: a new overlay takes the place of its active image.

    ``former`` is that image, as it was planned with ``former_stamp``; ``held`` is
    what it holds of its own, in bytes, written since the snapshot ``since`` (None
    when the catalog knows none below it). ``stays`` says why its file is not
    removed; None when it is.
    """

    overlay: OverlayPlan
    former: Image
    former_stamp: FileStamp
    held: int
    since: str | None
    stays: str | None

    @property
    def target(self) -> str:
        """The disk."""
        return self.overlay.target


_TUPLES: Final = ("untouched", "missing", "image_folders")


@dataclass(frozen=True, slots=True)
class ReversionPlan:
    """What a revert will do. Device numbers are of ``boot_id``.

    ``untouched`` are disks that the snapshot does not include, ``missing`` are disks
    of the snapshot that the domain has no longer. ``image_folders`` are searched for
    other users of the former images, besides those of the catalog.
    """

    domain: str
    snapshot: str
    boot_id: str
    disks: tuple[DiskReversion, ...]
    untouched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    image_folders: tuple[str, ...] = ()
    version: int = CREATION_VERSION

    @property
    def overlays(self) -> tuple[OverlayPlan, ...]:
        """The overlays that are to be made."""
        return tuple(disk.overlay for disk in self.disks)

    def to_json(self) -> str:
        """The plan as stable JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> ReversionPlan:
        """Read a stored plan; ValueError when its version is another one."""
        data = json.loads(text)
        if data.get("version") != CREATION_VERSION:
            raise ValueError(
                f"plan version {data.get('version')}, not {CREATION_VERSION}"
            )
        disks = tuple(
            DiskReversion(
                **{
                    **item,
                    "overlay": _overlay(item["overlay"]),
                    "former": _image(item["former"]),
                    "former_stamp": FileStamp(**item["former_stamp"]),
                }
            )
            for item in data.pop("disks")
        )
        lists = {name: tuple(data[name]) for name in _TUPLES}
        return cls(**{**data, **lists, "disks": disks})


@dataclass(frozen=True, slots=True)
class DiskChange:
    """Whoever referred to the image at ``top`` now refers to ``base`` (paths).

    ``format`` is that of the base. ``is_named``: the plan saw such a reference. A
    stream changes no reference at all.
    """

    target: str
    top: str
    base: str
    format: str
    is_named: bool


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What the catalog learns when snapshots have been folded away.

    ``kept`` are images (target, path) that stay without a snapshot.
    """

    domain: str
    snapshots: tuple[str, ...]
    disks: tuple[DiskChange, ...]
    kept: tuple[tuple[str, str], ...] = ()
