"""Take a snapshot whose overlays have names of your own: dated, in another folder.

    python overlay_names.py web before-upgrade /srv/overlays

Left to itself, an overlay lies beside the image that it is based on, with the
snapshot's name as extension.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from backfold import BackfoldError, Engine, Snapshot


async def take_dated(
    engine: Engine, domain: str, name: str, folder: Path, now: datetime
) -> Snapshot:
    """Take a snapshot; each overlay is ``folder/domain-target-date.qcow2``."""
    disks = (await engine.catalog.domain(domain)).disks
    date = f"{now:%Y%m%dT%H%M%SZ}"
    overlays = {
        disk.target: str(folder / f"{domain}-{disk.target}-{date}.qcow2")
        for disk in disks
    }
    return await engine.create_snapshot(domain, name, overlays=overlays)


async def run(options: argparse.Namespace) -> None:
    """Take it, and say what the domain is to be booted from now."""
    now = datetime.now(UTC)
    async with Engine(options.journal) as engine:
        await take_dated(engine, options.domain, options.snapshot, options.folder, now)
        for disk in await engine.disks(options.domain):
            print(disk.target, disk.source)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status is that of `backfold snapshot create`."""
    parser = argparse.ArgumentParser(description="Take a snapshot with dated overlays.")
    parser.add_argument("domain")
    parser.add_argument("snapshot")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--journal", help="where it is if not in the usual place")
    try:
        asyncio.run(run(parser.parse_args(arguments)))
    except BackfoldError as error:
        print(error.what, error.data, error.remedy, sep="\n", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
