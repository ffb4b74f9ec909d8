"""The `Images` port over simulated files."""

from __future__ import annotations

import os.path
import re
from collections.abc import Mapping, Sequence

from backfold.journal.errors import CommandFailed
from backfold.journal.model import FileId, FileStamp, Image, OverlayPlan
from backfold.states.ports import Extent, ImageHeader, ImageUser

from .files import CLUSTER, File, Header
from .life import Life
from .qemu import Qemu
from .world import World

#: Bytes free while the storage is not full.
ROOM = 1 << 40
_FENCE = re.compile(r".+\.backfold-[0-9a-f]{12}", re.DOTALL)


class SimImages:
    """Images of one world, as one engine sees them.

    Each call is two moments: before its effect, and after it.
    """

    def __init__(self, world: World, life: Life) -> None:
        """Ports of the engine that ``life`` belongs to."""
        self._world = world
        self._life = life

    async def header(self, path: str, format: str) -> ImageHeader:
        """As `qemu-img info -U`, which reads what the file shows."""
        self._life.at("header")
        file = self._image(path)
        assert file.header is not None
        backing = file.header.backing if format == "qcow2" else None
        size = file.header.virtual_size if format == file.format else file.size
        return ImageHeader(
            path=path,
            format=format,
            file=FileId(self._world.files.device, file.inode),
            virtual_size=size,
            backing=backing,
            backing_format=file.header.backing_format if backing else None,
            backing_path=self._world.backing_path(path, file.header)
            if backing
            else None,
            bitmaps=tuple(dirt.shown(name) for name, dirt in file.bitmaps.items()),
            keeps_bitmaps=file.format == "qcow2",
        )

    async def extents(
        self, path: str, format: str, secret: str | None = None
    ) -> Sequence[Extent]:
        """As `qemu-img map`: what the file shows, not what QEMU has in memory."""
        self._life.at("extents")
        file = self._image(path)
        assert file.header is not None
        found = [
            Extent(
                number * CLUSTER,
                CLUSTER,
                number in file.clusters,
                bool(file.clusters.get(number)),
            )
            for number in range(file.header.virtual_size // CLUSTER)
        ]
        joined: list[Extent] = []
        for extent in found:
            last = joined[-1] if joined else None
            if last and (last.allocated, last.data) == (extent.allocated, extent.data):
                joined[-1] = Extent(
                    last.start, last.length + CLUSTER, last.allocated, last.data
                )
            else:
                joined.append(extent)
        return joined

    async def check(
        self, path: str, format: str, secret: str | None = None
    ) -> str | None:
        """As `qemu-img check`, which refuses an image that is in use."""
        self._life.at("check")
        self._not_in_use(self._image(path))
        return None

    async def create_overlay(self, plan: OverlayPlan) -> None:
        """Durable, with its directory."""
        self._life.at("create_overlay")
        files = self._world.files
        header = Header(plan.frozen.virtual_size, plan.link, plan.frozen.format)
        if plan.overlay in files.names:
            raise CommandFailed(f"{plan.overlay} exists already")
        below = self._world.backing_path(plan.overlay, header)
        if self.identify(below or "") != plan.frozen.file:
            raise CommandFailed(f"{plan.link} does not lead to {plan.frozen.path}")
        if plan.frozen.format not in ("qcow2", "raw"):
            raise CommandFailed(f"no format {plan.frozen.format}")
        if self._world.full:
            raise CommandFailed("No space left on device")
        file = files.create(plan.overlay, "qcow2", header, self._world.now)
        self._life.at("create_overlay made")
        file.sync()
        files.sync_names()
        self._life.at("create_overlay done")

    async def continue_bitmaps(self, plan: OverlayPlan) -> None:
        """As `qemu-img bitmap` does, in one moment."""
        below, file = self._image(plan.frozen.path), self._image(plan.overlay)
        for name, dirt in below.bitmaps.items():
            if dirt.recording and not dirt.inconsistent and name not in file.bitmaps:
                self._life.at("continue_bitmaps")
                file.bitmaps[name] = dirt.copy()

    async def relink(
        self, image: Image, backing: str | None, backing_format: str | None
    ) -> None:
        """As `qemu-img rebase -u` and fsync."""
        self._life.at("relink")
        file = self._image(image.path)
        if file.inode != image.file.inode:
            raise CommandFailed(f"{image.path} is another file")
        self._not_in_use(file)
        if len(backing or "") > 1023:
            raise CommandFailed("that name is too long")
        assert file.header is not None
        file.header = Header(file.header.virtual_size, backing, backing_format)
        file.mtime = self._world.now
        self._life.at("relink written")
        file.sync()
        self._life.at("relink done")

    async def is_empty(self, path: str, format: str, secret: str | None = None) -> bool:
        """Whether the file shows no cluster of its own."""
        self._life.at("is_empty")
        return not self._image(path).clusters

    def identify(self, path: str) -> FileId | None:
        """Device and inode; None when missing."""
        self._life.check()
        return self._world.file_id(path)

    def stamp(self, path: str) -> FileStamp | None:
        """Size and modification time; None when missing."""
        self._life.check()
        file = self._world.files.file(path)
        return None if file is None else FileStamp(file.size, file.mtime)

    def fence_name(self, path: str, run: str) -> str:
        """The real adapter's rule."""
        return f"{path}.backfold-{run}"

    def fence_obstacle(self, path: str, run: str) -> str | None:
        """There are no links here, only other files in the way."""
        if path not in self._world.files.names:
            return "it is missing"
        if len(os.path.basename(self.fence_name(path, run)).encode()) > 255:
            return "the fence's name would be longer than a file name may be"
        if self.fence_name(path, run) in self._world.files.names:
            return "something of that name exists"
        return None

    async def probe_fence(self, path: str, run: str) -> None:
        """Create, rename and remove a file beside the image."""
        self._life.at("probe_fence")
        if len(os.path.basename(self.fence_name(path, run)).encode()) > 255:
            raise CommandFailed("the fence's name would be too long")
        files = self._world.files
        made = f"{os.path.dirname(path)}/.backfold-probe-{run}"
        if made in files.names:
            files.unlink(made)
        files.create(made, "probe", None, self._world.now)
        self._life.at("probe_fence made")
        files.unlink(made)
        self._life.at("probe_fence done")

    async def rename(self, old: str, new: str, file: FileId) -> None:
        """Rename, then sync the directory: two moments in which power may go."""
        self._life.at("rename")
        files = self._world.files
        if self.identify(new) != file:
            if self.identify(old) != file:
                raise CommandFailed(f"{old} is missing or another file")
            if new in files.names:
                raise CommandFailed(f"{new} exists")
            files.rename(old, new)
            self._life.at("rename renamed")
        files.sync_names()
        self._life.at("rename done")

    async def unlink(self, path: str, file: FileId) -> None:
        """Remove a fenced file, then sync the directory."""
        self._life.at("unlink")
        files = self._world.files
        if not _FENCE.fullmatch(path):
            raise CommandFailed(f"{path} is no name that was set aside")
        found = files.file(path)
        if found is not None:
            if self.identify(path) != file:
                raise CommandFailed(f"{path} is another file")
            self._not_in_use(found)
            files.unlink(path)
            self._life.at("unlink unlinked")
        files.sync_names()
        self._life.at("unlink done")

    async def sync(self, paths: Sequence[str]) -> None:
        """Fsync each file."""
        self._life.at("sync")
        for path in dict.fromkeys(paths):
            file = self._world.files.file(path)
            if file is None:
                raise CommandFailed(f"{path} is missing")
            if self._world.broken:
                raise CommandFailed(f"cannot sync {path}: Input/output error")
            file.sync()
            self._life.at("sync one")

    async def free_bytes(
        self, path: str, format: str, secret: str | None = None
    ) -> tuple[int, int]:
        """Everything, or nothing while the storage is full."""
        return (0 if self._world.full else ROOM, self._world.files.device)

    async def users(self, path: str) -> Sequence[ImageUser]:
        """Every QEMU that has the file open."""
        self._life.at("users")
        file = self._world.files.file(path)
        if file is None:
            return ()
        return tuple(
            ImageUser(qemu.pid, f"QEMU (pid {qemu.pid})")
            for qemu in self._world.qemus.values()
            if qemu.has(file.inode)
        )

    async def dependents(
        self, folders: Sequence[str]
    ) -> Mapping[FileId, Sequence[str]]:
        """Images by the one that their header leads to."""
        self._life.at("dependents")
        found: dict[FileId, list[str]] = {}
        for path in sorted(self._world.files.names):
            file = self._world.files.file(path)
            if file is None or file.header is None:
                continue
            below = self._world.backing_path(path, file.header)
            if os.path.dirname(path) in folders and below is not None:
                image = self.identify(os.path.normpath(below))
                if image is not None:
                    found.setdefault(image, []).append(path)
        return found

    def _image(self, path: str) -> File:
        file = self._world.files.file(path)
        if file is None:
            raise CommandFailed(f"{path} is missing")
        if file.header is None:
            raise CommandFailed(f"{path} is no image")
        return file

    def _not_in_use(self, file: File) -> None:
        user: Qemu | None = self._world.locks(file.inode, None, writable=True)
        if user is not None:
            raise CommandFailed(f"the image is locked by pid {user.pid}")
