"""Planning new overlays: what a creation and a reversion check alike."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Iterator, Sequence

from ..journal.errors import CommandFailed, Reason, UsageError
from ..journal.model import Disk, Domain, Image, OverlayPlan
from ..states.ports import ImageHeader, Images
from ..states.stamps import stamp_of
from .facts import secret_needed, unsupported
from .secret_files import SecretRefused


def default_overlay(source: str, snapshot: str) -> str:
    """The overlay's path: the image's name with the snapshot's as extension."""
    return f"{os.path.splitext(source)[0]}.{snapshot}"


def refuse_unknown_disks(domain: Domain, targets: Collection[str]) -> None:
    """Raise `UsageError` for targets that the domain does not have."""
    if unknown := sorted({*targets} - {disk.target for disk in domain.disks}):
        raise UsageError(
            f"The domain {domain.name} has no disk {', '.join(unknown)}.",
            remedy=f"`backfold domain show {domain.name}` lists its disks.",
        )


def refuse_beside_device(
    images: Images, below: Disk, overlays: Collection[str]
) -> None:
    """Raise `UsageError` for a block device whose overlay was given no path."""
    file = images.identify(below.source)
    if file is not None and file.is_block_device and below.target not in overlays:
        raise UsageError(
            f"{below.source} is a block device, and no overlay is made beside it.",
            remedy=f"Say where it goes: --overlay {below.target}=PATH.",
        )


async def plan_overlay(
    images: Images,
    below: Disk,
    overlay: str,
    secret: str | None,
    reasons: list[Reason],
) -> OverlayPlan | None:
    """Plan a new overlay on an image; changes nothing.

    ``secret`` is the file with the key, which an encrypted image needs.
    None when the image below is missing or cannot be read. Every reason against it
    is added to ``reasons``.
    """
    file, stamp = images.identify(below.source), images.stamp(below.source)
    if file is None or stamp is None:
        reasons.append(
            Reason(
                "missing_image",
                f"{below.source} is missing.",
                "Bring the image back to that path.",
                below.target,
            )
        )
        return None
    try:
        header = await images.header(below.source, below.format)
    except CommandFailed as error:
        reasons.append(
            Reason("corrupt_image", error.what, "Repair the image.", below.target)
        )
        return None
    if (why := unsupported(header)) is not None:
        reasons.append(Reason("unsupported_image", *why, below.target))
    if images.identify(overlay) is not None:
        reasons.append(exists_already(overlay, below.target))
    link = below.source
    if header.backing is not None and not header.backing.startswith("/"):
        link = os.path.relpath(below.source, os.path.dirname(overlay))
    if header.encrypted:
        reasons += await _secret_reasons(images, header, secret, below.target)
    image = Image(
        below.source,
        below.format,
        file,
        header.virtual_size,
        header.data,
        secret if header.encrypted else None,
    )
    stamp = stamp_of(image, images) or stamp
    return OverlayPlan(below.target, image, overlay, link, stamp)


async def _secret_reasons(
    images: Images, header: ImageHeader, secret: str | None, target: str
) -> list[Reason]:
    """Why an overlay of an encrypted image could not be encrypted like it.

    A plain overlay would store in the open what the guest writes from then on.
    """
    if secret is None:
        return [secret_needed(header.path, target)]
    try:
        await images.extents(header.path, header.format, secret)
    except SecretRefused as error:
        return [Reason("secret_refused", error.what, error.remedy, target)]
    except CommandFailed as error:
        return [Reason("corrupt_image", error.what, "Repair the image.", target)]
    return []


def shared_paths(plans: Sequence[OverlayPlan]) -> Iterator[Reason]:
    """A reason for each path that several disks would share."""
    paths = [plan.overlay for plan in plans]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        yield exists_already(path, None)


def exists_already(path: str, target: str | None) -> Reason:
    """The refusal of an overlay's path that is taken."""
    return Reason(
        "overlay_exists",
        f"The new overlay {path} exists already, or two disks would share it.",
        "Choose another path with --overlay TARGET=PATH.",
        target,
    )
