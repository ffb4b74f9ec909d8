"""How a guard ends a hold when it cannot have the journal.

A journal that cannot be read or written must not freeze a guest. What is needed was
told to the guard before the hold, and the graph of the living QEMU says the rest:
only a decision is followed by `job-finalize`, so that one disk on its base proves
that there was one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from .ports import Hypervisor, Images, LiveChain, Session
from .watch import STANDING, HeldDisk, Watch

#: States of a job that is over, whatever came of it.
_OVER: Final = frozenset({"concluded", "aborting"})


async def end_unrecorded(watch: Watch, hypervisor: Hypervisor, images: Images) -> bool:
    """End a hold by what QEMU says alone; returns whether the guest was let go on.

    Called under the locks of `Watch.files`. Keeps invariants 1 and 2 whatever the
    journal has: with no disk on its base the votes are cancelled and the fences are
    taken back before the guest goes on, and an overlay that is not fenced is the
    truth even after a decision; with one on its base the others follow. Another QEMU
    than the one that voted, or one without these jobs, is not touched. Safe to be
    killed in and to be repeated. Raises `WorldError`.
    """
    session = await hypervisor.attach(watch.monitor)
    if session is None:
        return False
    try:
        if None not in (watch.process, session.process) and (
            watch.process != session.process
        ):
            return False
        return await _end(watch, session, images)
    finally:
        await session.close()


async def _end(watch: Watch, session: Session, images: Images) -> bool:
    names = {disk.job for disk in watch.disks}
    jobs = await session.jobs()
    stands = await session.run_state() in STANDING
    drained = {n for n in names & set(jobs) if jobs[n].status == "pending"}
    if not names & set(jobs) or not (stands or drained):
        return False
    aliases = _aliases(watch.disks)
    if _switched(watch, await session.chains(aliases)):
        for name in sorted(drained):
            await session.finalize(name)
        await _wait_for_end(session, drained)
    else:
        asked = {n for n in names & set(jobs) if jobs[n].status not in _OVER}
        for name in sorted(asked):
            await session.cancel(name)
        await _wait_for_end(session, asked)
    switched = _switched(watch, await session.chains(aliases))
    for disk in watch.disks:
        fenced = images.identify(disk.fence) == disk.top_file
        if fenced and disk.job not in switched:
            await images.rename(disk.fence, disk.top, disk.top_file)
    if watch.stops_guest and await session.run_state() in STANDING:
        await session.cont()
        return True
    return False


def _aliases(disks: Iterable[HeldDisk]) -> Mapping[str, str]:
    names = {disk.top: disk.fence for disk in disks}
    return {**names, **{fence: top for top, fence in names.items()}}


def _switched(watch: Watch, chains: tuple[LiveChain, ...]) -> frozenset[str]:
    """The jobs of disks that have their base as the active image."""
    active = {chain.images[0].file for chain in chains if chain.images}
    return frozenset(disk.job for disk in watch.disks if disk.base_file in active)


async def _wait_for_end(session: Session, names: set[str]) -> None:
    while True:
        jobs = await session.jobs()
        if all(n not in jobs or jobs[n].status == "concluded" for n in names):
            return
        await session.wait(0.02)
