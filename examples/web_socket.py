"""Tell browsers what happens, as JSON over a web socket.

    python web_socket.py --port 8765

Whoever connects to ``ws://localhost:8765/`` hears of all runs of this program,
``/web`` only of those of the domain ``web``. A browser that is slow gets less
progress, and all else. Needs the package ``websockets``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from backfold import Engine, EventsLost, EventStream, as_json


async def tell(browser: ServerConnection, events: EventStream) -> None:
    """Send each event until the engine is closed, or the browser is gone."""
    assert browser.request is not None
    domain = browser.request.path.strip("/")
    async for event in events:
        if domain in ("", event.domain):
            await browser.send(json.dumps(as_json(event)))


async def serve_events(engine: Engine, host: str, port: int) -> Server:
    """A server that tells what the engine's runs tell; use it in ``async with``."""

    async def connected(browser: ServerConnection) -> None:
        async with engine.events() as events, asyncio.TaskGroup() as group:

            async def until_gone() -> None:
                await browser.wait_closed()
                await events.aclose()

            watching = group.create_task(until_gone())
            try:
                await tell(browser, events)
            except ConnectionClosed:
                return
            except EventsLost as error:
                await browser.close(1013, error.code)
            else:
                await browser.close(1001, "the engine was closed")
            finally:
                watching.cancel()

    return await serve(connected, host, port)


async def run(options: argparse.Namespace) -> None:
    """Recover what is open, and tell of it, for ever."""
    async with (
        Engine(options.journal) as engine,
        await serve_events(engine, "localhost", options.port) as server,
    ):
        await engine.recover()
        await server.serve_forever()


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Tell browsers what happens.")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--journal", help="where it is if not in the usual place")
    try:
        asyncio.run(run(parser.parse_args(arguments)))
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
