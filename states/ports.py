"""What the states need from the world. Adapters live in the engine.

The ports are cut at the level of a fold (start, progress, flush, complete,
finalize, cancel), not of QMP. Every adapter passes the contract tests.
Errors are those of `journal.errors`: `CommandFailed` for a plain no,
`OutcomeUnknown` when nobody can say, `Disconnected` when QEMU has gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlite_utils import Database

from ..journal.model import (
    CatalogChange,
    DataFile,
    Disk,
    FileId,
    FileStamp,
    FoldPlan,
    Image,
    OverlayPlan,
    Plan,
)
from .options import Options
from .watch import Watch


@dataclass(frozen=True, slots=True)
class LiveImage:
    """One image in the graph of a living QEMU, filters left out.

    ``file`` is None when the name that QEMU has does not lead to a file any more.
    """

    node: str
    file_node: str | None
    filename: str
    format: str
    file: FileId | None
    read_only: bool
    #: The node and the file of an external data file.
    data_node: str | None = None
    data: FileId | None = None


@dataclass(frozen=True, slots=True)
class LiveChain:
    """The images of one device of a living QEMU, the active image first.

    ``root`` is the node that the device sees (a filter, or the active image).
    """

    device: str
    root: str
    images: tuple[LiveImage, ...]
    filters: tuple[str, ...] = ()

    def index(self, file: FileId) -> int | None:
        """How deep the image lies (0 is the active one); None when it is not here."""
        for depth, image in enumerate(self.images):
            if image.file == file:
                return depth
        return None


@dataclass(frozen=True, slots=True)
class Job:
    """A block job: ``status`` as QEMU names it, ``done`` and ``total`` in bytes.

    ``stuck`` is ``nospace`` or ``failed`` while it waits after an I/O error, and
    ``paused`` when somebody paused it or QEMU has forgotten the error (after `cont`).
    """

    id: str
    type: str
    status: str
    done: int
    total: int
    error: str | None = None
    stuck: str | None = None

    @property
    def remaining(self) -> int:
        """Bytes that are still to copy."""
        return max(0, self.total - self.done)


@dataclass(frozen=True, slots=True)
class Bitmap:
    """A dirty bitmap of an image: which blocks were written since it was made.

    ``granularity`` and ``dirty`` are in bytes; ``dirty`` is known of a living QEMU
    only. ``recording`` says whether writes are noted, on a read-only image whether
    they would be. An ``inconsistent`` one cannot be used any more: a QEMU that had
    it was killed. A ``busy`` one is in use by a backup.
    """

    name: str
    granularity: int
    recording: bool
    persistent: bool = True
    inconsistent: bool = False
    busy: bool = False
    dirty: int = 0


@dataclass(frozen=True, slots=True)
class MergedBitmap:
    """What a bitmap of an image is to be: all that ``parts`` note, and what it had.

    ``parts`` are bitmaps by image and name. With ``anew`` it forgets first what it
    had, so that the same order given twice leads to the same bitmap.
    """

    image: LiveImage
    name: str
    granularity: int
    recording: bool
    persistent: bool
    parts: tuple[tuple[LiveImage, str], ...] = ()
    anew: bool = False


@dataclass(frozen=True, slots=True)
class HelperRecord:
    """What the journal keeps of a helper: enough to know it again after a reboot."""

    socket: str
    pid: int
    start_time: float
    boot_id: str


class Session(Protocol):
    """One connection to one living QEMU. It ends with the connection.

    Every method raises `Disconnected` when the connection has ended and
    `OutcomeUnknown` when QEMU does not answer in time.
    """

    @property
    def is_helper(self) -> bool:
        """Whether this QEMU was started by Backfold."""

    @property
    def process(self) -> str | None:
        """Names the process of this QEMU: ``boot_id:pid@start_time``.

        The same for every connection to one process, and never again for another,
        whatever is restarted. None when nobody can tell.
        """

    async def run_state(self) -> str:
        """QEMU's run state: ``running``, ``paused``, ``prelaunch`` and so on."""

    async def chains(self, aliases: Mapping[str, str]) -> tuple[LiveChain, ...]:
        """Every device's chain; ``aliases`` maps old file names to new ones.

        A stream of ours that has concluded may be forgotten by this, and by every
        other look at the images.
        """

    async def open_images(self, aliases: Mapping[str, str]) -> tuple[LiveImage, ...]:
        """Every image that this QEMU has open, in a chain or not."""

    async def jobs(self) -> Mapping[str, Job]:
        """Every job that QEMU has, whoever started it, by id."""

    async def exports(self) -> frozenset[str]:
        """The names of the nodes that are exported, by NBD for example."""

    async def open_chain(self, chain: Sequence[Image], writable: frozenset[str]) -> str:
        """Helper only: open a chain, top first; returns the root node's name.

        ``writable`` holds the paths that must be open for writing.
        """

    async def start(
        self, fold: FoldPlan, chain: LiveChain, bandwidth: int | None
    ) -> None:
        """Start the job of a fold. ``bandwidth`` is in bytes per second."""

    async def set_writable(self, image: LiveImage, writable: bool) -> None:
        """Reopen an image of the graph read-write or read-only."""

    async def flush(self, image: LiveImage) -> None:
        """Make durable what QEMU has written into an image."""

    async def bitmaps(
        self, images: Sequence[LiveImage]
    ) -> tuple[tuple[Bitmap, ...], ...]:
        """The dirty bitmaps of each of these images; those without a name left out."""

    async def merge_bitmaps(self, wanted: Sequence[MergedBitmap]) -> None:
        """Make these bitmaps, or change them: all or none. Safe to repeat.

        Persistent ones are stored when an image that is open for writing is closed
        or reopened read-only.
        """

    async def remove_bitmaps(self, image: LiveImage, names: Sequence[str]) -> None:
        """Remove bitmaps of an image; one that is not there is no error."""

    async def complete(self, job: str) -> None:
        """Vote: ask a READY job to end. It then goes to PENDING."""

    async def finalize(self, job: str) -> None:
        """Let a PENDING job change the graph."""

    async def cancel(self, job: str) -> None:
        """Ask a job to end without any effect; look at `jobs` for its end."""

    async def resume(self, job: str) -> None:
        """Let a job go on that stopped after an I/O error."""

    async def dismiss(self, job: str) -> None:
        """Forget a concluded job."""

    async def drop(self, images: Sequence[LiveImage]) -> None:
        """Close images that nothing in the graph uses any more, top first."""

    async def stop(self) -> None:
        """Hold the guest. Returns when its I/O is drained and flushed."""

    async def cont(self) -> None:
        """Let the guest go on."""

    async def switch_to_overlays(
        self, overlays: Sequence[tuple[OverlayPlan, LiveImage]]
    ) -> None:
        """Put an overlay on each active image, in one transaction.

        Bitmaps that are recording go on in the overlay under their names, with all
        that they have noted: an incremental backup needs the active image only.
        """

    async def wait(self, seconds: float) -> None:
        """Return at the next event of QEMU, or after that time."""

    async def quit(self) -> None:
        """Helper only: end the QEMU."""

    async def close(self) -> None:
        """Leave the monitor to others."""


class Hypervisor(Protocol):
    """Living QEMUs: the domain's own and our helpers."""

    async def attach(self, monitor: str) -> Session | None:
        """Connect to a domain's monitor; None when nobody listens there.

        Raises `MonitorBusy` when it accepts but does not greet.
        """

    def helper_socket(self, run: str) -> str:
        """A new private socket path for a helper of this run."""

    async def start_helper(self, socket: str) -> HelperRecord:
        """Start a paused QEMU that has opened nothing yet.

        It outlives the engine, and ends by itself only when told to.
        """

    async def attach_helper(self, record: HelperRecord) -> Session | None:
        """Connect to a helper; None when that very process is gone."""

    async def end_helper(self, socket: str, record: HelperRecord | None) -> None:
        """End the helper behind a socket, if it is ours and alive; wait for its end."""


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the header of one image says (`qemu-img info` of that image alone).

    ``keeps_bitmaps`` says whether its format can hold persistent bitmaps. ``data_file``
    is the name of an external data file as it is written there, ``data`` the file
    itself if that name may be trusted.
    """

    path: str
    format: str
    file: FileId
    virtual_size: int
    backing: str | None
    backing_format: str | None
    backing_path: str | None
    corrupt: bool = False
    internal_snapshots: tuple[str, ...] = ()
    bitmaps: tuple[Bitmap, ...] = ()
    keeps_bitmaps: bool = False
    data_file: str | None = None
    encrypted: bool = False
    data: DataFile | None = None


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of an image, in bytes: ``allocated`` in this image, ``data`` or zero."""

    start: int
    length: int
    allocated: bool
    data: bool


@dataclass(frozen=True, slots=True)
class ImageUser:
    """A process that has an image open or locked, or names it on its command line.

    ``holds`` is False when it only names it: a QEMU that has pivoted names the old
    overlay for ever.
    """

    pid: int | None
    what: str
    holds: bool = True


class Images(Protocol):
    """Image files and the directories that they are in.

    ``secret`` is the path of the file with the key of an encrypted image; whatever
    reads more than its header needs it.
    """

    async def header(self, path: str, format: str) -> ImageHeader:
        """Read one image's header, never probing. `CommandFailed` when unreadable."""

    async def extents(
        self, path: str, format: str, secret: str | None = None
    ) -> Sequence[Extent]:
        """What an image itself holds (the images below do not count)."""

    async def check(
        self, path: str, format: str, secret: str | None = None
    ) -> str | None:
        """`qemu-img check`: None when sound, else what is wrong with it."""

    async def create_overlay(self, plan: OverlayPlan) -> None:
        """Make an empty overlay like the image below, durable with its directory."""

    async def continue_bitmaps(self, plan: OverlayPlan) -> None:
        """Let bitmaps that are recording go on in an overlay that nobody has open.

        As `Session.switch_to_overlays` does in a living QEMU. Durable, and safe to
        repeat.
        """

    async def relink(
        self, image: Image, backing: str | None, backing_format: str | None
    ) -> None:
        """Change the link in an image's header while nobody has it open, durably.

        ``backing`` is None for an image that is to be based on nothing any more.
        """

    async def is_empty(self, path: str, format: str, secret: str | None = None) -> bool:
        """Whether an overlay holds no data of its own."""

    def identify(self, path: str) -> FileId | None:
        """Device and inode behind a path (links followed); None when missing."""

    def stamp(self, path: str) -> FileStamp | None:
        """Size and modification time; `DEVICE_STAMP` for a device, None if missing."""

    def fence_name(self, path: str, run: str) -> str:
        """The name that an image gets when it is fenced, in its real directory."""

    def fence_obstacle(self, path: str, run: str) -> str | None:
        """Why an image could not be fenced, found without writing; None when it can."""

    async def probe_fence(self, path: str, run: str) -> None:
        """Create, rename and remove a file beside the image. `CommandFailed`."""

    async def rename(self, old: str, new: str, file: FileId) -> None:
        """Rename exactly that file, never over another one, and sync the directory.

        Does nothing when it already has the new name. `CommandFailed` otherwise.
        """

    async def unlink(self, path: str, file: FileId) -> None:
        """Remove exactly that file if nobody has it locked, and sync the directory.

        Does nothing when it is gone. `CommandFailed` when it is another file or used.
        """

    async def sync(self, paths: Sequence[str]) -> None:
        """Fsync files, so that what anybody wrote into them survives a power cut."""

    async def free_bytes(
        self, path: str, format: str, secret: str | None = None
    ) -> tuple[int, int]:
        """Bytes by which an image can grow, and the number of the device they are on.

        Those of its file system, or of its block device behind the image's end.
        """

    async def users(self, path: str) -> Sequence[ImageUser]:
        """Other processes that have this image, our own helpers included."""

    async def dependents(
        self, folders: Sequence[str]
    ) -> Mapping[FileId, Sequence[str]]:
        """Images in these folders, by each image that their headers name.

        As their backing image, or as the file that holds their data.
        """


class Definitions(Protocol):
    """Where domains are defined: told in the transition's own transaction."""

    def apply(self, db: Database, change: CatalogChange) -> None:
        """Record that a snapshot is folded away, compare-and-set; safe to repeat."""


@dataclass(frozen=True, slots=True)
class HookCall:
    """What the owner of a domain's definition is told, whole, in one call.

    ``disks`` are the images that the definition has to name from now on, whatever
    ``call`` is: to write them is always right, and safe to repeat. ``call`` is
    ``switch`` when they may have changed, and ``prepare`` while they have not:
    ``planned`` are then those that the next switch is to bring, and the owner says
    whether it could write them. ``hook`` is the domain's executable, None for a
    program's own. ``again``: an engine that died may have left a call unfinished.
    """

    call: str
    run: str
    machine: str
    domain: str
    disks: tuple[Disk, ...]
    planned: tuple[Disk, ...] = ()
    hook: str | None = None
    again: bool = False


class DefinitionHook(Protocol):
    """The way to whoever owns the definition of a domain outside of the journal."""

    @property
    def is_program(self) -> bool:
        """Whether every domain is told of, by the program around this engine.

        Otherwise those that have an executable recorded.
        """

    def obstacle(self, hook: str) -> str | None:
        """Why this executable could not be called; None when it can. Only reads."""

    async def call(self, call: HookCall) -> str:
        """Call the owner, within bounds of time and output; returns what it said.

        Returns when it has succeeded. Raises `CommandFailed`. Cancelled, it leaves
        nothing running.
        """

    async def end_former(self, run: str) -> None:
        """End what an engine that died left running of a run's calls.

        Raises `CommandFailed` when something does not end.
        """


class Clock(Protocol):
    """Time and chance."""

    def now(self) -> str:
        """The time of day: UTC, ISO 8601, with microseconds."""

    def monotonic(self) -> float:
        """Seconds that only go up."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def new_id(self) -> str:
        """A new run's id: 12 hex digits."""

    def boot_id(self) -> str:
        """Names this boot of the host; pids and device numbers are of one boot."""


class Guard(Protocol):
    """A process that lets the guest go on when this engine dies during a hold."""

    async def start(self, watch: Watch) -> None:
        """Returns when the guard watches over this hold. `CommandFailed`."""

    async def dismiss(self) -> None:
        """The hold is over."""

    async def take_over(self) -> None:
        """This engine cannot end its hold: the guard is to do it now."""


class Probe(Protocol):
    """Told by the runner before and after each effect; tests kill in it."""

    def reached(self, machine: str, state: str, step: str, moment: str) -> None:
        """A moment of a step has come."""


class Planner(Protocol):
    """Facts into plans."""

    async def plan(
        self,
        run: str,
        domain: str,
        snapshot: str,
        options: Options,
        earlier: int | None = None,
    ) -> Plan:
        """Read the world once, check everything, and plan; changes nothing.

        ``run`` names jobs and fences; a run's own jobs and helper are no obstacle.
        ``earlier`` is the number of folds in the passes before this one; None in the
        first pass. Raises `Refused` with all reasons at once.
        """
