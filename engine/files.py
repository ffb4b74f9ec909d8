"""Names of image files: identity, fences, and renames that never replace a file.

Nothing here waits for QEMU, but any call may wait for the storage: those that write
are run in a thread by `engine.images`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ..journal.errors import CommandFailed, FlushFailed, OutcomeUnknown
from ..journal.model import DEVICE_STAMP, FileId, FileStamp
from . import devices, image_locks

FENCE: Final = ".backfold-"
#: As long as `FENCE`, but never taken for one: a probe may be removed by its name.
PROBES: Final = (".bfprobe1-", ".bfprobe2-")
FENCED: Final = re.compile(r"\.backfold-[0-9a-f]{12}\Z", re.DOTALL)

_RENAME_NOREPLACE: Final = 1
_FS_IOC_GETFLAGS: Final = 0x80086601
_IMMUTABLE: Final = 0x10
_APPEND_ONLY: Final = 0x20
_LIBC = ctypes.CDLL(None, use_errno=True)


def identify(path: str) -> FileId | None:
    """Device and inode behind a path (links followed); None when missing."""
    found = _look(path)
    return None if found is None else file_id(found)


def stamp(path: str) -> FileStamp | None:
    """Size and modification time; `DEVICE_STAMP` for a device, None when missing.

    The times of a device's node do not change with its data, and they change when
    the host is started: they would tell something, and something wrong.
    """
    found = _look(path)
    if found is None:
        return None
    if stat.S_ISBLK(found.st_mode):
        return DEVICE_STAMP
    return FileStamp(found.st_size, found.st_mtime_ns)


def fence_name(path: str, run: str) -> str:
    """The name that an image gets when it is fenced, in its real directory."""
    return os.path.realpath(path) + FENCE + run


def fence_obstacle(path: str, run: str) -> str | None:
    """Why an image could not be fenced, found without writing; None when it can."""
    fence = fence_name(path, run)
    folder, name = os.path.split(fence)
    try:
        found = os.lstat(os.path.realpath(path))
        parent = os.stat(folder)
        longest = os.pathconf(folder, "PC_NAME_MAX")
    except (OSError, ValueError) as error:
        return f"{path!r} cannot be looked at: {error}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is not a regular file"
    if found.st_nlink > 1:
        return f"{path} has {found.st_nlink} hard links; a fence would hide only one"
    if len(os.fsencode(name)) > longest:
        return f"{name} is longer than the {longest} bytes that {folder} allows"
    if os.path.lexists(fence):
        return f"{fence} exists already"
    # Reading is needed as well, to fsync the directory.
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        return f"names in {folder} cannot be changed by this user, or it is read-only"
    owners = (0, found.st_uid, parent.st_uid)
    if parent.st_mode & stat.S_ISVTX and os.geteuid() not in owners:
        return f"{folder} is sticky, and {path} belongs to somebody else"
    for locked in (os.path.realpath(path), folder):
        if _attributes(locked) & (_IMMUTABLE | _APPEND_ONLY):
            return f"{locked} is marked immutable or append-only (`lsattr -d`)"
    return None


def probe_fence(path: str, run: str) -> None:
    """Create, rename, sync and remove a file beside the image, under long names.

    The names cannot be those of an image. Killed in here, an empty file is left;
    the next probe of the same run removes it.

    Raises:
        CommandFailed: when a fence would not be possible.
    """
    real = os.path.realpath(path)
    first, second = (os.path.basename(real) + probe + run for probe in PROBES)
    with opened_folder(real) as (folder, _):
        try:
            for name in (first, second):
                _remove_probe(folder, name)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(first, flags, 0o600, dir_fd=folder))
            try:
                rename_no_replace(folder, first, folder, second)
                os.fsync(folder)
            finally:
                for name in (first, second):
                    _remove_probe(folder, name)
        except OSError as error:
            raise CommandFailed(
                f"{path} could not be renamed in its directory: {error}",
                remedy="Give Backfold the right to create and rename files there.",
            ) from error


def rename(old: str, new: str, file: FileId) -> None:
    """Rename exactly that file, never over another one, and sync the directories.

    Links are followed first, so that it is the file that gets another name. Does
    nothing but sync when it already has the new name. Killed in here, the file has
    the old name or the new one (on a file system that cannot rename without
    replacing: perhaps both, which the next call mends); it is never without a name.

    Raises:
        CommandFailed: when it is another file, or the new name is taken.
        OutcomeUnknown: when the directory could not be synced.
    """
    source, target = os.path.realpath(old), os.path.realpath(new)
    with (
        opened_folder(source) as (folder, source_name),
        opened_folder(target) as (target_folder, target_name),
    ):
        try:
            if source != target and _at(folder, source_name) == file:
                names = (folder, source_name, target_folder, target_name)
                rename_no_replace(*names)
                if _at(target_folder, target_name) != file:
                    # Replaced between the look and the rename: put that one back.
                    rename_no_replace(target_folder, target_name, folder, source_name)
            there = _at(target_folder, target_name)
        except FileExistsError:
            raise CommandFailed(
                f"{old!r} was not renamed: {new!r} exists already"
            ) from None
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{old!r} could not be renamed: {error}") from error
        if there != file:
            raise CommandFailed(
                f"{old!r} is not the file that it was (it was replaced, or is gone)",
                remedy="Find out who replaced it; Backfold has not touched it.",
            )
        sync_folders(new, target_folder, folder)


def rename_no_replace(folder: int, old: str, target: int, new: str) -> None:
    """Rename between open directories; FileExistsError when the name is taken.

    Where the file system cannot do that, a second name is made and the first one
    removed; killed between these, the file has both, and then only the old one goes.
    """
    error = _renameat2(folder, old, target, new)
    if error == errno.EEXIST:
        if not _two_names(folder, old, target, new):
            raise FileExistsError(error, os.strerror(error), new)
    elif error in (errno.EINVAL, errno.ENOSYS):
        try:
            os.link(
                old, new, src_dir_fd=folder, dst_dir_fd=target, follow_symlinks=False
            )
        except FileExistsError:
            if not _two_names(folder, old, target, new):
                raise
        os.fsync(target)
    elif error:
        raise OSError(error, os.strerror(error), old)
    else:
        return
    if _two_names(folder, old, target, new):
        os.unlink(old, dir_fd=folder)


def unlink(path: str, file: FileId, *, readers_stay: bool = False) -> None:
    """Remove exactly that fenced file while holding its locks; sync the directory.

    Only a name that a fence made can be removed. Does nothing but sync when it is
    gone. Killed in here, the file is there or not, and the locks are dropped.

    Raises:
        CommandFailed: when it is another file, or its name is not a fence's.
        ImageLocked: when somebody uses it.
        OutcomeUnknown: when the directory could not be synced.
    """
    if not FENCED.search(path):
        raise CommandFailed(f"{path!r} is not a fenced name, and is never removed")
    with opened_folder(path) as (folder, name):
        try:
            found = _at(folder, name)
            if found is not None:
                _expect(path, file, found)
                with image_locks.exclusive(
                    path, folder=folder, readers_stay=readers_stay
                ) as descriptor:
                    _expect(path, file, file_id(os.fstat(descriptor)))
                    _expect(path, file, _at(folder, name))
                    os.unlink(name, dir_fd=folder)
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{path!r} could not be removed: {error}") from error
        sync_folders(path, folder)


def sync(path: str) -> None:
    """Flush one file or block device. Changes nothing that a kill could break.

    A failed fsync must not be repeated as a proof: the kernel then forgets what it
    could not write, and the second call succeeds.
    """
    descriptor = image_locks.open_image(path)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise FlushFailed(path, error.strerror or str(error)) from error
    finally:
        os.close(descriptor)


def free_bytes(path: str) -> tuple[int, int]:
    """Free bytes of the file system that a file is on, and that device's number."""
    try:
        try:
            system, device = os.statvfs(path), os.stat(path).st_dev
        except FileNotFoundError:
            folder = os.path.dirname(os.path.realpath(path))
            system, device = os.statvfs(folder), os.stat(folder).st_dev
    except (OSError, ValueError) as error:
        raise CommandFailed(f"the file system of {path!r}: {error}") from error
    return system.f_bavail * system.f_frsize, device


def file_id(found: os.stat_result) -> FileId:
    """The identity in the answer of a stat: of the device, not of its node."""
    if stat.S_ISBLK(found.st_mode):
        return devices.identity(found)
    return FileId(found.st_dev, found.st_ino)


def open_folder(path: str) -> tuple[int, str]:
    """Open the directory of a path; returns its descriptor and the last name."""
    parent, name = os.path.split(path)
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        return os.open(parent or ".", flags), name
    except (OSError, ValueError) as error:
        raise CommandFailed(f"the directory of {path!r}: {error}") from error


@contextmanager
def opened_folder(path: str) -> Iterator[tuple[int, str]]:
    """`open_folder`, closed again at the end."""
    folder, name = open_folder(path)
    try:
        yield folder, name
    finally:
        os.close(folder)


def sync_folders(path: str, *folders: int) -> None:
    """Make names durable that were changed in open directories.

    Raises:
        OutcomeUnknown: when that failed; the names are changed all the same.
    """
    try:
        for folder in folders:
            os.fsync(folder)
    except OSError as error:
        raise OutcomeUnknown(
            f"the directory of {path} could not be flushed: {error.strerror}",
            data="The change of the name is made, but may not survive a power cut.",
            remedy="Look at the storage, then run `backfold recover`.",
        ) from error


def _expect(path: str, file: FileId, found: FileId | None) -> None:
    if found != file:
        raise CommandFailed(
            f"{path!r} is another file than the one to remove",
            remedy="Find out who put it there; Backfold has not touched it.",
        )


def _look(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError as error:
        gone = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
        if error.errno in gone:
            return None
        raise CommandFailed(f"{path!r} cannot be looked at: {error}") from error
    except ValueError:
        # A zero byte: no file has such a name.
        return None


def _at(folder: int, name: str) -> FileId | None:
    """Which file has this name in an open directory; links are not followed."""
    try:
        return file_id(os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return None


def _two_names(folder: int, old: str, target: int, new: str) -> bool:
    """Whether these are two names of one file, so that one of them may go."""
    if old == new and file_id(os.fstat(folder)) == file_id(os.fstat(target)):
        return False
    first = os.stat(old, dir_fd=folder, follow_symlinks=False)
    return first.st_nlink > 1 and file_id(first) == _at(target, new)


def _remove_probe(folder: int, name: str) -> None:
    with suppress(FileNotFoundError):
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_size == 0:
            os.unlink(name, dir_fd=folder)


def _renameat2(folder: int, old: str, target: int, new: str) -> int:
    """The system call; returns the error number, or 0."""
    call = getattr(_LIBC, "renameat2", None)
    if call is None:
        return errno.ENOSYS
    if call(folder, os.fsencode(old), target, os.fsencode(new), _RENAME_NOREPLACE):
        return ctypes.get_errno()
    return 0


def _attributes(path: str) -> int:
    """The inode attributes that `chattr` sets; 0 when they cannot be read cheaply."""
    try:
        descriptor = os.open(
            path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        )
    except OSError:
        return 0
    try:
        (flags,) = struct.unpack(
            "l", fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, struct.pack("l", 0))
        )
        return int(flags)
    except OSError:
        return 0
    finally:
        os.close(descriptor)
