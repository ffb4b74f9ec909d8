"""What a tree of snapshots must hold: every disk's content, by blocks, and its images.

Knows nothing of the engine. An image of a disk is a node with the one below it; a
snapshot is a label on a node. Nodes that nobody needs become one with their only
dependent when something is deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

#: The value of each block of a disk; 0 where nothing was written.
Content = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Node:
    """An image; ``is_pinned``: it lost its snapshot by name only, and stays."""

    below: int | None
    is_pinned: bool = False


@dataclass(slots=True)
class DiskModel:
    """The images of one disk, what it holds, and what each snapshot of it holds."""

    content: Content
    nodes: dict[int, Node] = field(default_factory=lambda: {0: Node(None)})
    active: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    frozen: dict[str, Content] = field(default_factory=dict)

    def take(self, name: str) -> None:
        """Freeze the active image under a name, and put a new one on top."""
        self.labels[name] = self.active
        self.frozen[name] = self.content
        self._overlay(self.active)

    def revert(self, name: str) -> None:
        """Go on from a snapshot; the image that the disk was on is given up."""
        former = self.active
        self._overlay(self.labels[name])
        self.content = self.frozen[name]
        if not self.dependents(former):
            del self.nodes[former]

    def forget(self, names: Iterable[str], *, pin: bool) -> None:
        """Take these labels away; ``pin`` keeps their images as they are."""
        for name in names:
            if (node := self.labels.pop(name, None)) is None:
                continue
            del self.frozen[name]
            if pin and node not in self.labels.values():
                self.nodes[node] = replace(self.nodes[node], is_pinned=True)

    def dependents(self, number: int) -> list[int]:
        """The nodes that are based on this one."""
        return [n for n, node in self.nodes.items() if node.below == number]

    def contract(self) -> None:
        """Let everything go that nobody needs, as a deletion does."""
        while self._contract_one():
            pass

    def _contract_one(self) -> bool:
        needed = {self.active, *self.labels.values()}
        seen = self.reached()
        for number, node in self.nodes.items():
            if number in needed or node.is_pinned:
                continue
            above = self.dependents(number)
            if len(above) > 1 or not seen.issuperset(above):
                continue
            for other in above:
                self.nodes[other] = replace(self.nodes[other], below=node.below)
            del self.nodes[number]
            return True
        return False

    def reached(self) -> set[int]:
        """The images that the disk, its snapshots and what was kept lead to."""
        labelled = {self.active, *self.labels.values()}
        heads = [n for n, node in self.nodes.items() if not node.is_pinned]
        found: set[int] = set()
        for head in {*labelled, *heads}:
            at: int | None = head
            while at is not None:
                found.add(at)
                at = self.nodes[at].below
        return found

    def has_stranger(self) -> bool:
        """Whether an image is left that no snapshot leads to."""
        return len(self.reached()) < len(self.nodes)

    def _overlay(self, below: int) -> None:
        self.active = max(self.nodes) + 1
        self.nodes[self.active] = Node(below)


@dataclass(slots=True)
class Model:
    """A domain: its disks, and the snapshots with their parents."""

    disks: dict[str, DiskModel]
    parents: dict[str, str | None] = field(default_factory=dict)
    current: str | None = None
    invalid: set[str] = field(default_factory=set)
    #: Whether images may be left that could be folded: a strategy stood against it.
    is_loose: bool = False
    taken: int = 0

    def take(self, targets: Iterable[str]) -> str:
        """Take a snapshot of these disks; its name."""
        self.taken += 1
        name = f"s{self.taken}"
        for target in targets:
            self.disks[target].take(name)
        self.parents[name] = self.current
        self.current = name
        return name

    def revert(self, name: str) -> None:
        """Go back to a snapshot."""
        for disk in self.disks.values():
            if name in disk.labels:
                disk.revert(name)
        self.current = name

    def children(self, name: str) -> list[str]:
        """The snapshots whose parent this one is."""
        return [child for child, parent in self.parents.items() if parent == name]

    def subtree(self, name: str) -> list[str]:
        """The descendants of a snapshot, parents first."""
        found = self.children(name)
        for child in found:
            found += self.children(child)
        return found

    def line(self, name: str) -> list[str]:
        """A snapshot and its ancestors, itself first."""
        found = [name]
        while (parent := self.parents[found[-1]]) is not None:
            found.append(parent)
        return found

    def delete(self, names: Iterable[str], *, pin: bool, contracts: bool) -> None:
        """Snapshots are gone. ``contracts``: so is every image that may go."""
        gone = list(names)
        for name in gone:
            parent = self.parents.pop(name)
            for child, its in self.parents.items():
                if its == name:
                    self.parents[child] = parent
            if self.current == name:
                self.current = parent
            self.invalid.discard(name)
        for disk in self.disks.values():
            disk.forget(gone, pin=pin)
            if contracts and not pin:
                disk.contract()
        if not pin:
            self.is_loose = not contracts
