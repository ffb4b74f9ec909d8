"""examples/overlay_names.py, as a program and as a function."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

import overlay_names
from embedding.site import Site
from examples.conftest import names, prepared


def test_overlays_are_dated_and_elsewhere(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "overlays"
    folder.mkdir()
    prepared(site, lambda engine: site.add(engine, "web"))
    arguments = ["web", "s1", str(folder), "--journal", str(site.journal)]

    assert overlay_names.main(arguments) == 0

    said = capsys.readouterr().out.split()
    assert re.fullmatch(rf"{folder}/web-vda-\d{{8}}T\d{{6}}Z\.qcow2", said[1])
    assert said == ["vda", str(*folder.iterdir())]
    assert prepared(site, lambda engine: names(engine, "web")) == ["s1"]


def test_a_name_that_is_taken_is_refused(
    site: Site, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With what happened, what it means and what to do, and the exit status."""
    prepared(site, lambda engine: site.add(engine, "web", "s1"))
    arguments = ["web", "s1", str(tmp_path), "--journal", str(site.journal)]

    assert overlay_names.main(arguments) == 3
    assert "already has a snapshot 's1'" in capsys.readouterr().err


def test_a_deletion_knows_them(site: Site, tmp_path: Path) -> None:
    """Names are free: what an image is, is in the catalog."""
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    async def story() -> None:
        async with site.engine() as engine:
            await site.add(engine, "web")
            await overlay_names.take_dated(engine, "web", "s1", tmp_path, now)
            overlay = tmp_path / "web-vda-20260102T030405Z.qcow2"
            assert [d.source for d in await engine.disks("web")] == [str(overlay)]
            await engine.delete("web", "s1", strategy="commit")
            assert not overlay.exists()
            assert [d.source for d in await engine.disks("web")] == [
                str(site.image("web"))
            ]

    asyncio.run(story())
