"""The machine of a reversion: going back to a snapshot, all disks or none."""

from __future__ import annotations

from typing import Final

from .machine import Declaration, Edge, Recovery, State, Step
from .owner_steps import ASK_OWNER, TELL_OWNER

_REMOVE_OVERLAYS: Final = Step(
    "remove_overlays",
    "unlinks the overlays that this reversion made, if they are empty and nobody has"
    " them open",
    "some of them are gone, or have the fence's name",
    Recovery.REPEAT,
)

REVERSION: Final = Declaration(
    name="reversion",
    title="A reversion: going back to a snapshot",
    states=(
        State(
            "planned",
            "Makes a new overlay on each frozen image of the snapshot, as a creation"
            " does.",
            killed="Overlays that nothing uses yet.",
            recovers="Removes the overlays: the disks are as before.",
            steps=(
                ASK_OWNER,
                Step(
                    "make_overlays",
                    "runs `qemu-img create` for each disk, then syncs file and"
                    " directory",
                    "empty files of the names in the plan",
                    Recovery.REPEAT,
                    undone_by="remove_overlays",
                ),
                _REMOVE_OVERLAYS,
            ),
        ),
        State(
            "overlays_made",
            "Proves again that the domain is off and that no image was written into"
            " since the plan; then disk sources and current snapshot change in one"
            " transaction of the catalog.",
            killed="Overlays that nothing uses yet; the disks are on their former"
            " images.",
            recovers="Removes the overlays: whoever booted the domain meanwhile did so"
            " from the former images, and keeps what it wrote.",
            steps=(
                Step(
                    "sync_images",
                    "fsyncs frozen and former images, so that their times, which are"
                    " stored in the plan, outlive a power cut",
                    "nothing",
                    Recovery.REPEAT,
                ),
                _REMOVE_OVERLAYS,
            ),
        ),
        State(
            "recorded",
            "The domain boots from the new overlays. Removes each former image that a"
            " snapshot made, after a proof that nothing uses it and that nobody wrote"
            " into it since the plan.",
            killed="Former images that nothing refers to, perhaps with the fence's"
            " name.",
            recovers="Goes on. A former image that was written into since the plan, or"
            " is in use, is reported and left alone.",
            steps=(
                Step(
                    "set_aside",
                    "renames a former image to the fence's name, so that nothing boots"
                    " from it",
                    "it has one of the two names",
                    Recovery.OBSERVE,
                ),
                TELL_OWNER,
                Step(
                    "unlink",
                    "unlinks exactly that name with exactly that inode, under the"
                    " image's lock, and the catalog forgets it",
                    "it is gone, or has the fence's name",
                    Recovery.OBSERVE,
                ),
            ),
        ),
        State("reverted", "The disks show what the snapshot holds.", final=True),
        State("undone", "Nothing was reverted; the disks are as before.", final=True),
    ),
    edges=(
        Edge("made", "planned", "overlays_made", "every overlay is durable"),
        Edge(
            "recorded",
            "overlays_made",
            "recorded",
            "the domain is still off; from here on there is no way back",
        ),
        Edge("retired", "recorded", "reverted", "no former image is left to remove"),
        Edge("undo", "planned", "undone", "failed, or nobody finished it"),
        Edge(
            "undo",
            "overlays_made",
            "undone",
            "the domain was started, an image changed, or nobody finished it",
        ),
    ),
)
