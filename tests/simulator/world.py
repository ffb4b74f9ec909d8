"""One host: its clock, its files, its QEMUs, a guest that writes, and the books.

A world is a value: `World.copy` is a whole host at one instant, so that a kill is a
copy and nothing has to be run again.
"""

from __future__ import annotations

import os.path
import random
from collections.abc import Mapping
from typing import Final

from backfold.journal.model import FileId
from backfold.states.watch import Watch

from .bitmaps import Dirt
from .files import CLUSTER, Files, Header
from .qemu import Node, Qemu

MONITOR: Final = "/run/web.sock"
#: Clusters of a disk; the guest writes them one after the other.
CLUSTERS: Final = 5
MILLISECOND: Final = 1_000_000
#: The bitmap that backups use, if they do.
BITMAP: Final = "nightly"
#: What a disk holds: cluster to value, 0 where nothing was written.
Content = dict[int, int]


class World:
    """Everything outside of the journal and the engines."""

    def __init__(self) -> None:
        """A host without images, in its first boot."""
        self.files = Files()
        self.qemus: dict[int, Qemu] = {}
        self.now = 1_700_000_000 * 1_000_000_000
        self.boot = 1
        #: The last value of each cluster that the guest got an acknowledgement for.
        self.acknowledged: dict[str, Content] = {}
        #: What each snapshot holds for each disk.
        self.frozen: dict[str, dict[str, Content]] = {}
        #: What the guest had written when the last snapshot was taken.
        self.switched: dict[str, Content] = {}
        self.writes = 0
        #: Clusters written since a backup made its bitmap, by disk; None: it has not.
        self.noted: dict[str, set[int]] | None = None
        #: The run state that the operator left the domain in; ``off`` for none.
        self.wanted = "off"
        #: An operator stopped it in a hold: whose `stop` came last is not to be told.
        self.may_stand = False
        #: An operator wants what is open to be rolled back.
        self.wants_back = False
        #: Started again by hand while an engine was at work.
        self.restarted = False
        #: A name says nothing to whoever has no journal: the domain was started from a
        #: fenced one, or a fence under a restarted QEMU outlived a power cut.
        self.fence_is_void = False
        #: The QEMU in which a job was completed by hand: it alone can prove that.
        self.completed_in: int | None = None
        self.unproved = False
        #: The snapshot that disks are about to be reverted to.
        self.back_to: str | None = None
        #: Started by hand while a revert was at work, from the former images.
        self.on_former = False
        #: What the owner of the domain's definition has written last (path, format);
        #: None when nobody owns it. A broken one fails in every call.
        self.definition: dict[str, tuple[str, str]] | None = None
        self.owner_is_broken = False
        #: Names of files were changed by hand.
        self.meddled = False
        #: Whether the storage is full, and whether it fails.
        self.full = False
        self.broken = False
        #: Whose hold a guard watches over.
        self.guarded: Watch | None = None
        self._next_pid = 1000
        self._ids = 0

    def copy(self) -> World:
        """The same host once more; nobody is connected to its QEMUs."""
        other = World.__new__(World)
        other.__dict__.update(self.__dict__)
        other.files = self.files.copy()
        other.qemus = {pid: qemu.copy() for pid, qemu in self.qemus.items()}
        other.acknowledged = {t: c.copy() for t, c in self.acknowledged.items()}
        other.frozen = self.frozen.copy()
        if self.definition is not None:
            other.definition = self.definition.copy()
        if self.noted is not None:
            other.noted = {target: c.copy() for target, c in self.noted.items()}
        return other

    # Time

    @property
    def boot_id(self) -> str:
        """Names this boot."""
        return f"boot-{self.boot}"

    def tick(self, nanoseconds: int = MILLISECOND) -> None:
        """Time passes: the guest writes once, every job works a little."""
        self.now += nanoseconds
        domain = self.domain
        if domain is not None and domain.run_state == "running":
            self._guest_goes_on(domain)
        for qemu in self.qemus.values():
            if qemu.tasks:
                qemu.work(self.files, self.now, self.full, self.broken)

    def new_id(self) -> str:
        """The next run's id."""
        self._ids += 1
        return f"{self._ids:012x}"

    # Processes

    @property
    def domain(self) -> Qemu | None:
        """The domain's QEMU, if it lives."""
        return self.listening(MONITOR)

    def listening(self, socket: str) -> Qemu | None:
        """The QEMU that listens on a socket."""
        for qemu in self.qemus.values():
            if qemu.monitor == socket:
                return qemu
        return None

    def spawn(self, socket: str, *, helper: bool) -> Qemu:
        """Start a QEMU that has opened nothing yet."""
        qemu = Qemu(self._next_pid, self.now / 1e9, self.boot_id, socket, helper)
        self._next_pid += 1
        self.qemus[qemu.pid] = qemu
        return qemu

    def kill(self, qemu: Qemu) -> None:
        """SIGKILL: what it had in memory only is gone."""
        self.qemus.pop(qemu.pid, None)

    def quit(self, qemu: Qemu) -> None:
        """A clean exit: everything is flushed, every job is cancelled."""
        qemu.flush_all(self.files, self.now)
        for node in qemu.nodes.values():
            qemu.set_read_only(self.files, node, True)
        self.kill(qemu)

    def power_cut(self, keep: random.Random | None) -> None:
        """The power goes and comes back: another boot, no process is left."""
        self.qemus.clear()
        self.guarded = None
        self.files.cut(keep)
        self.boot += 1

    def boot_domain(self, sources: Mapping[str, tuple[str, str]]) -> str | None:
        """Start the domain from these images (path, format); why not, if it fails."""
        if self.domain is not None:
            return "it runs already"
        qemu = self.spawn(MONITOR, helper=False)
        for target, (path, format) in sources.items():
            root = self.open(qemu, path, format, writable=True)
            if root is None:
                self.kill(qemu)
                return f"{path} cannot be opened"
            qemu.devices[target] = root
        qemu.run_state = "running" if self.wanted == "running" else "paused"
        return None

    def open(self, qemu: Qemu, path: str, format: str, *, writable: bool) -> str | None:
        """Open an image and those below it, by their headers; the root's node."""
        file = self.files.file(path)
        if (
            file is None
            or file.header is None
            or self.locks(file.inode, qemu, writable)
        ):
            return None
        below = None
        if file.header.backing is not None:
            below = self.open(
                qemu,
                self.backing_path(path, file.header) or "",
                file.header.backing_format or "raw",
                writable=False,
            )
            if below is None:
                return None
        name = f"n{file.inode}"
        node = Node(name, path, file.inode, format, below, not writable)
        qemu.open(self.files, node)
        return name

    def locks(self, inode: int, but: Qemu | None, writable: bool) -> Qemu | None:
        """Another QEMU that forbids to open this file."""
        for qemu in self.qemus.values():
            if qemu is not but:
                for node in qemu.has(inode):
                    if writable or not node.read_only:
                        return qemu
        return None

    # Content

    def file_id(self, path: str) -> FileId | None:
        """Device and inode behind a path."""
        number = self.files.names.get(path)
        return None if number is None else FileId(self.files.device, number)

    @staticmethod
    def backing_path(path: str, header: Header) -> str | None:
        """The image below, as QEMU reads the name in a header."""
        if header.backing is None:
            return None
        return os.path.normpath(os.path.join(os.path.dirname(path), header.backing))

    def content(self, path: str, clusters: int = CLUSTERS) -> Content | None:
        """What a guest would read if it were booted from there; None if it cannot."""
        found: Content = {}
        seen: set[int] = set()
        name: str | None = path
        while name is not None:
            file = self.files.file(name)
            if file is None or file.header is None or file.inode in seen:
                return None
            seen.add(file.inode)
            for cluster, value in file.clusters.items():
                found.setdefault(cluster, value)
            name = self.backing_path(name, file.header)
        return {cluster: found.get(cluster, 0) for cluster in range(clusters)}

    def begin_backups(self) -> None:
        """A backup program makes a bitmap of each disk of the living domain."""
        assert self.domain is not None
        self.noted = {target: set() for target in self.domain.devices}
        for root in self.domain.devices.values():
            self.domain.nodes[root].bitmaps[BITMAP] = Dirt()

    def seen_by_guest(self, target: str) -> Content | None:
        """What the living guest reads from a disk; None when it does not live."""
        qemu = self.domain
        if qemu is None or target not in qemu.devices:
            return None
        root = qemu.devices[target]
        return {c: qemu.read(self.files, root, c) for c in range(CLUSTERS)}

    def guest_writes(self, qemu: Qemu, target: str, cluster: int) -> None:
        """One write of the guest, in the books once it is acknowledged."""
        value = self.writes + 1
        self.now += MILLISECOND
        if qemu.guest_write(self.files, target, cluster, value, self.now):
            self.writes = value
            self.acknowledged[target][cluster] = value
            if self.noted is not None:
                self.noted[target].add(cluster)

    def _guest_goes_on(self, qemu: Qemu) -> None:
        """It writes to one disk after the other, one cluster after the other."""
        targets = list(qemu.devices)
        target = targets[self.writes % len(targets)]
        self.guest_writes(qemu, target, self.writes // len(targets) % CLUSTERS)


def new_image(
    world: World, path: str, format: str = "qcow2", size: int = CLUSTERS * CLUSTER
) -> None:
    """A durable image without a backing image."""
    file = world.files.create(path, format, Header(size), world.now)
    file.sync()
    world.files.sync_names()
