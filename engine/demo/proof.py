"""The proof: what the disks hold, read by QEMU's own tools and compared to the books.

Nothing in here asks Backfold's journal. Images are checked by `qemu-img check` and
read by `qemu-img convert`; what must be in them comes from the guest's own
acknowledgements.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..results import DomainDisk
from .guest import Ledger, Verdict, export_raw
from .guest.boot import count_acknowledgements


class Bracket(NamedTuple):
    """The last acknowledged writes before and after a snapshot was taken."""

    low: int
    high: int


class ImageFile(NamedTuple):
    """An image to read, with its format; it is never guessed."""

    path: Path
    format: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the proof; ``lost`` counts blocks that are not what they must be."""

    what: str
    ok: bool
    detail: str
    lost: int = 0


def check_chains(disks: Iterable[DomainDisk]) -> list[Finding]:
    """`qemu-img check` of every image that a domain boots from.

    Leaked clusters are room that a killed QEMU did not give back, not an error.
    """
    findings = []
    for disk in disks:
        if disk.broken is not None:
            findings.append(Finding(f"chain of {disk.target}", False, disk.broken[1]))
        findings += [_check(path) for path in disk.chain]
    return findings


def verify_present(
    ledger: Ledger, images: Sequence[ImageFile], folder: Path
) -> list[Finding]:
    """Whether these disks, in the guest's order, hold every acknowledged write.

    Nobody may have them open.
    """
    findings = []
    for number, image in enumerate(images):
        verdict = _read(ledger, image, number, folder, None)
        found = f"{verdict.checked} blocks, {_lost(verdict)}"
        what = f"acknowledged writes in {image.path.name}"
        findings.append(Finding(what, verdict.ok, found, len(verdict.lost)))
    return findings


def verify_frozen(
    ledger: Ledger,
    name: str,
    images: Sequence[ImageFile],
    bracket: Bracket,
    folder: Path,
) -> Finding:
    """Whether a snapshot's frozen images hold one instant of its bracket.

    A QEMU may have them open, it does not write into them.
    """
    verdicts = [
        _read(ledger, image, number, folder, bracket)
        for number, image in enumerate(images)
    ]
    what = f"snapshot {name} in {', '.join(image.path.name for image in images)}"
    lost = sum(len(verdict.lost) for verdict in verdicts)
    cuts = [verdict.cut for verdict in verdicts if verdict.cut is not None]
    if lost or len(cuts) < len(images):
        return Finding(what, False, f"{lost} blocks are not of its instant", lost)
    first, last = max(cut[0] for cut in cuts), min(cut[1] for cut in cuts)
    if first > last:
        return Finding(what, False, "its disks are not of one instant", 1)
    return Finding(what, True, f"one instant: write {first}")


def count_writes(folder: Path) -> int:
    """How many writes the guest has acknowledged in all its boots in this folder."""
    files = folder.glob("acknowledged-*.bin")
    return sum(count_acknowledgements(file) for file in files)


def _check(path: str) -> Finding:
    what = f"qemu-img check {Path(path).name}"
    done = subprocess.run(
        ["qemu-img", "check", "-f", "qcow2", "--output=json", path],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        report = json.loads(done.stdout)
    except ValueError:
        return Finding(what, False, done.stderr.strip() or "no answer")
    errors = report.get("corruptions", 0) + report.get("check-errors", 0)
    leaks = report.get("leaks", 0)
    if errors or done.returncode not in (0, 3):
        return Finding(what, False, f"{errors} errors: {done.stderr.strip()}")
    return Finding(what, True, f"sound, {leaks} leaked clusters" if leaks else "sound")


def _read(
    ledger: Ledger,
    image: ImageFile,
    number: int,
    folder: Path,
    bracket: Bracket | None,
) -> Verdict:
    raw = folder / "export.raw"
    shared = bracket is not None
    export_raw(image.path, image.format, raw, force_share=shared)
    try:
        if bracket is None:
            return ledger.verify(raw, number)
        return ledger.verify(raw, number, low=bracket.low, high=bracket.high)
    finally:
        raw.unlink()


def _lost(verdict: Verdict) -> str:
    if verdict.ok:
        return "none lost"
    slot, expected, found = verdict.lost[0]
    first = f"block {slot} holds {found}, not write {expected}"
    return f"{len(verdict.lost)} LOST (first: {first})"
