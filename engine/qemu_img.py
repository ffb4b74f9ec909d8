"""qemu-img as a process: one image at a time, never probing, never the chain.

Images are named by `json:` options and an absolute path, so that no character of a
file name means anything. ``backing`` is null there: only the image itself is opened,
whatever its header names.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ..journal.errors import CommandFailed, OutcomeUnknown
from ..journal.model import DataFile, FileId, Image
from ..states.ports import Bitmap, Extent, ImageHeader
from . import files, secret_files

FORMATS: Final = ("qcow2", "raw")
#: Exit statuses of `qemu-img check`.
CORRUPT, LEAKED, NOT_SUPPORTED = 2, 3, 63
#: Stands for a data file that is not to be opened.
NO_DATA: Final = DataFile("", FileId(0, 0))
#: What a secret is called in a qemu-img, and the options of an encrypted image.
KEY: Final = "backfold-key"
ENCRYPTED: Final = f"encrypt.format=luks,encrypt.key-secret={KEY}"
#: What qemu-img says of a wrong key.
WRONG_KEY: Final = ("Invalid password", "encrypt.key-secret")
#: A new key is made slow to guess by measuring how fast this host is, which now and
#: then fails on a busy one; how often it is tried.
NO_CLOCK: Final = "Unable to get accurate CPU usage"
KEY_ATTEMPTS: Final = 10
#: How much of what qemu-img says goes into an error.
MESSAGE_CHARACTERS: Final = 2000
#: How long to wait for the end of a process that was killed.
KILL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Output:
    """What a qemu-img said and how it ended."""

    status: int
    text: str
    error: str


class QemuImg:
    """Runs qemu-img.

    Args:
        binary: the program, by name or path.
        seconds: the time-out of a command that only touches a header.
        long_seconds: the time-out of a command that reads all metadata.
    """

    def __init__(
        self,
        binary: str = "qemu-img",
        *,
        seconds: float = 60.0,
        long_seconds: float = 3600.0,
    ) -> None:
        """Start nothing yet."""
        self._binary = binary
        self._seconds = seconds
        self._long_seconds = long_seconds

    async def header(
        self, path: str, format: str, *, data_file: bool = False
    ) -> ImageHeader:
        """Read the header of one image, even while a QEMU uses it.

        ``data_file`` says that the header names an external data file; something
        empty is put in its place, so that it is not opened. Only reads.
        """
        file = await asyncio.to_thread(_file_id, path)
        data = NO_DATA if data_file else None
        name = await asyncio.to_thread(_options, path, format, data)
        answer = await self._read("info", "-U", "--output=json", name, path=path)
        try:
            return _header(_absolute(path), file, json.loads(answer.text))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _unexpected("info", path, error) from error

    async def extents(
        self,
        path: str,
        format: str,
        data: DataFile | None = None,
        secret: str | None = None,
    ) -> Sequence[Extent]:
        """What an image itself holds; a hole of a raw image is not allocated.

        Only reads, even while a QEMU uses the image; what that QEMU has in its
        memory is not seen.
        """
        name = await asyncio.to_thread(_options, path, format, data, secret)
        answer = await self._read(
            "map",
            "-U",
            "--output=json",
            *_keys(secret),
            name,
            path=path,
            seconds=self._long_seconds,
        )
        try:
            return await asyncio.to_thread(_extents, answer.text, format)
        except (ValueError, KeyError, TypeError) as error:
            raise _unexpected("map", path, error) from error

    async def check(
        self,
        path: str,
        format: str,
        data: DataFile | None = None,
        secret: str | None = None,
    ) -> str | None:
        """Check an image that nobody uses: None when sound, else what is wrong.

        Leaked clusters waste room and harm nobody, so they are sound. Never repairs:
        only reads.

        Raises:
            CommandFailed: when it could not be checked, or somebody uses it.
        """
        name = await asyncio.to_thread(_options, path, format, data, secret)
        answer = await self.run(
            "check", *_keys(secret), name, seconds=self._long_seconds
        )
        if answer.status in (0, LEAKED):
            return None
        if answer.status == NOT_SUPPORTED and format == "raw":
            return None
        if answer.status == CORRUPT:
            return _shorten(f"{answer.text}\n{answer.error}")
        raise _failed("check", path, answer)

    async def end_offset(self, path: str, secret: str | None = None) -> int:
        """Where a qcow2 image ends on its device: what lies behind is free.

        Only reads, even while a QEMU uses the image; it is not to grow meanwhile.
        """
        name = await asyncio.to_thread(_options, path, "qcow2", None, secret)
        answer = await self.run(
            *("check", "-U", "--output=json", *_keys(secret), name),
            seconds=self._long_seconds,
        )
        try:
            return int(json.loads(answer.text)["image-end-offset"])
        except (ValueError, KeyError, TypeError) as error:
            raise _failed("check", path, answer) from error

    async def create(
        self,
        descriptor: int,
        *,
        link: str,
        backing_format: str,
        size: int,
        secret: str | None = None,
    ) -> None:
        """Write an empty overlay into an open file, without opening the backing file.

        The file has no name that anybody boots from yet, so being killed here, or
        in qemu-img, leaves nothing that counts.
        """
        target = f"/proc/self/fd/{descriptor}"
        for _ in range(KEY_ATTEMPTS):
            answer = await self.run(
                *("create", "-q", "-u", "-f", "qcow2", *_keys(secret)),
                *(() if secret is None else ("-o", ENCRYPTED)),
                *("-b", link, "-F", backing_format, target, str(size)),
                pass_fds=(descriptor,),
            )
            if NO_CLOCK not in answer.error:
                break
        if answer.status != 0:
            raise _failed("create", link, answer)

    async def rebase(
        self, image: Image, backing: str | None, backing_format: str | None
    ) -> None:
        """Change the backing file name in a qcow2 header, and nothing else.

        With None for both, the image is based on nothing afterwards.

        qemu-img takes the image's lock itself. The header fits into one page and is
        written by one call: killed in here, the header has the old name or the new
        one. Persistent bitmaps that were being recorded can become unusable by that.

        Raises:
            CommandFailed: when it was refused, or somebody uses the image.
            OutcomeUnknown: when qemu-img had to be killed: read the header.
        """
        path = image.path
        name = await asyncio.to_thread(
            _options, path, "qcow2", image.data, image.secret
        )
        link = ["-b", backing or ""]
        if backing_format is not None:
            link += ["-F", backing_format]
        answer = await self.run(
            "rebase", "-u", *_keys(image.secret), *link, name, changes=True
        )
        if answer.status != 0:
            raise _failed("rebase", path, answer)

    async def continue_bitmap(self, path: str, bitmap: Bitmap, below: Image) -> None:
        """Make a bitmap in an overlay that has all that the one below has noted.

        qemu-img takes the locks itself. Killed in here, there is none, an empty one
        that is marked as unusable, or the whole.

        Raises:
            CommandFailed: when it was refused, or somebody uses an image.
            OutcomeUnknown: when qemu-img had to be killed.
        """
        secret = below.secret
        name = await asyncio.to_thread(_options, path, "qcow2", None, secret)
        source = await asyncio.to_thread(
            _options, below.path, below.format, below.data, secret
        )
        answer = await self.run(
            *("bitmap", *_keys(secret), "--add", "--merge", bitmap.name, "-b", source),
            *("-g", str(bitmap.granularity), name, bitmap.name),
            changes=True,
        )
        if answer.status != 0:
            raise _failed("bitmap", path, answer)

    async def run(
        self,
        *arguments: str,
        seconds: float | None = None,
        changes: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> Output:
        """Run one command to its end; when cancelled or too slow, it is killed.

        It has a session of its own, so that a Ctrl-C meant for the engine does not
        end it halfway. Killed together with the engine or alone, it leaves what its
        caller's docstring says.

        Raises:
            CommandFailed: when it could not be started, or took too long to read.
            OutcomeUnknown: when it took too long and ``changes`` something.
        """
        limit = self._seconds if seconds is None else seconds
        what = f"{self._binary} {arguments[0]}"
        try:
            process = await asyncio.create_subprocess_exec(
                self._binary,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C"},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise CommandFailed(
                f"{self._binary} is not installed",
                remedy="Install it; on Debian it is in the package qemu-utils.",
            ) from error
        except (OSError, ValueError) as error:
            raise CommandFailed(f"{what} could not be started: {error}") from error
        try:
            async with asyncio.timeout(limit):
                out, err = await process.communicate()
        except TimeoutError:
            kind = OutcomeUnknown if changes else CommandFailed
            raise kind(
                f"{what} did not end within {limit:g} s",
                data="It was killed; an image that it changed is in its old state or"
                " in the new one."
                if changes
                else "No data was changed.",
                remedy="Look whether the storage answers, then try again.",
            ) from None
        finally:
            if process.returncode is None:
                await _end(process)
        assert process.returncode is not None
        return Output(
            process.returncode,
            out.decode("utf-8", "replace"),
            err.decode("utf-8", "replace"),
        )

    async def _read(
        self, *arguments: str, path: str, seconds: float | None = None
    ) -> Output:
        answer = await self.run(*arguments, seconds=seconds)
        if answer.status != 0:
            raise _failed(arguments[0], path, answer)
        return answer


def resolve_backing(path: str, backing: str) -> str | None:
    """The file that a backing file name means, as QEMU understands it.

    Relative names start in the folder of the image, under the name by which it was
    opened. None when it is no plain file name: ``json:``, ``nbd:`` and so on.
    """
    protocol, colon, rest = backing.partition(":")
    if colon and "/" not in protocol:
        if protocol == "file" and rest.startswith("/"):
            return rest
        return None
    return os.path.join(os.path.dirname(_absolute(path)), backing)


def json_strings(text: str) -> Iterator[str]:
    """All strings in a JSON text of QEMU's, those of nested ``json:`` names as well."""
    try:
        todo: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            todo += value.values()
        elif isinstance(value, list):
            todo += value
        elif isinstance(value, str):
            yield value.removeprefix("file:")
            if value.startswith("json:"):
                yield from json_strings(value.removeprefix("json:"))


def _absolute(path: str) -> str:
    """An absolute name of the same file (``..`` after a link is left as it is)."""
    return os.path.join(os.getcwd(), path)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill a process and wait for its end, but not for ever (it may hang in I/O)."""
    try:
        process.kill()
        async with asyncio.timeout(KILL_SECONDS):
            await process.wait()
    except (ProcessLookupError, TimeoutError):
        pass


def _keys(secret: str | None) -> tuple[str, ...]:
    """The option that makes a secret known: its file, and not what is in it."""
    if secret is None:
        return ()
    secret_files.check_private(secret)
    return ("--object", f"secret,id={KEY},file={secret.replace(',', ',,')}")


def _options(
    path: str,
    format: str,
    data: DataFile | None = None,
    secret: str | None = None,
) -> str:
    """Name one image for qemu-img so that no character of its path has a meaning."""
    if format not in FORMATS:
        raise CommandFailed(f"{path!r}: the format {format!r} is not supported")
    absolute = _absolute(path)
    try:
        absolute.encode()
    except UnicodeEncodeError:
        raise CommandFailed(
            f"the name {path!r} is not UTF-8, which QEMU cannot be told",
            remedy="Rename the file.",
        ) from None
    device = stat.S_ISBLK(_stat(absolute).st_mode)
    driver = "host_device" if device else "file"
    options: dict[str, Any] = {
        "driver": format,
        "file": {"driver": driver, "filename": absolute},
    }
    if format == "qcow2":
        options["backing"] = None
        if secret is not None:
            options["encrypt"] = {"format": "luks", "key-secret": KEY}
        if data is NO_DATA:
            options["data-file"] = {"driver": "null-co", "read-zeroes": True}
        elif data is not None:
            options["data-file"] = {"driver": "file", "filename": data.path}
    return "json:" + json.dumps(options, ensure_ascii=False)


def _stat(path: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise CommandFailed(f"{path!r} is missing") from None
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{path!r} cannot be read: {error}") from error
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode)):
        raise CommandFailed(f"{path!r} is neither a file nor a block device")
    return found


def _file_id(path: str) -> FileId:
    return files.file_id(_stat(path))


def _header(path: str, file: FileId, info: dict[str, Any]) -> ImageHeader:
    specific = info.get("format-specific", {}).get("data", {})
    backing = info.get("backing-filename")
    return ImageHeader(
        path=path,
        format=info["format"],
        file=file,
        virtual_size=int(info["virtual-size"]),
        backing=backing,
        backing_format=info.get("backing-filename-format"),
        backing_path=None if backing is None else resolve_backing(path, backing),
        corrupt=bool(specific.get("corrupt", False)),
        internal_snapshots=tuple(item["name"] for item in info.get("snapshots", ())),
        bitmaps=tuple(_bitmap(item) for item in specific.get("bitmaps", ())),
        keeps_bitmaps=info["format"] == "qcow2" and specific.get("compat") != "0.10",
        data_file=specific.get("data-file"),
        encrypted=bool(info.get("encrypted", False)),
    )


def _bitmap(item: Mapping[str, Any]) -> Bitmap:
    """A bitmap that is marked as in use is lost, or a living QEMU has it."""
    flags = item["flags"]
    return Bitmap(
        name=item["name"],
        granularity=int(item["granularity"]),
        recording="auto" in flags and "in-use" not in flags,
        inconsistent="in-use" in flags,
    )


def _extents(text: str, format: str) -> tuple[Extent, ...]:
    return tuple(
        Extent(
            start=row["start"],
            length=row["length"],
            allocated=row["depth"] == 0
            and row["present"]
            and (row["data"] or format != "raw"),
            data=row["data"],
        )
        for row in json.loads(text)
    )


def _failed(command: str, path: str, answer: Output) -> CommandFailed:
    said = _shorten(answer.error) or f"exit status {answer.status}"
    if any(sign in answer.error for sign in WRONG_KEY):
        return secret_files.SecretRefused(f"{path!r} cannot be decrypted: {said}")
    return CommandFailed(f"qemu-img {command} of {path!r} failed: {said}")


def _unexpected(command: str, path: str, error: Exception) -> CommandFailed:
    return CommandFailed(
        f"qemu-img {command} of {path!r} answered something unexpected: {error!r}",
        remedy="Backfold needs the qemu-img of QEMU 7.2 or newer.",
    )


def _shorten(text: str) -> str:
    return text.strip()[:MESSAGE_CHARACTERS]
