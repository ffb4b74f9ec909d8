"""The `Hypervisor` and `Session` ports over simulated QEMUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from backfold.journal.errors import CommandFailed, Disconnected, MonitorBusy
from backfold.journal.model import FoldPlan, Image, OverlayPlan
from backfold.states.ports import (
    Bitmap,
    HelperRecord,
    Job,
    LiveChain,
    LiveImage,
    MergedBitmap,
)

from .bitmaps import Dirt
from .files import File
from .life import Life
from .qemu import Crash, No, Node, Qemu, Task
from .world import World

T = TypeVar("T")


class SimHypervisor:
    """QEMUs of one world, as one engine sees them."""

    def __init__(self, world: World, life: Life) -> None:
        """Ports of the engine that ``life`` belongs to."""
        self._world = world
        self._life = life
        self._sockets = 0

    async def attach(self, monitor: str) -> SimSession | None:
        """Connect, if somebody listens; a monitor serves one client at a time."""
        self._life.at("attach")
        qemu = self._world.listening(monitor)
        if qemu is None:
            return None
        if qemu.client is not None:
            raise MonitorBusy(f"The monitor {monitor} does not greet.")
        session = SimSession(self._world, self._life, qemu)
        qemu.client = session
        return session

    def helper_socket(self, run: str) -> str:
        """A new path each time."""
        self._life.check()
        self._sockets += 1
        return f"/run/backfold/{run}-{self._world.now}-{self._sockets}/monitor"

    async def start_helper(self, socket: str) -> HelperRecord:
        """A QEMU that has opened nothing yet."""
        self._life.at("start_helper")
        qemu = self._world.spawn(socket, helper=True)
        self._life.at("start_helper done")
        return HelperRecord(socket, qemu.pid, qemu.started, qemu.boot_id)

    async def attach_helper(self, record: HelperRecord) -> SimSession | None:
        """Connect to that very process."""
        self._life.at("attach_helper")
        qemu = self._world.qemus.get(record.pid)
        if qemu is None or (qemu.started, qemu.boot_id, qemu.monitor) != (
            record.start_time,
            record.boot_id,
            record.socket,
        ):
            return None
        if qemu.client is not None:
            raise MonitorBusy(f"The monitor {record.socket} does not greet.")
        session = SimSession(self._world, self._life, qemu)
        qemu.client = session
        return session

    async def end_helper(self, socket: str, record: HelperRecord | None) -> None:
        """End what listens there, if it is a helper."""
        self._life.at("end_helper")
        qemu = self._world.listening(socket)
        if qemu is not None and qemu.is_helper:
            self._world.quit(qemu)
        self._life.at("end_helper done")


class SimSession:
    """One connection to one simulated QEMU."""

    def __init__(self, world: World, life: Life, qemu: Qemu) -> None:
        """Connected."""
        self._world = world
        self._life = life
        self._qemu = qemu

    @property
    def is_helper(self) -> bool:
        """Whether this QEMU was started by Backfold."""
        return self._qemu.is_helper

    @property
    def process(self) -> str:
        """Which process this is: boot, pid and start time."""
        return self._qemu.process

    async def run_state(self) -> str:
        """QEMU's run state."""
        return self._ask("run_state", lambda: self._qemu.run_state)

    async def chains(self, aliases: Mapping[str, str]) -> tuple[LiveChain, ...]:
        """Every device's chain; in a helper every root's."""
        return self._ask("chains", lambda: self._chains(aliases))

    async def open_images(self, aliases: Mapping[str, str]) -> tuple[LiveImage, ...]:
        """Every image that is open."""
        return self._ask(
            "open_images",
            lambda: tuple(self._live(n, aliases) for n in self._qemu.nodes.values()),
        )

    async def jobs(self) -> Mapping[str, Job]:
        """Every job, by id."""

        def look() -> dict[str, Job]:
            return {name: _job(task) for name, task in self._qemu.tasks.items()}

        return self._ask("jobs", look)

    async def exports(self) -> frozenset[str]:
        """Nothing is exported here."""
        return self._ask("exports", frozenset[str])

    async def open_chain(self, chain: Sequence[Image], writable: frozenset[str]) -> str:
        """Helper only: open a chain, by its headers, and read it back."""

        def open_it() -> str:
            self._helper_only("open_chain")
            for image in chain:
                found = self._world.file_id(image.path)
                if found is None:
                    raise No(f"cannot open {image.path}: missing")
                if found != image.file:
                    raise No(f"{image.path} is another file")
            root: str | None = None
            for image in reversed(chain):
                root = self._open(image, root, image.path in writable)
            assert root is not None
            return root

        return self._do("open_chain", open_it)

    async def start(
        self, fold: FoldPlan, chain: LiveChain, bandwidth: int | None
    ) -> None:
        """Start the job of a fold."""
        top, base = _node_of(chain, fold.top), _node_of(chain, fold.base)
        above = None
        if fold.above is not None and not fold.is_stream:
            above = _node_of(chain, fold.above)
        device = "" if self.is_helper else chain.device

        def start() -> None:
            task = Task(
                fold.strategy,
                fold.job,
                device,
                top,
                base,
                above,
                fold.link,
                slow=bandwidth is not None and bandwidth < 1 << 10,
            )
            self._qemu.start(self._world.files, task)

        self._do("start", start)

    async def set_writable(self, image: LiveImage, writable: bool) -> None:
        """Reopen an image; what was written is flushed when it turns read-only."""

        def reopen() -> None:
            node = self._node(image)
            if not node.read_only and not writable:
                self._qemu.flush(self._world.files, node.name, self._world.now)
            other = self._world.locks(node.inode, self._qemu, writable)
            if other is not None:
                raise No(f"{node.filename} is locked by pid {other.pid}")
            self._qemu.set_read_only(self._world.files, node, not writable)

        self._do("set_writable", reopen)

    async def flush(self, image: LiveImage) -> None:
        """Make durable what QEMU has written into an image."""

        def flush() -> None:
            if self._world.broken:
                raise No(f"cannot flush {image.filename}: Input/output error")
            node = self._node(image)
            self._qemu.flush(self._world.files, node.name, self._world.now)
            self._world.files.inodes[node.inode].sync()

        self._do("flush", flush)

    async def bitmaps(
        self, images: Sequence[LiveImage]
    ) -> tuple[tuple[Bitmap, ...], ...]:
        """The dirty bitmaps of each of these images; no moment where none has any."""
        if not any(node.bitmaps for node in self._qemu.nodes.values()):
            self._connected()
            return tuple(() for _ in images)

        def look() -> tuple[tuple[Bitmap, ...], ...]:
            found = [self._node(image).bitmaps.items() for image in images]
            return tuple(tuple(d.shown(n) for n, d in items) for items in found)

        return self._ask("bitmaps", look)

    async def merge_bitmaps(self, wanted: Sequence[MergedBitmap]) -> None:
        """All or none: what is refused is found before anything is changed."""

        def merge() -> None:
            made: dict[tuple[str, str], Dirt] = {}
            for one in wanted:
                self._merge(one, made)
            for (node, name), dirt in made.items():
                self._qemu.nodes[node].bitmaps[name] = dirt

        self._do("merge_bitmaps", merge)

    async def remove_bitmaps(self, image: LiveImage, names: Sequence[str]) -> None:
        """One that is not there is no error."""

        def remove() -> None:
            for name in names:
                self._node(image).bitmaps.pop(name, None)

        self._do("remove_bitmaps", remove)

    async def complete(self, job: str) -> None:
        """Vote."""
        self._do("complete", lambda: self._qemu.complete(job))

    async def finalize(self, job: str) -> None:
        """Let a PENDING job change the graph. QEMU may crash in it."""
        files, now = self._world.files, self._world.now
        self._do("finalize", lambda: self._qemu.finalize(files, job, now))

    async def cancel(self, job: str) -> None:
        """Ask a job to end without any effect."""
        self._do("cancel", lambda: self._qemu.cancel(job))

    async def resume(self, job: str) -> None:
        """Let a job go on that stopped after an I/O error."""
        self._do("resume", lambda: self._qemu.resume(job))

    async def dismiss(self, job: str) -> None:
        """Forget a concluded job."""
        self._do("dismiss", lambda: self._qemu.dismiss(job))

    async def drop(self, images: Sequence[LiveImage]) -> None:
        """Close images that nothing uses any more, top first."""

        def drop() -> None:
            for image in images:
                if image.node in self._qemu.nodes:
                    try:
                        self._qemu.drop(self._world.files, image.node, self._world.now)
                    except No as error:
                        raise No(f"still open in QEMU: {error}") from error

        self._do("drop", drop)

    async def stop(self) -> None:
        """Hold the guest."""
        self._do("stop", lambda: self._qemu.stop(self._world.files, self._world.now))

    async def cont(self) -> None:
        """Let the guest go on."""

        def cont() -> None:
            self._qemu.run_state = "running"

        self._do("cont", cont)

    async def switch_to_overlays(
        self, overlays: Sequence[tuple[OverlayPlan, LiveImage]]
    ) -> None:
        """Put an overlay on each active image: all or none."""

        def switch() -> None:
            self._world.switched = {
                target: content.copy()
                for target, content in self._world.acknowledged.items()
            }
            for plan, _ in overlays:
                if self._world.files.file(plan.overlay) is None:
                    raise No(f"cannot open {plan.overlay}: missing")
            for plan, active in overlays:
                old = self._node(active)
                self._qemu.flush(self._world.files, old.name, self._world.now)
                file = self._world.files.file(plan.overlay)
                assert file is not None
                node = Node(
                    f"n{file.inode}",
                    plan.overlay,
                    file.inode,
                    "qcow2",
                    old.name,
                    False,
                )
                self._qemu.open(self._world.files, node)
                node.bitmaps = {
                    name: dirt.copy()
                    for name, dirt in old.bitmaps.items()
                    if dirt.recording and not dirt.inconsistent
                }
                for device, root in self._qemu.devices.items():
                    if root == old.name:
                        self._qemu.devices[device] = node.name
                self._qemu.set_read_only(self._world.files, old, True)

        self._do("switch_to_overlays", switch)

    async def wait(self, seconds: float) -> None:
        """A moment passes; nobody waits for an event that may not come."""
        self._ask("wait", lambda: None)

    async def quit(self) -> None:
        """Helper only: end the QEMU."""

        def leave() -> None:
            self._helper_only("quit")
            self._world.quit(self._qemu)

        self._life.at("quit")
        self._connected()
        self._answer(leave)

    async def close(self) -> None:
        """Leave the monitor to others."""
        if self._qemu.client is self:
            self._qemu.client = None

    # Calls

    def _connected(self) -> None:
        self._life.check()
        if self._world.qemus.get(self._qemu.pid) is not self._qemu:
            raise Disconnected("QEMU has gone.")
        if self._qemu.client is not self:
            raise Disconnected("The connection has ended.")

    def _answer(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except No as error:
            raise CommandFailed(str(error)) from error
        except Crash as error:
            self._world.kill(self._qemu)
            raise Disconnected("QEMU has crashed.") from error

    def _ask(self, name: str, work: Callable[[], T]) -> T:
        """A call without an effect: one moment, before it."""
        self._life.at(name)
        self._connected()
        self._world.tick()
        return self._answer(work)

    def _do(self, name: str, work: Callable[[], T]) -> T:
        """A call with an effect: two moments, before it and before its answer."""
        self._life.at(name)
        self._connected()
        self._world.tick()
        result = self._answer(work)
        self._life.at(f"{name} done")
        self._connected()
        return result

    # The graph

    def _chains(self, aliases: Mapping[str, str]) -> tuple[LiveChain, ...]:
        if self._qemu.is_helper:
            below = {node.below for node in self._qemu.nodes.values()}
            roots = [("", name) for name in self._qemu.nodes if name not in below]
        else:
            roots = list(self._qemu.devices.items())
        return tuple(self._chain(device, root, aliases) for device, root in roots)

    def _chain(self, device: str, root: str, aliases: Mapping[str, str]) -> LiveChain:
        nodes = list(self._qemu.chain(root))
        names = {node.name for node in nodes}
        filters = tuple(
            task.filter
            for task in self._qemu.tasks.values()
            if task.has_filter and task.top in names
        )
        above = [
            task.filter
            for task in self._qemu.tasks.values()
            if task.has_filter and task.top == root
        ]
        images = tuple(self._live(node, aliases) for node in nodes)
        return LiveChain(device, above[0] if above else root, images, filters)

    def _live(self, node: Node, aliases: Mapping[str, str]) -> LiveImage:
        file = None
        for name in (node.filename, aliases.get(node.filename)):
            found = None if name is None else self._world.file_id(name)
            if found is not None and self._qemu.has(found.inode):
                file = found
                break
        return LiveImage(
            node.name,
            f"{node.name}-file",
            node.filename,
            node.format,
            file,
            node.read_only,
        )

    def _node(self, image: LiveImage) -> Node:
        if image.node not in self._qemu.nodes:
            raise No(f"QEMU has no node {image.node}")
        return self._qemu.nodes[image.node]

    def _open(self, image: Image, below: str | None, writable: bool) -> str:
        """Open one image of a chain in a helper, or find it open."""
        name = f"n{image.file.inode}"
        node = self._qemu.nodes.get(name)
        if self._world.locks(image.file.inode, self._qemu, writable):
            raise No(f"{image.path} is locked by another process")
        if node is not None:
            if writable:
                self._qemu.set_read_only(self._world.files, node, False)
            return name
        file: File = self._world.files.inodes[image.file.inode]
        if file.header is None:
            raise No(f"{image.path} is no image")
        node = Node(name, image.path, file.inode, image.format, below, not writable)
        self._qemu.open(self._world.files, node)
        return name

    def _merge(self, one: MergedBitmap, made: dict[tuple[str, str], Dirt]) -> None:
        node = self._node(one.image)
        key = (node.name, one.name)
        found = made.get(key) or node.bitmaps.get(one.name)
        dirt = found.copy() if found else Dirt(False, one.persistent)
        dirt.granularity = dirt.granularity if found else one.granularity
        if found and node.read_only and found.persistent and (one.parts or one.anew):
            raise No(f"Bitmap {one.name!r} is readonly and cannot be modified")
        if one.anew:
            dirt.clusters.clear()
        for image, name in one.parts:
            other = self._node(image)
            part = made.get((other.name, name)) or other.bitmaps.get(name)
            if part is None:
                raise No(f"Dirty bitmap {name!r} not found")
            if part.inconsistent or dirt.inconsistent:
                raise No(f"Bitmap {name!r} is inconsistent and cannot be used")
            dirt.clusters |= part.clusters
        dirt.recording = one.recording
        made[key] = dirt

    def _helper_only(self, what: str) -> None:
        if not self._qemu.is_helper:
            raise No(f"{what} is for helpers, not for a domain's QEMU")


def _job(task: Task) -> Job:
    status = task.status
    if task.stuck:
        status = {"ready": "standby", "running": "paused"}.get(status, status)
    return Job(
        task.id, task.kind, status, task.done, task.total, task.error, task.stuck
    )


def _node_of(chain: LiveChain, image: Image) -> str:
    depth = chain.index(image.file)
    if depth is None:
        raise CommandFailed(f"{image.path} is not in the chain of {chain.device}")
    return chain.images[depth].node
