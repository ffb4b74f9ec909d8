"""A hold that is ended by what QEMU says alone: what is done, and in which order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from backfold.journal.model import FileId
from backfold.states.ports import (
    Hypervisor,
    Images,
    Job,
    LiveChain,
    LiveImage,
)
from backfold.states.unrecorded import end_unrecorded
from backfold.states.watch import HeldDisk, Watch

DISKS = tuple(
    HeldDisk(f"j{n}", f"/top{n}", f"/top{n}.f", FileId(1, n), FileId(1, 10 + n))
    for n in (0, 1)
)
WATCH = Watch("0123456789ab", "/m", "boot:1@2.0", True, DISKS)


class Qemu:
    """A QEMU with two disks, a monitor, and fenced images; it writes down orders."""

    def __init__(self, process: str = "boot:1@2.0", switched: tuple[int, ...] = ()):
        self.process = process
        self.orders: list[str] = []
        self.state = "paused"
        self.jobs_now = {f"j{n}": "pending" for n in (0, 1) if n not in switched}
        self.jobs_now |= {f"j{n}": "concluded" for n in switched}
        self.switched = set(switched)
        self.names = {disk.fence: disk.top_file for disk in DISKS}

    async def attach(self, monitor: str) -> Qemu:
        return self

    async def close(self) -> None:
        pass

    async def run_state(self) -> str:
        return self.state

    async def jobs(self) -> dict[str, Job]:
        return {n: Job(n, "commit", s, 0, 0) for n, s in self.jobs_now.items()}

    async def chains(self, aliases: object) -> tuple[LiveChain, ...]:
        return tuple(self._chain(n, disk) for n, disk in enumerate(DISKS))

    def _chain(self, number: int, disk: HeldDisk) -> LiveChain:
        on_base = number in self.switched
        file = disk.base_file if on_base else disk.top_file
        image = LiveImage("n", "f", disk.top, "qcow2", file, False)
        return LiveChain(f"vd{number}", "n", (image,))

    async def cancel(self, job: str) -> None:
        self.orders.append(f"cancel {job}")
        self.jobs_now[job] = "concluded"

    async def finalize(self, job: str) -> None:
        self.orders.append(f"finalize {job}")
        self.jobs_now[job] = "concluded"
        self.switched.add(int(job[1:]))

    async def cont(self) -> None:
        self.orders.append("cont")
        self.state = "running"

    def identify(self, path: str) -> FileId | None:
        return self.names.get(path)

    async def rename(self, old: str, new: str, file: FileId) -> None:
        self.orders.append(f"rename {old}")
        self.names[new] = self.names.pop(old)


def end(qemu: Qemu, watch: Watch = WATCH) -> bool:
    """End the hold; whether the guest was let go on."""
    ports = cast(Hypervisor, qemu), cast(Images, qemu)
    return asyncio.run(end_unrecorded(watch, *ports))


def test_without_a_decision_the_fences_go_back_before_the_guest_goes_on() -> None:
    """No write may reach an image that nothing can boot from."""
    qemu = Qemu()

    assert end(qemu)
    assert qemu.orders == [
        *("cancel j0", "cancel j1", "rename /top0.f", "rename /top1.f", "cont"),
    ]


def test_a_disk_on_its_base_proves_the_decision_and_the_others_follow() -> None:
    """The fences stay: nothing may boot from what is superseded."""
    qemu = Qemu(switched=(1,))

    assert end(qemu)
    assert qemu.orders == ["finalize j0", "cont"]


def test_a_disk_that_was_kept_gets_its_name_back() -> None:
    """Decided, but somebody cancelled the other job: it is on its overlay."""
    qemu = Qemu(switched=(1,))
    qemu.jobs_now["j0"] = "concluded"

    assert end(qemu)
    assert qemu.orders == ["rename /top0.f", "cont"]


def test_another_qemu_is_not_touched() -> None:
    """It was started since, by somebody."""
    qemu = Qemu(process="boot:3@4.0")

    assert not end(qemu)
    assert qemu.orders == []


def test_a_guest_that_stood_before_stays() -> None:
    """Its votes are taken back, so that an operator's `cont` finds its disks."""
    qemu = Qemu()

    assert not end(qemu, replace(WATCH, stops_guest=False))
    assert "cont" not in qemu.orders and "cancel j0" in qemu.orders


@pytest.mark.parametrize("state", ["paused", "running"])
def test_without_jobs_of_ours_the_hold_is_over(state: str) -> None:
    """Whoever has paused that guest did it since."""
    qemu = Qemu()
    qemu.jobs_now, qemu.state = {}, state

    assert not end(qemu)
    assert qemu.orders == []
