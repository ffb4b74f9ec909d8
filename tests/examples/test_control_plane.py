"""examples/control_plane.py: queued, bounded, stopped, and started again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import control_plane
from backfold import AlarmEvent, Engine, Interrupted, StateEvent
from control_plane import ControlPlane
from embedding.site import Site
from examples.conftest import names, prepared

PROGRAM = Path(control_plane.__file__)


def test_orders_are_taken_in_turn(site: Site) -> None:
    """One at a time for each domain, and no more at once than there are places."""
    wanted = (("a", "s1", "s2"), ("b", "s1"), ("c", "s1"))

    async def story() -> None:
        async with site.engine() as engine:
            for domain, *snapshots in wanted:
                await site.add(engine, domain, *snapshots)
            going: set[str] = set()
            most: list[int] = []
            stream = engine.events()
            async with ControlPlane(engine, at_once=2) as plane:
                orders = [
                    plane.delete(domain, snapshot)
                    for domain, *snapshots in wanted
                    for snapshot in snapshots
                ]
                assert plane.health()["orders"] == 4
                done = await asyncio.gather(*orders)
                health = plane.health()
        async for event in stream:
            if isinstance(event, StateEvent):
                going.add(event.run)
                if event.state == "completed":
                    going.discard(event.run)
                most.append(len(going))

        assert [(d.domain, d.snapshot) for d in done] == [
            (domain, name) for domain, *snapshots in wanted for name in snapshots
        ]
        assert max(most) == 2
        assert health["healthy"] and health["orders"] == 0
        assert health["outcomes"] == {"completed": 4}
        assert health["states"] == dict.fromkeys("abc", "deletion completed")

    asyncio.run(story())


def test_what_a_stop_leaves_a_start_finishes(site: Site) -> None:
    """Orders for that domain wait until it is finished."""

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1", "s2")
            async with ControlPlane(engine) as plane:
                order = plane.delete("web", "s1")
                async for event in engine.events():
                    if isinstance(event, StateEvent) and event.state == "prepare":
                        break
            with pytest.raises(Interrupted):
                await order
            assert not plane.health()["healthy"]
            async with ControlPlane(engine) as plane:
                second = await plane.delete("web", "s2")
                assert second.state == "completed"
                assert plane.outcomes["completed"] == 2
                assert plane.health()["healthy"]
            assert await names(engine, "web") == []

    asyncio.run(story())


def test_alarms_and_failures_are_not_healthy_or_are_answers(site: Site) -> None:
    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web", "s1")
            async with ControlPlane(engine) as plane:
                answer = await control_plane.answer(plane, b'{"delete": ["web", "no"]}')
                assert answer["error"]["reasons"][0]["code"] == "unknown_snapshot"
                assert plane.health()["outcomes"] == {"refused": 1}
                assert plane.health()["healthy"]
                for line in (b"nonsense", b'{"delete": "web"}', b"[]"):
                    answer = await control_plane.answer(plane, line)
                    assert answer["error"]["code"] == "usage"
                told = AlarmEvent("0" * 12, "web", "s1", "smoke", "now")
                engine._driver.broadcast.tell(told)
                await asyncio.sleep(0)
                health = await control_plane.answer(plane, b'{"health": []}')
                assert (health["healthy"], health["alarms"]) == (
                    False,
                    ["now web: smoke"],
                )

    asyncio.run(story())


def test_the_service(site: Site) -> None:
    """As a process: orders over its port, and SIGTERM in the middle of one."""
    prepared(site, lambda engine: site.add(engine, "web", "s1"))
    prepared(site, lambda engine: site.add(engine, "db", "s1"))
    options = ["--journal", str(site.journal), "--port", "0"]
    service = subprocess.Popen(
        [sys.executable, PROGRAM, *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error"},
    )

    async def ask(*orders: dict[str, Any]) -> list[dict[str, Any]]:
        reader, writer = await asyncio.open_connection("localhost", port)
        answers = []
        for order in orders:
            writer.write(json.dumps(order).encode() + b"\n")
            answers.append(json.loads(await reader.readline()))
        writer.close()
        await writer.wait_closed()
        return answers

    with service:
        assert service.stdout is not None
        port = int(service.stdout.readline().split()[-1])
        done, health = asyncio.run(ask({"delete": ["web", "s1"]}, {"health": []}))
        service.send_signal(signal.SIGTERM)
        assert service.wait(30) == 0

    assert (done["domain"], done["state"]) == ("web", "completed")
    assert health["outcomes"] == {"completed": 1}

    async def left(engine: Engine) -> tuple[list[str], list[str]]:
        return await names(engine, "web"), await names(engine, "db")

    assert prepared(site, left) == ([], ["s1"])
