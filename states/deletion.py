"""The machine of a deletion: states, edges and steps, and nothing else.

    validate → prepare → start_paused → commit_per_disk → vote → pivot
             → update_metadata → stop → completed

`decide` (vote → pivot) is the point of no return. Before it a run can be given up,
after it there is only forward.
"""

from __future__ import annotations

from typing import Final

from .machine import Declaration, Edge, Recovery, State, Step
from .owner_steps import ASK_OWNER, TELL_OWNER

RELEASE_VOTES: Final = Step(
    "release_votes",
    "cancels the voted jobs, takes the fences back, lets the guest go on if it ran",
    "the guest still stands, or a fence is still there",
    Recovery.REPEAT,
)
END_HELPER: Final = Step(
    "end_helper",
    "ends the QEMU that Backfold started, and waits for its end",
    "a helper without work, known by its socket, pid, start time and boot id",
    Recovery.REPEAT,
)

START_HELPER: Final = Step(
    "start_helper",
    "starts QEMU with one private monitor; it opens no image before"
    " its pid, start time and boot id are durable",
    "a helper behind the socket that the intent names",
    Recovery.OBSERVE,
    undone_by="end_helper",
)
OPEN_IMAGES: Final = Step(
    "open_images",
    "opens each chain in the helper, and compares its graph with the plan",
    "a helper that holds the images' locks",
    Recovery.OBSERVE,
    undone_by="end_helper",
)
REOPEN_ABOVE: Final = Step(
    "reopen_above",
    "reopens the image whose link will change read-write: QEMU"
    " crashes at job-finalize when it cannot",
    "an image below the active one is open for writing, unwritten",
    Recovery.REPEAT,
    undone_by="restore_read_only",
)
NOTE_BITMAPS: Final = Step(
    "note_bitmaps",
    "keeps what the dirty bitmaps of the base have noted, in bitmaps that QEMU forgets"
    " at its end; nothing when no image of the fold has any",
    "bitmaps of the deletion's name in a QEMU",
    Recovery.REPEAT,
    undone_by="restore_bitmaps",
)
START_JOB: Final = Step(
    "start_job",
    "starts `block-commit` with auto-finalize and auto-dismiss off, or"
    " `block-stream` with auto-finalize off, on-error stop, and an id derived from"
    " the deletion",
    "a job that copies; the old chain stays whole",
    Recovery.OBSERVE,
    undone_by="cancel_jobs",
)
RESUME_JOB: Final = Step(
    "resume_job",
    "lets a job go on that stopped after an I/O error",
    "a job that runs or waits",
    Recovery.OBSERVE,
)
DISMISS_JOBS: Final = Step(
    "dismiss_jobs",
    "forgets jobs of this deletion that were cancelled",
    "a concluded job without effect",
    Recovery.REPEAT,
)

#: How disks vote; in `vote`, and once more in `pivot` for a disk that was kept.
BALLOT: Final = (
    Step(
        "flush_copied",
        "flushes what each intermediate fold and stream wrote in PENDING and syncs"
        " it: QEMU rewrites the link first and flushes later",
        "nothing",
        Recovery.REPEAT,
    ),
    Step(
        "hold",
        "announces everything up to the decision, and which disks are to switch, with"
        " one durable row",
        "an intent and nothing else",
        Recovery.OBSERVE,
        undone_by="release_votes",
    ),
    Step(
        "stop_guest",
        "sends `stop` if the guest ran, then reads again what is left to copy",
        "a guest that stands still",
        Recovery.OBSERVE,
        undone_by="release_votes",
        covered_by="hold",
    ),
    Step(
        "complete_jobs",
        "sends `job-complete` for each active fold, and waits for PENDING",
        "drained jobs: top and base are equal",
        Recovery.OBSERVE,
        undone_by="release_votes",
        covered_by="hold",
    ),
    Step(
        "carry_bitmaps",
        "makes the bitmaps of every image that survives what they are to be, in one"
        " transaction, while the jobs are PENDING; nothing when there are none",
        "bitmaps of a base that have too much, or one that is not there otherwise",
        Recovery.REPEAT,
        undone_by="restore_bitmaps",
        covered_by="hold",
    ),
    Step(
        "sync_written",
        "fsyncs every file that was written into, overlays too: what the decision"
        " records of their mtimes must be durable",
        "nothing",
        Recovery.REPEAT,
        covered_by="hold",
    ),
    Step(
        "fence",
        "renames each superseded active image in its own directory, never"
        " over another file, and syncs the directory",
        "an image of a fenced name beside an equal base",
        Recovery.OBSERVE,
        undone_by="release_votes",
        covered_by="hold",
    ),
    Step(
        "look_again",
        "one round trip on the same connection: every job still PENDING,"
        " the run state ours",
        "nothing",
        Recovery.REPEAT,
        covered_by="hold",
    ),
)

DELETION: Final = Declaration(
    name="deletion",
    title="A deletion: snapshots folded away",
    states=(
        State(
            "validate",
            "Reads the domain, its chains and its QEMU, and finds every reason to"
            " refuse at once. Reads only; no process is started.",
            killed="Nothing but this row.",
            recovers="Runs again.",
        ),
        State(
            "prepare",
            "Runs the same checks under the lock, tries out the fence, syncs the frozen"
            " images, asks the owner of the definition, stores the plan and marks the"
            " snapshots as being deleted.",
            killed="An empty probe file beside an image, or the helper of an earlier"
            " attempt.",
            recovers="Runs again; the probe file is removed.",
            steps=(
                Step(
                    "probe_fence",
                    "creates, renames and removes a file beside each image that will"
                    " be fenced",
                    "an empty probe file of this run's name",
                    Recovery.REPEAT,
                ),
                ASK_OWNER,
                Step(
                    "sync_frozen",
                    "fsyncs the frozen images, and waits until a write must change"
                    " their times: validity after a roll back is proved by these",
                    "nothing",
                    Recovery.REPEAT,
                ),
                END_HELPER,
            ),
        ),
        State(
            "start_paused",
            "Starts the helper, a paused QEMU without vCPU and devices, and opens the"
            " images in it. Only when no QEMU of the domain has them.",
            killed="A helper that has opened nothing, or has the images open.",
            recovers="Alive: attach to it. Dead: start again.",
            steps=(
                START_HELPER,
                OPEN_IMAGES,
                END_HELPER,
            ),
        ),
        State(
            "commit_per_disk",
            "Runs one block job per disk, all at once, until every fold has converged:"
            " READY for an active fold, PENDING for an intermediate one.",
            killed="Jobs that go on by themselves, and wait when they have converged.",
            recovers="Attaches to the jobs by their ids; nothing is copied twice."
            " QEMU gone: plans again from the chain, which is whole.",
            steps=(
                REOPEN_ABOVE,
                NOTE_BITMAPS,
                START_JOB,
                RESUME_JOB,
                DISMISS_JOBS,
            ),
        ),
        State(
            "vote",
            "Flushes what intermediate folds copied; then, if an active image must"
            " switch, holds the guest within the downtime, completes every job, syncs"
            " the files, fences the superseded active images, and looks again. A vote"
            " is our own job-complete, accepted on this connection, then PENDING.",
            killed="The guest may stand still; top and base of a voted disk are"
            " equal, and either can be booted from.",
            recovers="No decision is durable, so the overlay is the truth: always"
            " release. QEMU alive: converge and vote again. Gone: plan again. The"
            " guard does this at once when the engine dies.",
            steps=(
                ASK_OWNER,
                *BALLOT,
                RELEASE_VOTES,
            ),
        ),
        State(
            "pivot",
            "Finalizes every job, reads graph and headers back, tells the owner of the"
            " definition, lets the guest go on if it ran, syncs changed headers, and"
            " closes the old images.",
            killed="Every disk is on its overlay or on its base, and both are of one"
            " instant as long as the guest stands.",
            recovers="Forward only. PENDING: finalize. Switched: go on. On its overlay"
            " although decided (somebody cancelled): that overlay is the truth, its"
            " fence is taken back and the disk is folded again. QEMU gone: the bases"
            " are the truth, checked against the stamps of the decision; links of"
            " intermediate folds that did not change yet are changed while nobody"
            " has the image. The owner of the definition is told again.",
            steps=(
                Step(
                    "finalize",
                    "sends `job-finalize` for every fold, then reads the graph back",
                    "disks on their bases, or jobs still PENDING",
                    Recovery.OBSERVE,
                    covered_by="decide",
                ),
                Step(
                    "call_hook",
                    "calls the hook of the domain, if it has one, with the images that"
                    " the disks are on, and waits for it within what is left of the"
                    " downtime",
                    "a definition that names the former images, which are fenced, or"
                    " the present ones",
                    Recovery.REPEAT,
                    covered_by="decide",
                ),
                Step(
                    "release_guest",
                    "sends `cont`, if the guest ran and we stopped it",
                    "a guest that runs on the bases",
                    Recovery.OBSERVE,
                    covered_by="decide",
                ),
                Step(
                    "relink",
                    "changes the link of the image above while the domain is off",
                    "a header that names the top or the base; both chains are whole",
                    Recovery.OBSERVE,
                ),
                Step(
                    "unfence",
                    "gives a fenced overlay its name back, because the guest is kept"
                    " on it",
                    "an overlay of the one name or the other",
                    Recovery.OBSERVE,
                    covered_by="decide",
                ),
                TELL_OWNER,
                Step(
                    "sync_headers",
                    "fsyncs the images whose link changed and reads their headers back",
                    "nothing",
                    Recovery.REPEAT,
                ),
                Step(
                    "close_images",
                    "dismisses the jobs, drops the nodes of superseded images, forgets"
                    " the notes of bitmaps, and reopens images below the active one"
                    " read-only",
                    "nodes of images that nothing uses, or an image below the active"
                    " one that is still open for writing; nothing writes to it",
                    Recovery.REPEAT,
                ),
                START_HELPER,
                OPEN_IMAGES,
                REOPEN_ABOVE,
                NOTE_BITMAPS,
                START_JOB,
                RESUME_JOB,
                DISMISS_JOBS,
                *BALLOT,
                Step(
                    "keep",
                    "records that the overlay is the truth of a disk, before anything"
                    " is copied into its base again",
                    "a disk on its overlay, complete",
                    Recovery.REPEAT,
                ),
                Step(
                    "decide_again",
                    "records the stamps of disks that were folded once more",
                    "as after decide, for these disks",
                    Recovery.REPEAT,
                ),
                RELEASE_VOTES,
                END_HELPER,
            ),
        ),
        State(
            "update_metadata",
            "Changes the catalog in one transaction, then retires the superseded"
            " images and the memory files, each after a proof that nothing uses it.",
            killed="A catalog as before or as after, and superseded images or memory"
            " files that are still there, perhaps under the fence's name.",
            recovers="Runs again: the catalog change and each removal are idempotent.",
            steps=(
                Step(
                    "record",
                    "disk sources, frozen images, parents, current snapshot and the"
                    " snapshot's row, compare-and-set, in one transaction",
                    "nothing: it is one transaction",
                    Recovery.REPEAT,
                ),
                Step(
                    "set_aside",
                    "renames a superseded image, or a memory file, to the fence's name",
                    "a file that nothing refers to, of the one name or the other",
                    Recovery.OBSERVE,
                ),
                Step(
                    "unlink",
                    "removes exactly that name with exactly that inode, under the"
                    " image's lock, after a proof that no process has it",
                    "a file that is there or is gone",
                    Recovery.OBSERVE,
                ),
            ),
        ),
        State(
            "stop",
            "Ends the helper, and checks the bases now that nobody has them open.",
            killed="A helper that still has the bases open, or nothing.",
            recovers="Runs again.",
            steps=(
                END_HELPER,
                Step(
                    "check_bases",
                    "qemu-img check of each base",
                    "nothing: it only reads",
                    Recovery.REPEAT,
                ),
            ),
        ),
        State("completed", "The snapshots are gone; every write is there.", final=True),
        State(
            "roll_back",
            "Undoes in reverse: jobs cancelled and ended, images read-only again, the"
            " guest released, the helper ended; the snapshot becomes valid if it is"
            " proved that nothing was written into its frozen images, invalid"
            " otherwise.",
            killed="Some of it is undone; the old chain is whole at every moment.",
            recovers="Runs again.",
            steps=(
                RELEASE_VOTES,
                Step(
                    "cancel_jobs",
                    "cancels the jobs, waits for their end and forgets them",
                    "jobs that end by themselves",
                    Recovery.REPEAT,
                ),
                Step(
                    "restore_bitmaps",
                    "makes the bitmaps of the bases as they were before the jobs, and"
                    " forgets the notes of them",
                    "bitmaps of a base that have too much",
                    Recovery.REPEAT,
                ),
                Step(
                    "restore_read_only",
                    "reopens images below the active one read-only",
                    "an image below the active one that is still open for writing;"
                    " nothing writes to it",
                    Recovery.REPEAT,
                ),
                END_HELPER,
            ),
        ),
        State("rolled_back", "The domain is as before the deletion.", final=True),
        State("refused", "Nothing was changed; the row stays as history.", final=True),
    ),
    edges=(
        Edge("accept", "validate", "prepare", "no check found a reason to refuse"),
        Edge(
            "refuse",
            "validate",
            "refused",
            "a check found a reason; all are told at once",
        ),
        Edge("refuse", "prepare", "refused", "a check failed under the lock"),
        Edge(
            "proceed",
            "prepare",
            "update_metadata",
            "nothing has to be copied",
            ("has_no_folds",),
        ),
        Edge(
            "proceed",
            "prepare",
            "start_paused",
            "no QEMU of the domain has the images",
            ("needs_helper",),
        ),
        Edge("proceed", "prepare", "commit_per_disk", "domain on: a QEMU runs it"),
        Edge("proceed", "start_paused", "commit_per_disk", "the graph agrees"),
        Edge("proceed", "commit_per_disk", "vote", "every fold has converged"),
        Edge(
            "back_off",
            "vote",
            "commit_per_disk",
            "too much left to copy within the downtime, or the votes were released",
        ),
        Edge(
            "decide",
            "vote",
            "pivot",
            "every disk has voted and is fenced: the point of no return",
            ("every_fold_voted",),
        ),
        Edge(
            "annul",
            "pivot",
            "vote",
            "the COMMIT of decide reported an error, and nothing has acted on it",
            ("nothing_finalized",),
        ),
        Edge("proceed", "pivot", "update_metadata", "every disk was read back"),
        Edge(
            "proceed",
            "update_metadata",
            "stop",
            "the old images are retired, and there is a helper",
            ("has_helper",),
        ),
        Edge(
            "proceed",
            "update_metadata",
            "completed",
            "the old images are retired, and there is no helper",
        ),
        Edge(
            "proceed", "stop", "completed", "the helper has ended, the bases are sound"
        ),
        Edge(
            "again",
            "update_metadata",
            "prepare",
            "an image that lost its snapshot can be folded now",
            ("has_more",),
        ),
        Edge(
            "again",
            "stop",
            "prepare",
            "an image that lost its snapshot can be folded now",
            ("has_more",),
        ),
        Edge(
            "finish",
            "prepare",
            "completed",
            "the snapshot is gone already; what cannot be folded stays, unnamed",
            ("is_recorded",),
        ),
        Edge("replan", "start_paused", "prepare", "the world changed under us"),
        Edge(
            "replan", "commit_per_disk", "prepare", "QEMU is gone, or another one runs"
        ),
        Edge("replan", "vote", "prepare", "QEMU is gone, or another one runs"),
        Edge("abandon", "prepare", "roll_back", "cancel, failure or time-out"),
        Edge("abandon", "start_paused", "roll_back", "cancel, failure or time-out"),
        Edge("abandon", "commit_per_disk", "roll_back", "cancel, failure or time-out"),
        Edge("abandon", "vote", "roll_back", "cancel, failure or time-out"),
        Edge(
            "finish",
            "roll_back",
            "completed",
            "a later pass was undone: the snapshot is gone already",
            ("is_recorded",),
        ),
        Edge("proceed", "roll_back", "rolled_back", "everything is undone"),
    ),
)

#: The states that a run can be given up in.
UNDECIDED: Final = frozenset(
    edge.source for edge in DELETION.edges if edge.trigger == "abandon"
) | {"validate", "roll_back"}
