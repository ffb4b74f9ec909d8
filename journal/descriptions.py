"""What every table and column of the journal means, for people who look at it.

The reference in the documents and the metadata for Datasette are made from this; a
test proves that nothing of the schema is missing and nothing is made up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Description:
    """A table and its columns. `Code` is marked as in Markdown; nothing else is."""

    says: str
    columns: Mapping[str, str]


_RUN: Final = {
    "id": "12 hex digits; what `backfold log` and `recover` take.",
    "machine": "Always the same; together with `state` it refers to `declared_states`.",
    "domain": "The domain. No reference: the run stays as history when it is removed.",
    "state": "The state that the run is in, or ended in.",
    "generation": "Counts takeovers. Orders of an engine that has an older one are"
    " refused.",
    "reason": "Why it was refused or given up; null otherwise.",
    "started": "When its row was written (UTC, ISO 8601).",
    "finished": "When it came to a final state; null while it is open.",
}

TABLES: Final[Mapping[str, Description]] = {
    "domains": Description(
        "The catalog: the virtual machines that Backfold knows.",
        {
            "name": "Its name.",
            "monitor": "The path of its QMP socket; null when it has none.",
            "hook": "The executable that rewrites its definition; null for none.",
            "created": "When it was recorded (UTC, ISO 8601).",
        },
    ),
    "disks": Description(
        "The catalog: the disks of each domain.",
        {
            "domain": "The domain.",
            "target": "The disk's name, such as `vda`.",
            "source": "The active image: the one to boot from. While a deletion of"
            " the domain is open, `backfold domain show` knows better.",
            "position": "The order in which the disks were named.",
        },
    ),
    "images": Description(
        "The catalog: every image file or device that a disk or a snapshot refers to.",
        {
            "path": "Its absolute path.",
            "format": "`qcow2` or `raw`; never probed again.",
            "made_by": "The run that made it, or `adopted`; null when it was there"
            " before. Only images that are not null here are ever removed.",
        },
    ),
    "kept_images": Description(
        "The catalog: images without a snapshot that stay because several need them.",
        {
            "path": "The image.",
            "domain": "The domain whose chains it is in.",
            "target": "The disk.",
        },
    ),
    "snapshots": Description(
        "The catalog: points in time, as a tree for each domain.",
        {
            "domain": "The domain.",
            "name": "Its name.",
            "parent": "The snapshot that it was taken after; null for a root.",
            "created": "When it was taken (UTC, ISO 8601).",
            "status": "`valid`, `deleting`, or `invalid`: something was written into"
            " its images, so that it cannot be reverted to, only deleted.",
            "reason": "Why it is invalid.",
            "current": "1 for the snapshot that the domain goes on from.",
            "memory": "The file with the guest's memory; null when there is none.",
        },
    ),
    "snapshot_disks": Description(
        "The catalog: the image that holds a snapshot's point in time, disk by disk.",
        {
            "domain": "The domain.",
            "snapshot": "The snapshot.",
            "target": "The disk.",
            "frozen": "The image that the snapshot froze.",
        },
    ),
    "deletions": Description(
        "Deletions of snapshots, open and finished. No row is ever removed.",
        {
            **_RUN,
            "snapshot": "The snapshot that was named; `plan` has all that go with it.",
            "options": "What was asked for (JSON).",
            "plan": "What the present pass does (JSON): folds with their chains, what"
            " is kept and removed; null before it is planned.",
            "passes": "What earlier passes did (JSON), when it takes more than one.",
            "helper": "The QEMU that Backfold started for a domain that is off (JSON:"
            " socket, pid, start time, boot id).",
            "hold": "While disks vote (JSON): which disks, which images are fenced as"
            " what, whether the guest is stopped by us; null otherwise.",
            "cancel_requested": "1 when somebody asked for it to be given up.",
            "downtime_ms": "How long the guest stood still in all holds, in"
            " milliseconds; null when it never did.",
        },
    ),
    "folds": Description(
        "One disk of a deletion's present pass.",
        {
            "deletion": "The deletion.",
            "target": "The disk.",
            "machine": "Always `fold`.",
            "state": "From `voted` on the base is what to boot from.",
            "top_stamp": "Size and modification time (ns) of the top image at the"
            " decision (JSON); null before it.",
            "base_stamp": "The same of the base.",
        },
    ),
    "creations": Description(
        "The taking of snapshots, open and finished.",
        {
            **_RUN,
            "snapshot": "The name of the new snapshot.",
            "plan": "The overlays that are made and the images that are frozen (JSON).",
        },
    ),
    "reversions": Description(
        "Reverts to snapshots, open and finished.",
        {
            **_RUN,
            "snapshot": "The snapshot that was reverted to.",
            "plan": "The new overlays and the images that they replace (JSON).",
        },
    ),
    "transitions": Description(
        "History: what every run did. It only grows; triggers refuse changes.",
        {
            "id": "Counts up without a gap; the order of all rows.",
            "machine": "`deletion`, `fold`, `creation` or `reversion`.",
            "run": "The run's id; of a fold, that of its deletion.",
            "source": "The state that the run was in.",
            "trigger": "The edge that was taken, the step that is done, or a remark:"
            " `claim` (begun, or taken over), `alarm`, `request_cancel`,"
            " `flush_failed`, `left_open`.",
            "dest": "The state afterwards; the same as `source` except for an edge.",
            "kind": "`edge`; `announce` (the step will be done), `note` (it is done);"
            " `remark`.",
            "who": "Who wrote it: user@host:pid.",
            "generation": "The run's generation that the writer had.",
            "detail": "More about it (JSON): the disk, the reason, what QEMU answered."
            " `steps` has what steps without a row of their own have told, and their"
            " seconds. A run's last edge has `journal`: how many COMMITs its rows took"
            " before it, in how many seconds, and the longest.",
            "at": "When (UTC, ISO 8601).",
        },
    ),
    "declared_states": Description(
        "The states that the machines have, as this version declares them.",
        {"machine": "The machine.", "state": "The state."},
    ),
    "declared_transitions": Description(
        "Edges, steps and remarks that may be recorded. `transitions` refers to it, so"
        " that nobody can write what was not declared.",
        {
            "machine": "The machine.",
            "source": "The state before.",
            "trigger": "The edge, step or remark.",
            "dest": "The state after; the same for steps and remarks.",
        },
    ),
    "allowed_folds": Description(
        "Which states of its folds each state of a deletion allows.",
        {"deletion_state": "The deletion's state.", "fold_state": "A fold's state."},
    ),
    "_sqlite_migrations": Description(
        "Which versions of the schema this file has; kept by sqlite-utils.",
        {
            "id": "Counts up.",
            "migration_set": "Always `backfold`.",
            "name": "The migration.",
            "applied_at": "When it was applied (UTC).",
        },
    ),
}
