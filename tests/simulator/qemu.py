"""A QEMU process: its block graph, its jobs, and what it keeps in memory.

Behaviour is that of QEMU 7.2 as it was measured: an active commit drains its disk in
PENDING, a soft cancel ends like success, a link is rewritten before what an
intermediate commit or a stream copied is flushed, a base stays writable after the
cancel of an active commit, and QEMU crashes when the image that is to be relinked was
not writable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from .bitmaps import Dirts, copied, mark_in_use, opened, store
from .files import Files

#: Clusters that a job copies at a time.
STRIDE = 2
#: Bytes that a cluster counts in a job: few clusters must be able to be too much.
WEIGHT = 4 << 20


class Crash(Exception):
    """QEMU ends by a signal."""


class No(Exception):
    """QEMU answers with an error."""


@dataclass(slots=True)
class Node:
    """An image that is open. ``memory`` is what its file does not show yet.

    Clusters that QEMU has written lie in the file; the tables that lead to them are
    in QEMU's memory until it flushes. So they are lost when it is killed.
    """

    name: str
    filename: str
    inode: int
    format: str
    below: str | None
    read_only: bool
    memory: dict[int, int] = field(default_factory=dict)
    bitmaps: Dirts = field(default_factory=dict)


@dataclass(slots=True)
class Task:
    """A block job. ``todo`` are the clusters that are still to copy.

    ``top`` and ``base`` are the highest and the lowest of the layers that become one,
    whichever way they are copied.
    """

    kind: str
    id: str
    device: str
    top: str
    base: str
    above: str | None
    link: str | None
    todo: set[int] = field(default_factory=set)
    was_read_only: bool = False
    slow: bool = False
    status: str = "running"
    done: int = 0
    completing: bool = False
    soft_cancelled: bool = False
    error: str | None = None
    stuck: str | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the data goes up."""
        return self.kind == "stream"

    @property
    def is_active(self) -> bool:
        """Whether it is a commit of what the guest writes to."""
        return not self.is_stream and self.above is None

    @property
    def survivor(self) -> str:
        """The node that it writes into."""
        return self.top if self.is_stream else self.base

    @property
    def filter(self) -> str:
        """The node that the job puts above its top."""
        return f"#{self.id}"

    @property
    def has_filter(self) -> bool:
        """Whether that node is there."""
        return self.status != "concluded"

    @property
    def total(self) -> int:
        """Bytes copied and still to copy."""
        return self.done + len(self.todo) * WEIGHT

    @property
    def is_drained(self) -> bool:
        """Whether the guest's requests wait for this job."""
        return self.is_active and self.status == "pending"


class Qemu:
    """One process. Files are those of the world that it runs in."""

    def __init__(
        self, pid: int, started: float, boot_id: str, monitor: str, helper: bool
    ) -> None:
        """A QEMU without images, not running yet."""
        self.pid = pid
        self.started = started
        self.boot_id = boot_id
        self.monitor = monitor
        self.is_helper = helper
        self.run_state = "prelaunch"
        self.nodes: dict[str, Node] = {}
        self.devices: dict[str, str] = {}
        self.tasks: dict[str, Task] = {}
        self.client: object | None = None

    def copy(self) -> Qemu:
        """A copy that shares nothing that can change; nobody is connected to it."""
        other = Qemu(self.pid, self.started, self.boot_id, self.monitor, self.is_helper)
        other.run_state = self.run_state
        other.nodes = {
            name: replace(node, memory=node.memory.copy(), bitmaps=copied(node.bitmaps))
            for name, node in self.nodes.items()
        }
        other.devices = self.devices.copy()
        other.tasks = {
            name: replace(task, todo=task.todo.copy())
            for name, task in self.tasks.items()
        }
        return other

    @property
    def process(self) -> str:
        """Boot, pid and start time: no other process has all three."""
        return f"{self.boot_id}:{self.pid}@{self.started}"

    def open(self, files: Files, node: Node) -> None:
        """Open an image that is not open yet."""
        self.nodes[node.name] = node
        file = files.inodes[node.inode]
        node.bitmaps = opened(file)
        if not node.read_only:
            mark_in_use(file)

    def set_read_only(self, files: Files, node: Node, value: bool) -> None:
        """Reopen an image; its bitmaps are stored, or marked as in use."""
        if node.read_only == value:
            return
        node.read_only = value
        file = files.inodes[node.inode]
        if value:
            store(file, node.bitmaps)
        else:
            mark_in_use(file)

    def chain(self, name: str | None) -> Iterator[Node]:
        """A node and those below it."""
        while name is not None:
            yield self.nodes[name]
            name = self.nodes[name].below

    def has(self, inode: int) -> list[Node]:
        """The nodes of a file."""
        return [node for node in self.nodes.values() if node.inode == inode]

    def read(self, files: Files, root: str, cluster: int) -> int:
        """What a guest reads through a node; 0 where nobody has written."""
        for node in self.chain(root):
            if cluster in node.memory:
                return node.memory[cluster]
            if cluster in (found := files.inodes[node.inode].clusters):
                return found[cluster]
        return 0

    def guest_write(
        self, files: Files, device: str, cluster: int, value: int, now: int
    ) -> bool:
        """A write that the guest waits for; True when it was acknowledged.

        The guest writes through: QEMU flushes before it acknowledges.
        """
        root = self.devices[device]
        tasks = [task for task in self.tasks.values() if task.top == root]
        if self.run_state != "running" or any(task.is_drained for task in tasks):
            return False
        self._put(files, root, cluster, value, now)
        self.flush(files, root, now)
        for task in tasks:
            if task.is_active and task.status in ("running", "ready"):
                task.todo.add(cluster)
        return True

    def flush(self, files: Files, name: str, now: int) -> None:
        """Write the tables of an image and flush its file."""
        node = self.nodes[name]
        file = files.inodes[node.inode]
        if node.memory:
            file.clusters.update(node.memory)
            file.mtime = now
            node.memory = {}
        file.flush()

    def flush_all(self, files: Files, now: int) -> None:
        """As `stop` and a clean exit do."""
        for name, node in self.nodes.items():
            if not node.read_only:
                self.flush(files, name, now)

    def stop(self, files: Files, now: int) -> None:
        """Drain, flush, and hold the guest."""
        if self.run_state == "running":
            self.run_state = "paused"
        self.flush_all(files, now)

    # Jobs

    def start(self, files: Files, task: Task) -> None:
        """`block-commit` or `block-stream`; only the latter dismisses itself."""
        if task.id in self.tasks:
            raise No(f"block-{task.kind}: Job ID '{task.id}' already in use")
        if any(o.has_filter and o.top == task.top for o in self.tasks.values()):
            raise No(f"block-{task.kind}: Node '{task.top}' is busy")
        task.todo = self._held(files, task)
        target = self.nodes[task.survivor]
        task.was_read_only = target.read_only
        self.set_read_only(files, target, False)
        self.tasks[task.id] = task

    def work(self, files: Files, now: int, full: bool, broken: bool) -> None:
        """A moment passes for every job; ``full`` and ``broken`` are I/O errors."""
        for task in list(self.tasks.values()):
            if task.status == "aborting":
                self._conclude(files, task, now)
                continue
            if task.status == "concluded" and not task.is_active:
                self._restore_read_only(files, task, now)
            if task.status not in ("running", "ready") or task.stuck:
                continue
            if task.todo and (full or broken):
                task.stuck = "nospace" if full else "failed"
                continue
            self._copy(files, task, now)
            if task.todo:
                continue
            if not task.is_active:
                task.status = "pending"
            elif task.completing:
                self.flush(files, task.base, now)
                task.status = "pending"
            elif task.status == "running":
                self.flush(files, task.base, now)
                task.status = "ready"

    def complete(self, job: str, *, soft_cancel: bool = False) -> None:
        """`job-complete`, or a soft `block-job-cancel`, of a READY job."""
        task = self._task(job)
        if task.status != "ready" or task.completing:
            raise No(f"job-complete: Job '{job}' in state '{task.status}'")
        task.completing = True
        task.soft_cancelled = soft_cancel

    def finalize(self, files: Files, job: str, now: int) -> None:
        """`job-finalize`: change the graph, and the link of the relinked image."""
        task = self._task(job)
        if task.status != "pending":
            raise No(f"job-finalize: Job '{job}' in state '{task.status}'")
        if task.is_active:
            self._conclude(files, task, now)
            if not task.soft_cancelled and task.device:
                self.devices[task.device] = task.base
            return
        below = self.nodes[task.base].below if task.is_stream else task.base
        relinked = self.nodes[(task.top if task.is_stream else task.above) or ""]
        if relinked.read_only:
            raise Crash
        file = files.inodes[relinked.inode]
        assert file.header is not None
        file.header = replace(
            file.header,
            backing=None if below is None else task.link,
            backing_format=None if below is None else self.nodes[below].format,
        )
        file.mtime = now
        relinked.below = below
        self._conclude(files, task, now)

    def cancel(self, job: str) -> None:
        """`job-cancel`, allowed in PENDING too. The base stays writable."""
        task = self._task(job)
        if task.status in ("aborting", "concluded"):
            raise No(f"job-cancel: Job '{job}' in state '{task.status}'")
        task.status, task.error = "aborting", "Operation canceled"
        task.stuck = None

    def _conclude(self, files: Files, task: Task, now: int) -> None:
        task.status = "concluded"
        if task.is_stream:
            self._restore_read_only(files, task, now)
            del self.tasks[task.id]

    def _restore_read_only(self, files: Files, task: Task, now: int) -> None:
        target = self.nodes[task.survivor]
        if task.was_read_only and not target.read_only:
            self.flush(files, target.name, now)
            self.set_read_only(files, target, True)

    def resume(self, job: str) -> None:
        """`job-resume` after an I/O error."""
        task = self._task(job)
        if task.stuck is None:
            raise No(f"job-resume: Job '{job}' was not paused")
        task.stuck = None

    def dismiss(self, job: str) -> None:
        """`job-dismiss`."""
        if self._task(job).status != "concluded":
            raise No(f"job-dismiss: Job '{job}' is not concluded")
        del self.tasks[job]

    def drop(self, files: Files, name: str, now: int) -> None:
        """`blockdev-del`, of a node that nothing uses."""
        used = name in self.devices.values() or any(
            node.below == name for node in self.nodes.values()
        )
        if used or any(
            task.has_filter and name in (task.top, task.base)
            for task in self.tasks.values()
        ):
            raise No(f"Node {name} is in use")
        if not self.nodes[name].read_only:
            self.flush(files, name, now)
            self.set_read_only(files, self.nodes[name], True)
        del self.nodes[name]

    def _task(self, job: str) -> Task:
        if job not in self.tasks:
            raise No(f"Job not found: {job}")
        return self.tasks[job]

    def _held(self, files: Files, task: Task) -> set[int]:
        """What the layers hold, other than the survivor."""
        held: set[int] = set()
        for node in self.chain(task.top):
            if node.name != task.survivor:
                held |= self._own(files, node)
            if node.name == task.base:
                break
        return held - self._own(files, self.nodes[task.top]) if task.is_stream else held

    @staticmethod
    def _own(files: Files, node: Node) -> set[int]:
        return files.inodes[node.inode].clusters.keys() | node.memory.keys()

    def _copy(self, files: Files, task: Task, now: int) -> None:
        top = self.nodes[task.top]
        for cluster in sorted(task.todo)[: 0 if task.slow else STRIDE]:
            # The guest may have written meanwhile what a stream was about to copy.
            if not task.is_stream or cluster not in self._own(files, top):
                value = self.read(files, task.top, cluster)
                self._put(
                    files, task.survivor, cluster, value, now, noted=not task.is_stream
                )
            task.todo.discard(cluster)
            task.done += WEIGHT

    def _put(
        self,
        files: Files,
        name: str,
        cluster: int,
        value: int,
        now: int,
        *,
        noted: bool = True,
    ) -> None:
        """Write a cluster: one that is not allocated yet needs new tables.

        Bitmaps note it, unless a stream copies it.
        """
        node = self.nodes[name]
        file = files.inodes[node.inode]
        file.mtime = now
        for dirt in node.bitmaps.values():
            if noted and dirt.recording and not dirt.inconsistent:
                dirt.clusters.add(cluster)
        if cluster in file.clusters or file.format == "raw":
            file.clusters[cluster] = value
        else:
            node.memory[cluster] = value
