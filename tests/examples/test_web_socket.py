"""examples/web_socket.py: a real client hears what the engine's runs tell."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import web_socket
from cli.schemas import validate
from embedding.site import Site


def test_browsers_hear_of_runs(site: Site) -> None:
    """Of all of them, or of one domain's; one that goes is no trouble."""

    async def story() -> None:
        async with (
            site.engine() as engine,
            await web_socket.serve_events(engine, "localhost", 0) as server,
        ):
            await site.add(engine, "web", "s1")
            await site.add(engine, "db", "s1")
            port = server.sockets[0].getsockname()[1]
            url = f"ws://localhost:{port}/"
            async with connect(url) as of_all, connect(url + "db") as of_one:
                gone = await connect(url)
                await gone.close()
                done = await engine.delete("web", "s1")
                await engine.delete("db", "s1", metadata_only=True)
                heard = [await listen(of_all, "completed") for _ in range(2)]
                of_db = await listen(of_one, "completed")
                assert {event["domain"] for event in of_db} == {"db"}
            events = heard[0]
            assert events[-1]["deletion"] == done.id
            assert {event["event"] for event in events} == {"state", "progress"}
            for event in events:
                validate("event", {"schema": 1, **event})
            assert [event["domain"] for event in heard[1]] == ["db"] * len(heard[1])

    asyncio.run(story())


def test_a_browser_is_told_when_the_engine_is_closed(site: Site) -> None:
    async def story() -> None:
        async with site.engine() as engine:
            server = await web_socket.serve_events(engine, "localhost", 0)
            port = server.sockets[0].getsockname()[1]
            browser = await connect(f"ws://localhost:{port}/")
            await (await browser.ping())  # It has been connected, and listens.
        try:
            await browser.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            assert closed.rcvd.reason == "the engine was closed"
        else:
            raise AssertionError("it was told something else")
        server.close()
        await server.wait_closed()

    asyncio.run(story())


async def listen(browser: Any, last: str) -> list[dict[str, Any]]:
    """Every event up to the one of a state."""
    heard = []
    while True:
        heard.append(json.loads(await browser.recv()))
        if heard[-1].get("state") == last:
            return heard
