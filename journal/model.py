"""The values that the journal keeps: domains, snapshots, images, plans.

All are frozen. `Plan` is stored as versioned JSON; a plan of another version is
not guessed at, it is made again from the facts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

PLAN_VERSION = 1


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

    ``data`` is the file that holds its data, where that is another one.
    """

    path: str
    format: str
    file: FileId
    virtual_size: int
    data: DataFile | None = None

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
    """A virtual machine; ``monitor`` is the path of its QMP socket."""

    name: str
    monitor: str | None
    disks: tuple[Disk, ...]

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
class FoldPlan:
    """What a deletion does on one disk.

    The data of ``top`` is copied down into ``base``. ``above`` is the image whose
    backing image is ``top``; it is None when ``top`` is the active image. ``link``
    is the string that ``above`` gets as its backing file name (relative links stay
    relative). ``copy_bytes`` is what is copied, ``space_bytes`` what the base's file
    system must have free.
    """

    target: str
    job: str
    strategy: str
    top: Image
    base: Image
    above: Image | None
    chain: tuple[Image, ...]
    link: str | None
    copy_bytes: int
    space_bytes: int
    base_stamp: FileStamp

    @property
    def is_active(self) -> bool:
        """Whether the top of the fold is the image that the guest writes to."""
        return self.above is None

    @property
    def active_image(self) -> Image:
        """The top of the chain, the image that the guest writes to."""
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deletion will do.

    ``power`` is ``running``, ``paused`` or ``off``. ``invalid_before`` is the reason
    for which the snapshot was invalid already. Device numbers are of ``boot_id``.
    """

    domain: str
    snapshot: str
    parent: str | None
    power: str
    boot_id: str
    folds: tuple[FoldPlan, ...]
    invalid_before: str | None = None
    risks: tuple[str, ...] = ()
    version: int = PLAN_VERSION

    def fold(self, target: str) -> FoldPlan:
        """The fold of one disk; KeyError when the plan has none."""
        for fold in self.folds:
            if fold.target == target:
                return fold
        raise KeyError(target)

    def to_json(self) -> str:
        """The plan as stable JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a stored plan; ValueError when its version is another one."""
        data = json.loads(text)
        if data.get("version") != PLAN_VERSION:
            raise ValueError(f"plan version {data.get('version')}, not {PLAN_VERSION}")
        folds = tuple(_fold(item) for item in data.pop("folds"))
        return cls(**{**data, "folds": folds, "risks": tuple(data["risks"])})


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
    above = data["above"]
    return FoldPlan(
        **{
            **data,
            "top": _image(data["top"]),
            "base": _image(data["base"]),
            "above": None if above is None else _image(above),
            "chain": tuple(_image(item) for item in data["chain"]),
            "base_stamp": FileStamp(**data["base_stamp"]),
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
    version: int = PLAN_VERSION
    is_stamped: bool = False
    memory: str | None = None

    def to_json(self) -> str:
        """The plan as stable JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> CreationPlan:
        """Read a stored plan; ValueError when its version is another one."""
        data = json.loads(text)
        if data.get("version") != PLAN_VERSION:
            raise ValueError(f"plan version {data.get('version')}, not {PLAN_VERSION}")
        overlays = tuple(
            OverlayPlan(
                **{
                    **item,
                    "frozen": _image(item["frozen"]),
                    "frozen_stamp": FileStamp(**item["frozen_stamp"]),
                }
            )
            for item in data.pop("overlays")
        )
        return cls(**{**data, "overlays": overlays})


@dataclass(frozen=True, slots=True)
class DiskChange:
    """A disk whose data now lives in ``base`` and no longer in ``top`` (paths)."""

    target: str
    top: str
    base: str
    format: str
    active: bool


@dataclass(frozen=True, slots=True)
class CatalogChange:
    """What the catalog learns when a snapshot has been folded away."""

    domain: str
    snapshot: str
    disks: tuple[DiskChange, ...]
