"""Safeguards to take away, one at a time, and the tests that must notice.

When code moves, a mutation may no longer apply: `tests/unit/test_mutations.py` says so.
Bring its old text up to date then; a safeguard that is gone for good needs another
answer than a shorter catalogue.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ORDER: Final = "tests/real/test_order.py"
BASE_FIRST: Final = f"{ORDER}::test_the_base_is_durable_before_the_overlay_is_fenced"
LINK_LAST: Final = (
    f"{ORDER}::test_what_was_copied_is_flushed_and_durable_before_a_link_changes"
)
CONTRACT: Final = "tests/contract/test_images_contract.py::TestQemuImages"
LAST_LOOK: Final = (
    "tests/real/test_last_look.py::test_a_vote_that_was_taken_back_is_not_decided"
)
BITMAPS: Final = "tests/real/test_bitmaps.py"
JOURNAL: Final = "tests/cli/test_bad_journal.py"


@dataclass(frozen=True, slots=True)
class Mutation:
    """One safeguard taken away: in ``file``, each old text becomes the new one.

    Each old text must be there exactly once, and every one of ``tests`` must fail.
    """

    name: str
    what: str
    file: str
    edits: tuple[tuple[str, str], ...]
    tests: tuple[str, ...]


CATALOGUE: Final = (
    Mutation(
        "flush in PENDING",
        "QEMU is not told to flush what an intermediate fold copied before its link"
        " changes",
        "states/ballot.py",
        (("await session.flush(chain.images[depth])", "pass"),),
        (LINK_LAST,),
    ),
    Mutation(
        "flush of a stream in PENDING",
        "QEMU is not told to flush what a stream copied before its link changes",
        "states/ballot.py",
        (
            (
                "    waiting = [fold for fold in folds if not fold.is_active]",
                "    waiting = [f for f in folds if not (f.is_active or f.is_stream)]",
            ),
        ),
        (LINK_LAST,),
    ),
    Mutation(
        "fsync of copied files",
        "the base of an intermediate fold is not synced before its link changes",
        "states/ballot.py",
        (
            (
                "await ctx.sync([path for fold in waiting for path in"
                " fold.survivor.paths])",
                "pass",
            ),
        ),
        (LINK_LAST,),
    ),
    Mutation(
        "fsync of written files",
        "what was copied is not synced before the overlay is fenced",
        "states/ballot.py",
        (("            await ctx.images.sync(paths)", "            pass"),),
        (BASE_FIRST,),
    ),
    Mutation(
        "fence",
        "the superseded overlay keeps its name when it is decided",
        "states/ballot.py",
        (
            (
                "await ctx.images.rename(fold.top.path, ctx.fence(fold.top),"
                " fold.top.file)",
                "pass",
            ),
            (
                "path = ctx.fence(fold.top) if fold.is_active else fold.top.path",
                "path = fold.top.path",
            ),
        ),
        (BASE_FIRST,),
    ),
    Mutation(
        "fsync of the directory",
        "the new name of a fenced overlay is not made durable",
        "engine/files.py",
        (("        sync_folders(new, target_folder, folder)", "        pass"),),
        (
            f"{CONTRACT}::test_directory_is_synced_even_when_it_is_renamed_already",
            f"{CONTRACT}::test_rename_that_cannot_be_made_durable_is_unknown",
        ),
    ),
    Mutation(
        "round trip",
        "nobody asks, after the fence, whether every job still waits",
        "states/ballot.py",
        (
            (
                "        if not _is_pending(ctx, fold, jobs.get(fold.job)):",
                "        if False:",
            ),
        ),
        (LAST_LOOK,),
    ),
    Mutation(
        "decision row",
        "QEMU is told to switch before the decision is durable",
        "states/vote.py",
        (
            (
                '    return Move("decide", ',
                "    for fold in folds:\n"
                "        await session.finalize(fold.job)\n"
                '    return Move("decide", ',
            ),
        ),
        (BASE_FIRST,),
    ),
    Mutation(
        "telling the owner after the decision",
        "the definition names the base while the overlay is still the truth",
        "states/vote.py",
        (
            (
                '    detail = {"disks": sorted(stamps), **announced_call(ctx)}\n',
                "    await ctx.owner.begin(\n"
                "        ctx.owner.switch(switched_disks(ctx.plan)), 60\n"
                "    )\n"
                '    detail = {"disks": sorted(stamps), **announced_call(ctx)}\n',
            ),
        ),
        (
            "tests/real/test_hooks.py"
            "::test_the_owner_is_told_between_the_decision_and_the_first_write",
        ),
    ),
    Mutation(
        "left-over calls of a hook",
        "a call that an engine which died left running may write last",
        "engine/hooks.py",
        (("        if call.again:\n", "        if False:\n"),),
        (
            "tests/unit/test_hooks.py"
            "::test_what_a_dead_engine_left_running_is_ended_first",
            "tests/crash/test_hooks.py::test_a_hook_that_outlives_its_engine",
        ),
    ),
    Mutation(
        "read-back of the graph",
        "a job that has ended counts as a disk that has switched",
        "states/pivot.py",
        (
            (
                "        _, position = locate(chains, fold)",
                "        position = Position.SWITCHED",
            ),
        ),
        (
            "tests/real/test_interference.py::test_jobs_are_cancelled_after_the_decision[job-cancel-vote.decide.noted-]",
        ),
    ),
    Mutation(
        "lock",
        "two engines may work on one domain",
        "journal/locks.py",
        (("fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)", "pass"),),
        (
            "tests/unit/test_locks.py::test_two_processes_exclude_each_other",
            "tests/cli/test_runs.py::test_a_lock_of_somebody_else_is_status_4",
            "tests/cli/test_recover.py"
            "::test_the_second_of_two_recoveries_says_who_is_busy",
        ),
    ),
    Mutation(
        "guard",
        "nobody watches over a hold",
        "engine/guard.py",
        (
            (
                "        if self._process is not None:\n            return\n",
                "        return\n",
            ),
        ),
        (
            "tests/crash/test_guard.py::test_the_guard_lets_the_guest_go_on[vote.decide.announced]",
        ),
    ),
    Mutation(
        "release of the guest",
        "a vote that is taken back leaves the guest standing",
        "states/hold.py",
        (("    await session.cont()", "    pass"),),
        (LAST_LOOK,),
    ),
    Mutation(
        "stamps of the decision",
        "an overlay that went on after the decision is not noticed",
        "states/stamps.py",
        (
            (
                "    if top != row.top_stamp:",
                "    if False:",
            ),
        ),
        (
            "tests/unit/test_truth.py"
            "::test_an_overlay_that_went_on_after_the_decision_is_the_truth",
            "tests/unit/test_truth.py::test_when_both_went_on_there_is_doubt",
        ),
    ),
    Mutation(
        "intent before effect",
        "steps are done without an announcement in the journal",
        "engine/runner.py",
        (
            (
                'return step.covered_by is None and step.name != "release_votes"',
                "return False",
            ),
        ),
        (
            "tests/unit/test_runner.py::test_a_step_is_announced_done_and_noted",
            "tests/unit/test_runner.py"
            "::test_a_step_that_cannot_be_announced_is_not_done",
        ),
    ),
    Mutation(
        "durable rows",
        "a row of the journal is not on the disk when the engine goes on",
        "journal/store.py",
        (("PRAGMA synchronous = FULL", "PRAGMA synchronous = OFF"),),
        (
            "tests/unit/test_store.py"
            "::test_the_writer_has_wal_full_synchronous_and_foreign_keys",
        ),
    ),
    Mutation(
        "inode of what is removed",
        "another file of a fenced name may be removed",
        "engine/files.py",
        (
            (
                "    if found != file:\n        raise",
                "    if False:\n        raise",
            ),
        ),
        (f"{CONTRACT}::test_unlink_of_another_file_is_refused",),
    ),
    Mutation(
        "fences that nobody knows",
        "a journal that is older than the disks is used for recovery",
        "engine/diagnosis.py",
        (
            (
                "    if known is None:\n        return True\n",
                "    if known is None:\n        return False\n",
            ),
        ),
        (f"{JOURNAL}::test_a_database_without_its_log_is_older_than_the_disks",),
    ),
    Mutation(
        "bitmaps of the images above",
        "what was written into superseded images is not merged",
        "states/ballot.py",
        (
            (
                "if bitmaps := await bitmaps_to_carry(session, voting, chains):",
                "if bitmaps := ():",
            ),
        ),
        (
            f"{BITMAPS}::test_backups_go_on_when_snapshots_are_deleted_off",
            f"{BITMAPS}::test_backups_go_on_when_a_range_is_deleted[stream]",
        ),
    ),
    Mutation(
        "notes of the base",
        "what the base's bitmap had noted is not kept while a job copies into it",
        "states/commit_per_disk.py",
        (("    await note_bitmaps(ctx, session, fold, chain)\n", ""),),
        (f"{BITMAPS}::test_roll_back_gives_the_base_its_bitmaps_back",),
    ),
    Mutation(
        "a stream that has ended",
        "a stream that has ended is left to be listed, which kills QEMU",
        "engine/qmp/session.py",
        (
            (
                '"auto_dismiss": fold.is_stream,',
                '"auto_dismiss": False,',
            ),
        ),
        (f"{BITMAPS}::test_backups_go_on_when_a_range_is_deleted[stream]",),
    ),
    Mutation(
        "history without holes",
        "a journal that has lost rows of its history is used for recovery",
        "journal/audit.py",
        (("    if count != (last or 0):", "    if False:"),),
        (f"{JOURNAL}::test_rows_that_contradict_each_other[a hole]",),
    ),
)
