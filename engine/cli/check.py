"""`backfold check`: the catalog against disk and QEMU, both ways."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .invocation import Invocation
from .selecting import ImageDir
from .text import count

if TYPE_CHECKING:
    from ..inspection_findings import Finding, Inspection

DomainName = Annotated[str, typer.Argument(metavar="DOMAIN", help="The domain.")]


def check(
    ctx: typer.Context,
    domain: DomainName,
    fix: Annotated[
        bool, typer.Option("--fix", help="Mend what is proved safe, and tell it.")
    ] = False,
    image_dir: ImageDir = None,
) -> int:
    """Compare the catalog with the disks and QEMU, both ways.

    Every finding says what it means for the data and what mends it. Images that
    nobody has open are read by `qemu-img check`, which keeps others from opening
    them meanwhile. Exit status 0 when nothing but notes is left, else 1.
    """
    invocation: Invocation = ctx.obj
    found = invocation.run(
        lambda engine: engine.check(domain, fix=fix, image_folders=image_dir or ())
    )
    if invocation.as_json:
        invocation.output.json(as_json(found))
    else:
        invocation.output.lines(describe(found))
    return 0 if found.is_clean else 1


def as_json(found: Inspection) -> dict[str, Any]:
    """An inspection as one object."""
    return {
        "domain": found.domain,
        "power": found.power,
        "clean": found.is_clean,
        "findings": [_finding(finding) for finding in found.findings],
        "fixed": [_finding(finding) for finding in found.fixed],
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "disk": finding.disk,
        "snapshot": finding.snapshot,
        "image": finding.image,
        "message": finding.message,
        "meaning": finding.meaning,
        "remedy": finding.remedy,
        "fixable": finding.fix is not None,
    }


def describe(found: Inspection) -> Iterator[str]:
    """An inspection for people."""
    for finding in found.fixed:
        yield f"fixed    {finding.message} [{finding.code}]"
    for finding in found.findings:
        of = f"{finding.disk}: " if finding.disk is not None else ""
        yield f"{finding.severity:8} {of}{finding.message} [{finding.code}]"
        yield f"  data: {finding.meaning}"
        yield f"  next: {finding.remedy}"
    notes = sum(finding.severity == "note" for finding in found.findings)
    serious = len(found.findings) - notes
    if serious:
        yield f"{found.domain} ({found.power}): {count(serious, 'finding')}."
    elif notes:
        yield f"{found.domain} ({found.power}) is in order; {count(notes, 'note')}."
    else:
        yield f"{found.domain} ({found.power}) is in order."
