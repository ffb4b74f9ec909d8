"""What the commands ask of an engine in more than one place."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..api import Engine


async def find(engine: Engine, prefix: str) -> tuple[str, str]:
    """The machine and the whole id of a run. Raises `UsageError`."""
    found = await engine.find(prefix)
    return type(found).__name__.lower(), found.id


async def open_deletion(engine: Engine, name: str) -> str | None:
    """The id of a domain's open deletion."""
    found = await engine.deletions(only_open=True)
    return next((run.id for run in found if run.domain == name), None)
