"""Chains that nobody recorded, each image with data of its own."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from backfold.engine.demo.guest import export_raw, qemu_img

SIZE = 2 << 20
CELL = 64 << 10


def grow(folder: Path, *names: str, relative: bool = False) -> list[Path]:
    """Put overlays on each other, the lowest image first; returns all paths.

    Each has a cell of its own and overwrites one that all have.
    """
    paths = [folder / name for name in names]
    for number, path in enumerate(paths):
        if not path.exists():
            link = paths[number - 1].name if relative else str(paths[number - 1])
            below = ["-b", link, "-F", "qcow2"] if number else []
            size = [] if number else [str(SIZE)]
            qemu_img("create", "-q", "-f", "qcow2", *below, path, *size)
            # Times tell the order even where a clock's tick is long.
            fill(path, number + 1)
            os.utime(path, (1_700_000_000 + number, 1_700_000_000 + number))
    return paths


def fill(path: Path, number: int) -> None:
    """Write pattern ``number`` into cell ``number`` and into the common cell 0."""
    orders = []
    for cell in (0, number):
        orders += ["-c", f"write -q -P {number} {cell * CELL} {CELL}"]
    subprocess.run(
        ["qemu-io", "-f", "qcow2", *orders, str(path)], check=True, capture_output=True
    )


def seen(image: Path, fmt: str = "qcow2") -> str:
    """A digest of all that a guest would see in an image."""
    raw = image.with_name(image.name + ".seen")
    try:
        export_raw(image, fmt, raw)
        return hashlib.sha256(raw.read_bytes()).hexdigest()
    finally:
        raw.unlink(missing_ok=True)


def digests(folder: Path) -> dict[str, str]:
    """Every file of a folder, byte for byte."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if path.is_file()
    }
