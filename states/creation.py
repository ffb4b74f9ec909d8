"""The machine of a creation: taking a snapshot, all disks or none."""

from __future__ import annotations

from typing import Final

from .machine import Declaration, Edge, Recovery, State, Step
from .owner_steps import ASK_OWNER, TELL_OWNER

REMOVE_OVERLAYS: Final = Step(
    "remove_overlays",
    "unlinks the overlays that this creation made, if they are empty and nobody has"
    " them open",
    "some of them are gone, or have the fence's name",
    Recovery.REPEAT,
)

CREATION: Final = Declaration(
    name="creation",
    title="A creation: taking a snapshot",
    states=(
        State(
            "planned",
            "Makes the new overlays, with owner, group, mode and link style of the"
            " images below, and syncs them and their directories. With the domain off,"
            " dirty bitmaps that are recording go on in them.",
            killed="Overlays that nothing uses yet.",
            recovers="Removes the overlays: the guest has not seen them.",
            steps=(
                ASK_OWNER,
                Step(
                    "make_overlays",
                    "runs `qemu-img create` for each disk, and `qemu-img bitmap` when"
                    " the domain is off, then syncs file and directory",
                    "empty files of the names in the plan",
                    Recovery.REPEAT,
                    undone_by="remove_overlays",
                ),
                REMOVE_OVERLAYS,
            ),
        ),
        State(
            "overlays_made",
            "Switches every disk to its overlay at one instant; bitmaps that are"
            " recording go on in the overlay with all that they have noted.",
            killed="All disks are switched or none: QEMU does it in one transaction.",
            recovers="The graph of a living QEMU decides; disks of which some are"
            " switched and some are not are reported and left alone. With QEMU gone,"
            " overlays with data were taken, empty ones were not; a written overlay"
            " over an image that was changed later is reported and left alone.",
            steps=(
                TELL_OWNER,
                Step(
                    "switch",
                    "sends one QMP transaction over all disks; nothing when the domain"
                    " is off: the catalog's transaction is the switch then",
                    "the disks write to their overlays, or none does",
                    Recovery.OBSERVE,
                ),
                Step(
                    "sync_frozen",
                    "fsyncs the frozen images, so that their times, which are stored"
                    " with the switch, outlive a power cut",
                    "nothing",
                    Recovery.REPEAT,
                ),
                REMOVE_OVERLAYS,
            ),
        ),
        State(
            "switched",
            "Records snapshot and disk sources in one transaction of the catalog.",
            killed="QEMU writes to overlays that the catalog does not name yet.",
            recovers="Records them, unless somebody booted the domain from its old"
            " images meanwhile: then these are the truth, and the empty overlays are"
            " removed. Written overlays over changed images are reported and left"
            " alone.",
            steps=(TELL_OWNER, REMOVE_OVERLAYS),
        ),
        State("recorded", "The snapshot exists.", final=True),
        State(
            "undone",
            "The snapshot was not taken; the disks are as before.",
            final=True,
        ),
    ),
    edges=(
        Edge("made", "planned", "overlays_made", "every overlay is durable"),
        Edge("switched", "overlays_made", "switched", "the graph was read back"),
        Edge("recorded", "switched", "recorded", "the catalog knows it"),
        Edge("undo", "planned", "undone", "failed, or nobody finished it"),
        Edge("undo", "overlays_made", "undone", "the disks were not switched"),
        Edge(
            "undo",
            "switched",
            "undone",
            "the domain was booted from its old images before the catalog knew",
        ),
    ),
)
