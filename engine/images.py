"""The `Images` port on the real world: qemu-img, locks, /proc and the file system.

Whatever may wait for the storage runs in a thread. A thread cannot be cancelled, so a
cancelled call that changes names waits for its end first: nothing happens behind its
caller's back. Reads and flushes are left to themselves instead, because a guest may
stand still meanwhile.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, ParamSpec, TypeVar

from ..journal.errors import CommandFailed, FlushFailed
from ..journal.model import DataFile, FileId, FileStamp, Image, OverlayPlan
from ..states.ports import Extent, ImageHeader, ImageUser
from . import data_files, devices, files, image_locks, log, processes
from .qemu_img import QemuImg, json_strings, resolve_backing
from .sizes import with_holes

#: The longest backing file name that QEMU accepts in a header.
BACKING_BYTES: Final = 1023
#: A new overlay on a file system that has no files without a name.
UNFINISHED: Final = ".backfold-new"

#: What a file system answers that has no files without a name.
NO_TMPFILE: Final = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT)

_MAGIC: Final = b"QFI\xfb"
#: Magic, version, offset and length of the backing file name.
_START: Final = struct.Struct(">4sIQI")
#: Magic, and the method of encryption.
_CRYPT: Final = struct.Struct(">4s28xI")

P = ParamSpec("P")
T = TypeVar("T")


class QemuImages:
    """Image files of this host, by qemu-img and system calls."""

    def __init__(self, qemu_img: QemuImg | None = None) -> None:
        """``qemu_img`` runs the commands; the one in the PATH when None."""
        self._qemu_img = qemu_img or QemuImg()
        #: Flushes that have not ended, perhaps given up by their callers, and those
        #: that have failed.
        self._flushing: dict[FileId, asyncio.Future[None]] = {}
        self._unflushed: dict[FileId, FlushFailed] = {}

    async def header(self, path: str, format: str) -> ImageHeader:
        """Read one image's header, never probing. Only reads.

        Raises:
            CommandFailed: when it is missing or damaged.
        """
        external = format == "qcow2" and await asyncio.to_thread(
            data_files.has_data_file, path
        )
        header = await self._qemu_img.header(path, format, data_file=external)
        with suppress(CommandFailed):
            return replace(header, data=await _data_file(path, format))
        return header

    async def extents(
        self, path: str, format: str, secret: str | None = None
    ) -> Sequence[Extent]:
        """What an image itself holds (the images below do not count). Only reads."""
        data = await _data_file(path, format)
        found = await self._qemu_img.extents(path, format, data, secret)
        if data is None:
            return found
        # A mapped cluster may yet be a hole of the file that holds the data.
        return with_holes(found, await self._qemu_img.extents(data.path, "raw"))

    async def check(
        self, path: str, format: str, secret: str | None = None
    ) -> str | None:
        """`qemu-img check`: None when sound, else what is wrong. Only reads.

        Raises:
            CommandFailed: when it could not be checked: it is in use, or no image.
        """
        data = await _data_file(path, format)
        return await self._qemu_img.check(path, format, data, secret)

    async def create_overlay(self, plan: OverlayPlan) -> None:
        """Make an empty overlay like the image below, durable with its directory.

        It is made as a file without a name and gets its name when it is complete:
        killed in here, there is no overlay, or a whole and empty one. Where the file
        system cannot do that, an unfinished file under another name may be left,
        which the next attempt replaces. An existing file is never touched.
        """
        new = _NewOverlay(plan)
        try:
            await in_thread(new.begin)
            await self._qemu_img.create(
                new.descriptor,
                link=plan.link,
                backing_format=plan.frozen.format,
                size=plan.frozen.virtual_size,
                secret=plan.frozen.secret,
            )
            await in_thread(new.publish)
        finally:
            new.close()
        made = await self.header(plan.overlay, "qcow2")
        frozen = plan.frozen
        wanted = (plan.link, frozen.format, frozen.virtual_size, bool(frozen.secret))
        shown = (made.backing, made.backing_format, made.virtual_size, made.encrypted)
        if shown != wanted:
            raise CommandFailed(f"the header of the new {plan.overlay!r} is wrong")

    async def continue_bitmaps(self, plan: OverlayPlan) -> None:
        """Let bitmaps that are recording go on in an overlay that nobody has open.

        Killed in here, the overlay has some of them; it holds no data either way.
        """
        frozen = plan.frozen
        below = (await self.header(frozen.path, frozen.format)).bitmaps
        going_on = [one for one in below if one.recording and not one.inconsistent]
        if not going_on:
            return
        present = (await self.header(plan.overlay, "qcow2")).bitmaps
        for bitmap in going_on:
            if bitmap.name not in {one.name for one in present}:
                await self._qemu_img.continue_bitmap(plan.overlay, bitmap, frozen)
        await self.sync([plan.overlay])

    async def relink(
        self, image: Image, backing: str | None, backing_format: str | None
    ) -> None:
        """Change the link in an image's header while nobody has it open, durably.

        ``backing`` is None for an image that is to be based on nothing any more.
        Killed in here, the header names the old backing image or the new one; it is
        read back and flushed before this returns, and repeating it does no harm.
        """
        await asyncio.to_thread(_check_relink, image)
        header = await self.header(image.path, image.format)
        if (header.backing, header.backing_format) != (backing, backing_format):
            data = await _data_file(image.path, image.format)
            found = replace(image, data=data)
            await self._qemu_img.rebase(found, backing, backing_format)
            header = await self.header(image.path, image.format)
        if (header.backing, header.backing_format) != (backing, backing_format):
            raise CommandFailed(
                f"{image.path!r} names {header.backing!r} ({header.backing_format})"
                f" after it was told to name {backing!r} ({backing_format})"
            )
        await asyncio.to_thread(files.sync, image.path)

    async def is_empty(self, path: str, format: str, secret: str | None = None) -> bool:
        """Whether an overlay holds no data of its own. Zeroes are data. Only reads."""
        parts = await self.extents(path, format, secret)
        return not any(part.allocated for part in parts)

    def identify(self, path: str) -> FileId | None:
        """Device and inode behind a path (links followed); None when missing."""
        return files.identify(path)

    def stamp(self, path: str) -> FileStamp | None:
        """Size and modification time; None when missing."""
        return files.stamp(path)

    def fence_name(self, path: str, run: str) -> str:
        """The name that an image gets when it is fenced, in its real directory."""
        return files.fence_name(path, run)

    def fence_obstacle(self, path: str, run: str) -> str | None:
        """Why an image could not be fenced, found without writing; None when it can."""
        return files.fence_obstacle(path, run)

    async def probe_fence(self, path: str, run: str) -> None:
        """Create, rename and remove a file beside the image; see `files`."""
        await in_thread(files.probe_fence, path, run)

    async def rename(self, old: str, new: str, file: FileId) -> None:
        """Rename exactly that file, never over another one; see `files`.

        Killed in here, the file has one of the names.
        """
        await in_thread(files.rename, old, new, file)

    async def unlink(self, path: str, file: FileId) -> None:
        """Remove exactly that fenced file if nobody has it locked; see `files`.

        A `qemu-img` with ``-U`` that happens to look at it is no obstacle. Killed in
        here, the file is there or it is not.
        """
        try:
            await in_thread(files.unlink, path, file)
        except image_locks.ImageLocked as error:
            if error.held != image_locks.READER_ONLY or await self.users(path):
                raise
            await in_thread(files.unlink, path, file, readers_stay=True)

    async def sync(self, paths: Sequence[str]) -> None:
        """Flush files to the storage, all at once. Changes nothing else.

        A flush whose caller gave it up counts: it is awaited before the next one of
        that file, and when it failed, no other is asked for.
        """
        once = {self.identify(path): path for path in paths}
        ends = [self._flush(file, path) for file, path in once.items()]
        for end in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(end, BaseException):
                raise end

    async def _flush(self, file: FileId | None, path: str) -> None:
        if file is None:
            raise CommandFailed(f"{path} is missing and cannot be flushed.")
        while (former := self._flushing.get(file)) is not None:
            await asyncio.wait({former})
        if (failed := self._unflushed.get(file)) is not None:
            raise FlushFailed(path, failed.why)
        work = asyncio.ensure_future(asyncio.to_thread(files.sync, path))
        self._flushing[file] = work

        def ended(_: asyncio.Future[None]) -> None:
            del self._flushing[file]
            error = None if work.cancelled() else work.exception()
            if isinstance(error, FlushFailed):
                self._unflushed[file] = error

        work.add_done_callback(ended)
        await asyncio.shield(work)

    async def free_bytes(
        self, path: str, format: str, secret: str | None = None
    ) -> tuple[int, int]:
        """Bytes by which an image can grow, and the number of the device they are on.

        Those of its file system, or of its block device behind the image's end (a
        raw image ends with its device). Only reads.
        """
        file = files.identify(path)
        if file is None:
            return files.free_bytes(path)
        if not file.is_block_device:
            data = await _data_file(path, format)
            return files.free_bytes(path if data is None else data.path)
        if format == "raw":
            return 0, file.device
        end = await self._qemu_img.end_offset(path, secret)
        return max(0, devices.size(path) - end), file.device

    async def users(self, path: str) -> Sequence[ImageUser]:
        """Other processes that have this image, our own helpers included."""
        return (await asyncio.to_thread(processes.users, (path,)))[path]

    async def dependents(
        self, folders: Sequence[str]
    ) -> Mapping[FileId, Sequence[str]]:
        """Images in these folders, by each image that their headers name.

        What is no qcow2 image, or cannot be read, is passed over. Only reads.
        """
        return await asyncio.to_thread(_dependents, folders)


async def in_thread(call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run a call that changes something in a thread; when cancelled, await its end."""
    work = asyncio.ensure_future(asyncio.to_thread(call, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait({work})
        if not work.cancelled():
            # Looked at, so that the loop does not complain; the caller is gone.
            work.exception()
        raise


class _NewOverlay:
    """An overlay in the making: an open file that has no name, or not its own yet."""

    def __init__(self, plan: OverlayPlan) -> None:
        self.plan = plan
        self.folder = self.descriptor = -1
        self.name = ""
        self.unfinished: str | None = None

    def begin(self) -> None:
        """Open the directory and a new file in it."""
        path, link = self.plan.overlay, self.plan.link
        below = resolve_backing(path, link)
        if below is None or files.identify(below) != self.plan.frozen.file:
            raise CommandFailed(
                f"{link!r} in {path!r} would not lead to the image below"
            )
        if os.path.lexists(path):
            raise CommandFailed(f"{path!r} exists already")
        if self.plan.frozen.secret is None and _is_encrypted(self.plan.frozen):
            # What a guest writes would be stored in the open.
            raise CommandFailed(f"{self.plan.frozen.path!r} is encrypted")
        self.folder, self.name = files.open_folder(path)
        try:
            self._open()
        except OSError as error:
            raise CommandFailed(f"{path!r} could not be made: {error}") from error

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC
        try:
            self.descriptor = os.open(
                ".", flags | os.O_TMPFILE, 0o600, dir_fd=self.folder
            )
        except OSError as error:
            if error.errno not in NO_TMPFILE:
                raise
            unfinished = self.name + UNFINISHED
            with suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=self.folder)
            flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self.descriptor = os.open(unfinished, flags, 0o600, dir_fd=self.folder)
            self.unfinished = unfinished

    def publish(self) -> None:
        """Give it owner, mode and name, all of it durable."""
        try:
            like = os.stat(self.plan.frozen.path)
            try:
                os.fchown(self.descriptor, like.st_uid, like.st_gid)
            except PermissionError:
                # Not root: the group may still be one of ours.
                with suppress(PermissionError):
                    os.fchown(self.descriptor, -1, like.st_gid)
            os.fchmod(self.descriptor, stat.S_IMODE(like.st_mode) & 0o777)
            os.fsync(self.descriptor)
            if self.unfinished is None:
                whole = f"/proc/self/fd/{self.descriptor}"
                os.link(whole, self.name, dst_dir_fd=self.folder)
            else:
                files.rename_no_replace(
                    self.folder, self.unfinished, self.folder, self.name
                )
                self.unfinished = None
        except FileExistsError:
            raise CommandFailed(f"{self.plan.overlay!r} exists already") from None
        except OSError as error:
            raise CommandFailed(
                f"{self.plan.overlay!r} could not be made: {error}"
            ) from error
        files.sync_folders(self.plan.overlay, self.folder)

    def close(self) -> None:
        """Forget what did not get its name."""
        if self.unfinished is not None:
            with suppress(OSError):
                os.unlink(self.unfinished, dir_fd=self.folder)
        for descriptor in (self.descriptor, self.folder):
            if descriptor >= 0:
                os.close(descriptor)


async def _data_file(path: str, format: str) -> DataFile | None:
    """The external data file of an image; `CommandFailed` when it is not trusted."""
    if format != "qcow2":
        return None
    return await asyncio.to_thread(data_files.data_file, path)


def _is_encrypted(image: Image) -> bool:
    """Whether a qcow2 header says so, without a qemu-img."""
    if image.format != "qcow2":
        return False
    descriptor = image_locks.open_image(image.path)
    try:
        head = os.pread(descriptor, _CRYPT.size, 0)
    finally:
        os.close(descriptor)
    return len(head) == _CRYPT.size and _CRYPT.unpack(head) != (_MAGIC, 0)


def _check_relink(image: Image) -> None:
    if files.identify(image.path) != image.file:
        raise CommandFailed(f"{image.path!r} is not the file that it was")
    held = image_locks.held(image.path)
    # A mere reader is no obstacle: qemu-img takes the lock that it needs itself.
    if held - image_locks.READER_ONLY:
        raise image_locks.ImageLocked(image.path, held)


def _dependents(folders: Sequence[str]) -> Mapping[FileId, Sequence[str]]:
    """Links come last: a file that is found under its own name keeps that name."""
    found: dict[FileId, dict[FileId, str]] = {}
    for folder in folders:
        try:
            with os.scandir(os.path.abspath(folder)) as entries:
                names = sorted((e.is_symlink(), e.name, e.path) for e in entries)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            raise CommandFailed(
                f"{folder!r} cannot be searched for other overlays: {error}"
            ) from error
        for _, _, path in names:
            try:
                file = _regular_file(path)
                named = set() if file is None else _named_by(path)
            except OSError as error:
                log.say("warning", "dependents.skipped", path=path, error=str(error))
                continue
            for image in named - {file}:
                assert file is not None
                found.setdefault(image, {}).setdefault(file, path)
    return {image: tuple(paths.values()) for image, paths in found.items()}


def _regular_file(path: str) -> FileId | None:
    """Which file a name leads to, if it is one that may be an image."""
    try:
        looked = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return files.file_id(looked) if stat.S_ISREG(looked.st_mode) else None


def _named_by(path: str) -> set[FileId]:
    """The files that a header names, seen from where its image lies."""
    found = set()
    strings = _names_in(path)
    for start in (path, os.path.realpath(path)) if strings else ():
        names = []
        for string in strings:
            if string.startswith("json:"):
                inner = json_strings(string.removeprefix("json:"))
                names += [resolve_backing(start, text) for text in inner]
            else:
                names.append(resolve_backing(start, string))
        for name in filter(None, names):
            with suppress(OSError, ValueError):
                found.add(files.file_id(os.stat(name)))
    return found


def _names_in(path: str) -> list[str]:
    """The names of other files in a qcow2 header, in bounded reads."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        size = os.fstat(descriptor).st_size
        head = os.pread(descriptor, _START.size, 0)
        if len(head) < _START.size:
            return []
        magic, _, offset, length = _START.unpack(head)
        if magic != _MAGIC:
            return []
        names = [data_files.named_in(os.pread(descriptor, data_files.HEADER_BYTES, 0))]
        if 0 < offset < size and 0 < length <= BACKING_BYTES:
            name = os.pread(descriptor, length, offset)
            names.append(os.fsdecode(name.split(b"\0")[0]))
        return [name for name in names if name]
    finally:
        os.close(descriptor)
