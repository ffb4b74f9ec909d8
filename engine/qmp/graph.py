"""QEMU's block graph, read into chains. Pure: replies in, values out.

`query-named-block-nodes` knows drivers and file names, but no links;
`x-debug-query-block-graph` knows the links; `query-block` knows the devices.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...journal.errors import OutcomeUnknown
from ...journal.model import FileId
from ...states.ports import LiveChain, LiveImage

Reply = Mapping[str, Any]
#: A name that QEMU reports, to the absolute name and the file behind it.
Resolve = Callable[[str], tuple[str, FileId | None]]

#: Drivers that are no image by themselves. A driver that is not listed is taken for a
#: format, so that an unknown filter makes a chain that matches no plan.
FILTERS = frozenset(
    {
        "blkdebug",
        "blklogwrites",
        "blkreplay",
        "commit_top",
        "compress",
        "copy-before-write",
        "copy-on-read",
        "mirror_top",
        "preallocate",
        "snapshot-access",
        "throttle",
    }
)
_FILTERED_CHILD = ("file", "backing", "image")


def read_chains(
    nodes: Sequence[Reply],
    graph: Reply,
    devices: Sequence[Reply],
    resolve: Resolve,
    *,
    loose: bool = False,
) -> tuple[LiveChain, ...]:
    """The chain of every device; with ``loose``, of every unused image instead.

    Raises:
        OutcomeUnknown: When the replies contradict each other.
    """
    try:
        picture = _Graph(nodes, graph, resolve)
        if loose:
            return tuple(picture.chain("", root) for root in picture.loose_roots())
        chains = tuple(picture.chain(name, root) for name, root in picture.devices())
    except KeyError as error:
        raise OutcomeUnknown(f"QEMU's block graph has no node {error}") from error
    _check_devices(chains, devices)
    return chains


def read_images(
    nodes: Sequence[Reply], graph: Reply, resolve: Resolve
) -> tuple[LiveImage, ...]:
    """Every image that is open, in a chain or not.

    A file node that has lost its format node is an image too: it holds the file open.

    Raises:
        OutcomeUnknown: When the replies contradict each other.
    """
    try:
        return tuple(_Graph(nodes, graph, resolve).images())
    except KeyError as error:
        raise OutcomeUnknown(f"QEMU's block graph has no node {error}") from error


class _Graph:
    """The replies, indexed."""

    def __init__(self, nodes: Sequence[Reply], graph: Reply, resolve: Resolve) -> None:
        self._resolve = resolve
        self._details = {node["node-name"]: node for node in nodes}
        self._vertices = {vertex["id"]: vertex for vertex in graph["nodes"]}
        self._children: dict[str, dict[str, str]] = {}
        self._roots: list[tuple[int, str, str]] = []
        self._used: set[str] = set()
        for edge in graph["edges"]:
            parent = self._vertices[edge["parent"]]
            child = self._vertices[edge["child"]]["name"]
            if parent["type"] == "block-driver":
                self._children.setdefault(parent["name"], {})[edge["name"]] = child
                self._used.add(child)
            # The backends of jobs and exports have no name: they are no devices.
            elif parent["type"] == "block-backend" and parent["name"]:
                self._roots.append((parent["id"], parent["name"], child))
                self._used.add(child)

    def devices(self) -> Iterator[tuple[str, str]]:
        """Each device and the node that it sees, in QEMU's order."""
        return ((name, root) for _, name, root in sorted(self._roots))

    def loose_roots(self) -> Iterator[str]:
        """Nodes with children that neither a device nor another node uses."""
        return (name for name in self._children if name not in self._used)

    def images(self) -> Iterator[LiveImage]:
        """Each node that is an image: no filter, and not the file of another node."""
        images = [self._image(n) for n in self._details if not self._is_filter(n)]
        inner = {node for i in images for node in (i.file_node, i.data_node)}
        return (image for image in images if image.node not in inner)

    def chain(self, device: str, root: str) -> LiveChain:
        filters: list[str] = []
        images: list[LiveImage] = []
        node: str | None = root
        while node is not None:
            if self._is_filter(node):
                filters.append(node)
                node = self._below(node)
            else:
                images.append(self._image(node))
                node = self._children.get(node, {}).get("backing")
        return LiveChain(device, root, tuple(images), tuple(filters))

    def _is_filter(self, node: str) -> bool:
        return self._details[node]["drv"] in FILTERS

    def _below(self, filter_node: str) -> str | None:
        links = self._children.get(filter_node, {})
        return next((links[name] for name in _FILTERED_CHILD if name in links), None)

    def _image(self, node: str) -> LiveImage:
        details = self._details[node]
        read_only = bool(details["ro"])
        below = self._children.get(node, {}).get("file")
        while below is not None and self._is_filter(below):
            below = self._below(below)
        if below is None:
            filename, file = self._named(details["file"])
            return LiveImage(node, None, filename, "raw", file, read_only)
        filename, file = self._named(self._details[below]["file"])
        if below in self._children:
            file = None  # a format inside another one: no file holds it by itself
        image = LiveImage(node, below, filename, details["drv"], file, read_only)
        data = self._children.get(node, {}).get("data-file")
        while data is not None and self._is_filter(data):
            data = self._below(data)
        if data is None or data == below:
            return image
        _, held = self._named(self._details[data]["file"])
        return replace(image, data_node=data, data=held)

    def _named(self, name: str) -> tuple[str, FileId | None]:
        plain = plain_name(name)
        return (name, None) if plain is None else self._resolve(plain)


def plain_name(name: str) -> str | None:
    """The file name in a name that QEMU reports; None when there is none in it."""
    if not name.startswith("json:"):
        return name or None
    try:
        options = json.loads(name.removeprefix("json:"))
    except ValueError:
        return None
    while isinstance(options, dict):
        for key in ("filename", "file.filename"):
            if isinstance(options.get(key), str):
                return str(options[key])
        options = options.get("file", options.get("image"))
    return None


def _check_devices(chains: Sequence[LiveChain], devices: Sequence[Reply]) -> None:
    """Every device with a medium must have its chain."""
    known = {chain.device for chain in chains}
    for entry in devices:
        names = {entry.get("device"), entry.get("qdev")}
        if "inserted" in entry and not names & known:
            raise OutcomeUnknown(
                "QEMU's block graph does not show its device "
                f"{entry.get('device') or entry.get('qdev')}"
            )
