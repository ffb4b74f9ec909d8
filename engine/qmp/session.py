"""`Session` over QMP: what the states ask of one living QEMU."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from ...journal.errors import (
    CommandFailed,
    Disconnected,
    FlushFailed,
    OutcomeUnknown,
    WorldError,
)
from ...journal.model import FileId, FoldPlan, Image, OverlayPlan
from ...states.ports import Bitmap, Job, LiveChain, LiveImage, MergedBitmap
from .. import files, helper_process
from .bitmaps import going_on, merging, read_bitmaps
from .files import OpenFiles
from .graph import read_chains, read_images
from .monitor import Monitor
from .opening import forget_secret, node_name, open_nodes, open_overlay

#: Seconds for what waits on the disk rather than on QEMU.
DISK_SECONDS = 60.0
#: Seconds that nodes have to lose their last user.
VANISH_SECONDS = 1.0
#: How often the graph is read before it is called unknown because it kept changing.
READINGS = 5


class QmpSession:
    """One connection to one living QEMU, a domain's or a helper."""

    def __init__(self, monitor: Monitor, is_helper: bool = False) -> None:
        """Take over a connected monitor."""
        self._monitor = monitor
        self._is_helper = is_helper
        self._process = helper_process.identity(monitor.peer_pid)

    @property
    def is_helper(self) -> bool:
        """Whether this QEMU was started by Backfold."""
        return self._is_helper

    @property
    def process(self) -> str | None:
        """Names the process that listened on the monitor when it was connected."""
        return self._process

    async def run_state(self) -> str:
        """QEMU's run state: ``running``, ``paused``, ``prelaunch`` and so on."""
        status = await self._monitor.execute("query-status")
        return str(status["status"])

    async def chains(self, aliases: Mapping[str, str]) -> tuple[LiveChain, ...]:
        """Every device's chain; in a helper, where there is no device, every root's."""
        nodes, graph, devices = await self._read_graph()
        resolve = OpenFiles(self._monitor.peer_pid, aliases).resolve
        return read_chains(nodes, graph, devices, resolve, loose=self._is_helper)

    async def open_images(self, aliases: Mapping[str, str]) -> tuple[LiveImage, ...]:
        """Every image that this QEMU has open, in a chain or not."""
        nodes, graph, _ = await self._read_graph()
        resolve = OpenFiles(self._monitor.peer_pid, aliases).resolve
        return read_images(nodes, graph, resolve)

    async def jobs(self) -> Mapping[str, Job]:
        """Every job that QEMU has, whoever started it, by id."""
        jobs = await self._monitor.execute("query-jobs")
        details = {
            entry["device"]: entry
            for entry in await self._monitor.execute("query-block-jobs")
        }
        return {job["id"]: _job(job, details.get(job["id"], {})) for job in jobs}

    async def exports(self) -> frozenset[str]:
        """The names of the nodes that are exported, by NBD for example."""
        exports = await self._monitor.execute("query-block-exports")
        return frozenset(export["node-name"] for export in exports)

    async def open_chain(self, chain: Sequence[Image], writable: frozenset[str]) -> str:
        """Helper only: open a chain, top first; returns the root node's name.

        What is open already stays open. At the end the graph is read back and must
        be exactly this chain, by inode.
        """
        self._helper_only("open_chain")
        present = await self._nodes()
        root = await open_nodes(self._monitor, chain, writable, frozenset(present))
        wanted = [(i.file, i.data and i.data.file) for i in chain]
        for found in await self.chains({}):
            images = found.images
            if images[0].node == root and [(i.file, i.data) for i in images] == wanted:
                for live, image in zip(images, chain, strict=True):
                    if image.path in writable and live.read_only:
                        await self.set_writable(live, True)
                return root
        raise CommandFailed(
            f"the helper has not opened the chain of {chain[0].path} as it was asked to"
        )

    async def start(
        self, fold: FoldPlan, chain: LiveChain, bandwidth: int | None
    ) -> None:
        """Start the job of a fold. ``bandwidth`` is in bytes per second."""
        common: dict[str, Any] = {
            "job_id": fold.job,
            "on_error": "stop",
            "auto_finalize": False,
            # QEMU 7.2 crashes when its nodes are listed while a stream has ended and
            # is not dismissed: whoever asks, and for as long as it is there.
            "auto_dismiss": fold.is_stream,
            "speed": bandwidth or 0,
        }
        # Without it QEMU writes whatever name it opened the image below by.
        link = {} if fold.link is None else {"backing_file": fold.link}
        if fold.linked_to is not None and fold.relinked is not None and not link:
            raise CommandFailed(f"the fold of {fold.target} has no link to write")
        top = _node_of(chain, fold.top)
        if fold.is_stream:
            below = fold.below
            if below is not None:
                link["base_node"] = _node_of(chain, below)
            command, arguments = "block-stream", {"device": top}
        else:
            command, arguments = (
                "block-commit",
                {
                    "device": chain.root,
                    "top_node": top,
                    "base_node": _node_of(chain, fold.base),
                },
            )
        await self._monitor.execute(
            command, within=DISK_SECONDS, **arguments, **common, **link
        )

    async def set_writable(self, image: LiveImage, writable: bool) -> None:
        """Reopen an image read-write or read-only, all its other options kept."""
        await self._reopen(image.node, "-w" if writable else "-r")
        if bool(await self._is_read_only(image.node)) == writable:
            raise CommandFailed(
                f"{image.filename} is still read-{'only' if writable else 'write'}"
            )

    async def flush(self, image: LiveImage) -> None:
        """Make durable what QEMU has written into an image.

        The file is synced from outside first: QEMU stands still during its own
        flush, so that one should find little to do. It tells nobody when it fails;
        but a reopen flushes what is left, and does tell.
        """
        await asyncio.to_thread(_sync, image)
        mode = "-r" if await self._is_read_only(image.node) else "-w"
        await self._human_io(image.node, "flush")
        await self._reopen(image.node, mode)

    async def bitmaps(
        self, images: Sequence[LiveImage]
    ) -> tuple[tuple[Bitmap, ...], ...]:
        """The dirty bitmaps of each of these images; those without a name left out."""
        nodes = await self._nodes()
        if missing := [image.node for image in images if image.node not in nodes]:
            raise CommandFailed(f"QEMU has no node {missing[0]}")
        return tuple(read_bitmaps(nodes[image.node]) for image in images)

    async def merge_bitmaps(self, wanted: Sequence[MergedBitmap]) -> None:
        """Make these bitmaps, or change them, in one transaction. Safe to repeat."""
        nodes = await self._nodes()
        actions = [
            action
            for one in wanted
            for action in merging(one, read_bitmaps(nodes.get(one.image.node, {})))
        ]
        if actions:
            await self._transaction(actions)

    async def remove_bitmaps(self, image: LiveImage, names: Sequence[str]) -> None:
        """Remove bitmaps of an image; one that is not there is no error."""
        (bitmaps,) = await self.bitmaps([image])
        for name in names:
            if any(bitmap.name == name for bitmap in bitmaps):
                await self._monitor.execute(
                    "block-dirty-bitmap-remove",
                    within=DISK_SECONDS,
                    node=image.node,
                    name=name,
                )

    async def complete(self, job: str) -> None:
        """Vote: ask a READY job to end. It then goes to PENDING."""
        await self._monitor.execute("job-complete", id=job)

    async def finalize(self, job: str) -> None:
        """Let a PENDING job change the graph."""
        await self._monitor.execute("job-finalize", within=DISK_SECONDS, id=job)

    async def cancel(self, job: str) -> None:
        """Ask a job to end without any effect; look at `jobs` for its end."""
        await self._monitor.execute("job-cancel", id=job)

    async def resume(self, job: str) -> None:
        """Let a job go on that stopped after an I/O error."""
        await self._monitor.execute("job-resume", id=job)

    async def dismiss(self, job: str) -> None:
        """Forget a concluded job."""
        await self._monitor.execute("job-dismiss", id=job)

    async def drop(self, images: Sequence[LiveImage]) -> None:
        """Close images that nothing in the graph uses any more, top first.

        Nodes that QEMU made by itself cannot be deleted, they vanish with their last
        user. Whatever the way, in the end they must be gone.
        """
        nodes = [n for i in images for n in (i.node, i.file_node, i.data_node)]
        names = [node for node in nodes if node is not None]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + VANISH_SECONDS
        while True:
            refused: list[str] = []
            for name in names:
                if name in await self._nodes():
                    try:
                        await self._monitor.execute(
                            "blockdev-del", within=DISK_SECONDS, node_name=name
                        )
                    except CommandFailed as error:
                        refused.append(error.what)
            left = await self._nodes()
            if not any(name in left for name in names):
                return
            if loop.time() > deadline:
                raise CommandFailed(f"still open in QEMU: {'; '.join(refused)}")
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Hold the guest. Returns when its I/O is drained and flushed."""
        await self._monitor.execute("stop")

    async def cont(self) -> None:
        """Let the guest go on."""
        await self._monitor.execute("cont")

    async def switch_to_overlays(
        self, overlays: Sequence[tuple[OverlayPlan, LiveImage]]
    ) -> None:
        """Put an overlay on each active image, in one transaction.

        Bitmaps that are recording go on in the overlay, in that same transaction.
        """
        nodes = await self._nodes()
        actions: list[dict[str, Any]] = []
        opened: list[str] = []
        try:
            for plan, active in overlays:
                overlay = node_name(_identify(plan.overlay))
                if plan.frozen.secret is None:
                    actions.append(_snapshot(plan.overlay, active.node, overlay))
                else:
                    opened += [overlay, f"{overlay}-file"]
                    await open_overlay(
                        self._monitor, plan.overlay, overlay, plan.frozen.secret
                    )
                    switch = {"node": active.node, "overlay": overlay}
                    actions.append({"type": "blockdev-snapshot", "data": switch})
                present = read_bitmaps(nodes.get(active.node, {}))
                actions += going_on(active.node, overlay, present)
            await self._transaction(actions)
        except CommandFailed:
            for node in opened:
                with suppress(CommandFailed):
                    await self._monitor.execute("blockdev-del", node_name=node)
            raise
        finally:
            for secret in {plan.frozen.secret for plan, _ in overlays} - {None}:
                with suppress(WorldError):
                    await forget_secret(self._monitor, str(secret))

    async def wait(self, seconds: float) -> None:
        """Return at the next event of QEMU, or after that time."""
        await self._monitor.wait(seconds)

    async def quit(self) -> None:
        """Helper only: end the QEMU; returns when it has left."""
        self._helper_only("quit")
        try:
            await self._monitor.execute("quit")
        except Disconnected:
            return
        await self._monitor.wait_closed(DISK_SECONDS)

    async def close(self) -> None:
        """Leave the monitor to others."""
        await self._monitor.close()

    async def _read_graph(self) -> tuple[Any, Any, Any]:
        """Nodes, links and devices, read until nothing changed while they were read."""
        execute = self._monitor.execute
        graph = await execute("x-debug-query-block-graph")
        for _ in range(READINGS):
            nodes = await self._read_nodes()
            devices = await execute("query-block")
            before, graph = graph, await execute("x-debug-query-block-graph")
            if graph == before:
                return nodes, graph, devices
        raise OutcomeUnknown("QEMU's block graph kept changing while it was read")

    async def _nodes(self) -> Mapping[str, Mapping[str, Any]]:
        return {node["node-name"]: node for node in await self._read_nodes()}

    async def _read_nodes(self) -> list[dict[str, Any]]:
        """The nodes, asked for so that QEMU does not crash.

        QEMU 7.2 does when a stream has concluded and is not dismissed (measured).
        Ours dismiss themselves.
        """
        for job in await self._monitor.execute("query-jobs"):
            if job["type"] == "stream" and job["status"] == "concluded":
                raise CommandFailed(
                    f"the job {job['id']} has concluded and is not dismissed: QEMU"
                    " could crash when it is asked for its images",
                    remedy=f'Send `job-dismiss {{"id": "{job["id"]}"}}`.',
                )
        nodes: list[dict[str, Any]] = await self._monitor.execute(
            "query-named-block-nodes", flat=True
        )
        return nodes

    async def _is_read_only(self, node: str) -> bool:
        nodes = await self._nodes()
        if node not in nodes:
            raise CommandFailed(f"QEMU has no node {node}")
        return bool(nodes[node]["ro"])

    async def _transaction(self, actions: Sequence[Mapping[str, Any]]) -> None:
        await self._monitor.execute("transaction", within=DISK_SECONDS, actions=actions)

    async def _reopen(self, node: str, mode: str) -> None:
        # blockdev-reopen refuses nodes that QEMU opened by itself.
        await self._human_io(node, f'"reopen {mode}"')

    async def _human_io(self, node: str, command: str) -> None:
        """`qemu-io` in QEMU: what it prints is an error."""
        line = f"qemu-io {node} {command}"
        if printed := await self._monitor.human(line, within=DISK_SECONDS):
            raise CommandFailed(f"{line}: {printed}")

    def _helper_only(self, what: str) -> None:
        if not self._is_helper:
            raise CommandFailed(f"{what} is for helpers, not for a domain's QEMU")


def _job(job: Mapping[str, Any], details: Mapping[str, Any]) -> Job:
    # `cont` makes QEMU forget why a job stopped, but not that it is paused. In PENDING
    # a job counts as paused by its own drain.
    state = details.get("io-status")
    why = state if state in ("nospace", "failed") else None
    if why is None and job["status"] in ("paused", "standby"):
        why = "paused"
    return Job(
        id=job["id"],
        type=job["type"],
        status=job["status"],
        done=job["current-progress"],
        total=job["total-progress"],
        error=job.get("error"),
        stuck=why if details.get("paused") else None,
    )


def _node_of(chain: LiveChain, image: Image) -> str:
    depth = chain.index(image.file)
    if depth is None:
        raise CommandFailed(f"{image.path} is not in the chain of {chain.device}")
    return chain.images[depth].node


def _snapshot(path: str, active: str, overlay: str) -> dict[str, Any]:
    """The action that opens an overlay and puts it on an active image."""
    data = {
        "node-name": active,
        "snapshot-file": path,
        "snapshot-node-name": overlay,
        "format": "qcow2",
        "mode": "existing",
    }
    return {"type": "blockdev-snapshot-sync", "data": data}


def _identify(path: str) -> FileId:
    try:
        found = os.stat(path)
    except OSError as error:
        raise CommandFailed(f"cannot open {path}: {error.strerror}") from error
    return files.file_id(found)


def _sync(image: LiveImage) -> None:
    """Sync an image's file by our own descriptor, if its name still leads there."""
    try:
        handle = os.open(image.filename, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    try:
        found = os.fstat(handle)
        if image.file == files.file_id(found):
            os.fsync(handle)
    except OSError as error:
        raise FlushFailed(image.filename, error.strerror or str(error)) from error
    finally:
        os.close(handle)
