"""What lies beside the images of a domain: each check is a pure predicate.

A fix is offered only where journal and file together prove that nobody needs it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from typing import Final

from .inspection_facts import InspectionFacts
from .inspection_findings import Finding, Fix, Severity
from .inspection_folders import Stray

#: States in which runs end that have superseded images.
_SUPERSEDING: Final = ("completed", "reverted")


def no_orphans(facts: InspectionFacts) -> Iterator[Finding]:
    """Every image that is based on ours is known to the catalog."""
    active = {
        chain.images[0].path
        for disk in facts.domain.disks
        if (chain := facts.chains[disk.source]).images
    }
    told = {stray.file for stray in facts.strays}
    for orphan in facts.orphans:
        if orphan.file in told:
            continue
        severity: Severity = "error" if orphan.based_on in active else "warning"
        meaning = (
            "If the domain was started from it, it is the disk; a start from"
            f" {orphan.based_on} would make it useless."
            if severity == "error"
            else f"While it is there, {orphan.based_on} is neither written into nor"
            " removed."
        )
        yield Finding(
            "orphan_image",
            severity,
            f"{orphan.path} is based on {orphan.based_on}, and nothing in the catalog"
            " refers to it.",
            meaning,
            f"`{shlex.join(['qemu-img', 'info', '-U', orphan.path])}`, then record it"
            " (`backfold domain add`), or remove it if nobody needs it.",
            image=orphan.path,
        )


def fences_are_explained(facts: InspectionFacts) -> Iterator[Finding]:
    """A fence is there while its run is open, or because the image is not ours."""
    for stray in facts.strays:
        if stray.kind != "fence":
            continue
        run = facts.runs.get(stray.run or "")
        if run is None:
            if stray.is_known:
                yield _fence(
                    "unknown_fence",
                    "error",
                    stray,
                    "is a fence of a run that this journal does not know",
                    "The journal may be older than the disks; do not start the domain.",
                    "Bring back the journal that was in use last, or follow the guide's"
                    " chapter on rescue by hand.",
                )
        elif run.domain != facts.domain.name or run.finished is None:
            continue
        elif run.state in _SUPERSEDING:
            yield _fence(
                "superseded_image",
                "note",
                stray,
                f"was superseded by the {run.machine} {stray.run}, and no snapshot made"
                " it",
                "Its data is in the image below it since then. Backfold never removes"
                " what it has not made.",
                f"`{shlex.join(['rm', stray.path])}` when you do not need it.",
            )
        else:
            yield _fence(
                "left_fence",
                "error",
                stray,
                f"is a fence of the {run.machine} {stray.run}, which has ended as"
                f" {run.state.replace('_', ' ')} and should have taken it back",
                f"It may be the disk. {stray.image} may lack what was written last.",
                "If nothing has that name: "
                f"`{shlex.join(['mv', '-n', stray.path, stray.image])}`.",
            )


def _fence(
    code: str,
    severity: Severity,
    stray: Stray,
    what: str,
    meaning: str,
    remedy: str,
) -> Finding:
    message = f"{stray.path} {what}."
    return Finding(code, severity, message, meaning, remedy, image=stray.path)


def nothing_is_unfinished(facts: InspectionFacts) -> Iterator[Finding]:
    """No overlay in the making is left, and no probe of a fence."""
    for stray in facts.strays:
        remove = f"`{shlex.join(['rm', stray.path])}`"
        if stray.kind == "unfinished":
            is_dead = stray.image in facts.finished_overlays and stray.file is not None
            yield Finding(
                "unfinished_overlay",
                "warning",
                f"{stray.path} is an overlay that was never finished.",
                "Nothing was ever written into it by a guest.",
                f"`backfold check {facts.domain.name} --fix`, or {remove}."
                if is_dead
                else f"This journal knows no run that made it. If none runs: {remove}.",
                image=stray.path,
                fix=_removal(stray) if is_dead else None,
            )
        elif stray.kind == "probe" and stray.size == 0:
            run = facts.runs.get(stray.run or "")
            is_dead = run is not None and run.finished is not None
            if run is None or run.domain != facts.domain.name:
                continue
            yield Finding(
                "left_probe",
                "note",
                f"{stray.path} is an empty file that a killed run has left.",
                "None.",
                f"`backfold check {facts.domain.name} --fix`, or {remove}.",
                image=stray.path,
                fix=_removal(stray) if is_dead else None,
            )


def _removal(stray: Stray) -> Fix | None:
    return None if stray.file is None else Fix("remove_file", stray.path, stray.file)


def helpers_are_gone(facts: InspectionFacts) -> Iterator[Finding]:
    """No helper is left of a run that has ended."""
    for socket in facts.sockets:
        if socket.pid is None:
            yield Finding(
                "left_socket",
                "note",
                f"{socket.path} is the socket of a helper that is dead.",
                "None.",
                f"`backfold check {facts.domain.name} --fix`.",
                image=socket.path,
                fix=Fix("clear_socket", socket.path),
            )
        else:
            yield Finding(
                "left_helper",
                "warning",
                f"The helper {socket.pid} of the run {socket.run} is alive,"
                " although that has ended.",
                "It may have images open, so that the domain cannot be started.",
                f"`kill {socket.pid}`.",
            )


def kept_images_are_needed(facts: InspectionFacts) -> Iterator[Finding]:
    """An image without a name has several others based on it."""
    for target, path, file in facts.kept:
        if file is None or (based := facts.dependents.get(file)) is None:
            continue
        if len(based) < 2:
            what = based[0] if based else "nothing"
            yield Finding(
                "kept_image",
                "note",
                f"{path} stayed as a shared base, and only {what} is based on it now.",
                "None; it takes up room.",
                "The next deletion of a snapshot of this disk folds or removes it.",
                target,
                image=path,
            )


def entries_have_files(facts: InspectionFacts) -> Iterator[Finding]:
    """The catalog has no entry of an image that is gone and not needed."""
    for path in facts.gone:
        yield Finding(
            "gone_image",
            "warning",
            f"The catalog knows {path}, which is gone and which nothing needs.",
            "None; but a new image of that name would be taken for the old one.",
            f"`backfold check {facts.domain.name} --fix`.",
            image=path,
            fix=Fix("forget_entry", path),
        )


FILE_CHECKS: Final[tuple[Callable[[InspectionFacts], Iterator[Finding]], ...]] = (
    no_orphans,
    fences_are_explained,
    nothing_is_unfinished,
    helpers_are_gone,
    kept_images_are_needed,
    entries_have_files,
)
