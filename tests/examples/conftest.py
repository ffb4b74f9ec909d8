"""What the recipes are run on: domains that are off, with real images."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from backfold import Engine
from embedding.site import Site

T = TypeVar("T")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def prepared(site: Site, make: Callable[[Engine], Awaitable[T]]) -> T:
    """Do something with an engine before a recipe runs, or after it."""

    async def story() -> T:
        async with site.engine() as engine:
            return await make(engine)

    return asyncio.run(story())


async def names(engine: Engine, domain: str) -> list[str]:
    """The snapshots that a domain has."""
    return [each.name for each in await engine.catalog.snapshots(domain)]
