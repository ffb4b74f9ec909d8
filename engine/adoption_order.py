"""One line of snapshots out of the orders that the disks have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from itertools import pairwise

Age = tuple[int, str]


def merged(sequences: Sequence[Sequence[str]], ages: Mapping[str, Age]) -> list[str]:
    """Put all names into one order that contradicts none of the sequences.

    Where they leave it open, the older one (by ``ages``) comes first. Raises
    `graphlib.CycleError` when they contradict each other.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for names in sequences:
        for name in names:
            sorter.add(name)
        for before, after in pairwise(names):
            sorter.add(after, before)
    sorter.prepare()
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=lambda name: ages[name])
        if ready:
            order.append(ready[0])
            sorter.done(ready.pop(0))
    return order
