"""What is said of each step, edge and remark of a run, in the operator's words.

Each sentence has two forms: the full one needs what the step told, and the plain one
needs nothing, for rows of versions that told less, and for damaged ones.
"""

from __future__ import annotations

import os.path
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

from .words import brief, count, size

Facts: TypeAlias = Mapping[str, Any]
#: The full form, and the plain one.
Forms: TypeAlias = tuple[Callable[[Facts], str], str]


def of_step(name: str, facts: Facts) -> str:
    """What a step did."""
    plain = f"Did {name.replace('_', ' ')}."
    return _said(STEPS.get(name, (lambda _: plain, plain)), facts)


def of_edge(source: str, name: str, dest: str, facts: Facts) -> str | None:
    """What an edge tells; None when it says no more than the state that it leads to."""
    because = facts.get("because")
    if isinstance(because, str):
        begun = _EDGES.get(name, name.replace("_", " ").capitalize())
        return f"{begun}: {because.rstrip('.')}."
    if name == "proceed" and dest == "rolled_back":
        return _said((_undone, "Everything is undone."), facts)
    forms = EDGES.get((source, name)) or EDGES.get(name)
    return None if forms is None else _said(forms, facts)


def of_remark(name: str, facts: Facts) -> str:
    """What a remark tells."""
    plain = f"{name.replace('_', ' ').capitalize()}."
    return _said(REMARKS.get(name, (lambda _: plain, plain)), facts)


def unfinished(name: str) -> str:
    """What is said of a step that was announced, and never noted as done."""
    return (
        f"{name.replace('_', ' ').capitalize()} was announced and not noted as done:"
        " it may have happened or not."
    )


def of_plan(disk: str, facts: Facts) -> str:
    """How one disk is to be folded."""

    def full(facts: Facts) -> str:
        top, base = base_name(facts["top"]), base_name(facts["base"])
        way = (
            f"{base} into {top}"
            if facts["strategy"] == "stream"
            else (f"{top} into {base}")
        )
        return f"{disk}: {facts['strategy']} {way}, {size(facts['bytes'])} to copy."

    return _said((full, f"{disk} is to be folded."), facts)


def of_copy(disk: str, facts: Facts) -> str:
    """How much was copied until a disk had converged."""

    def full(facts: Facts) -> str:
        seconds, copied = facts["seconds"], facts["copied"]
        if not facts["active"]:
            return (
                f"{disk} converged: QEMU went through {size(facts['bytes'])} in"
                f" {brief(seconds)}; {size(facts['planned'])} of it were to be copied."
            )
        at = f" ({size(copied / seconds)}/s)" if seconds >= 0.001 and copied else ""
        before = facts["bytes"] - copied
        had = f", after {size(before)} before that" if before else ""
        return f"{disk} converged: {size(copied)} copied in {brief(seconds)}{at}{had}."

    return _said((full, f"{disk} converged: all that there was is copied."), facts)


def base_name(path: str) -> str:
    """A path without its folders."""
    return os.path.basename(path) or path


def _said(forms: Forms, facts: Facts) -> str:
    """The full form, or the plain one when a fact is missing or is not what it was."""
    full, plain = forms
    try:
        return full(facts)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return plain


def _list(words: Iterable[str]) -> str:
    return ", ".join(words)


def _names(paths: Iterable[str]) -> str:
    return _list(base_name(path) for path in paths)


#: What is said of a job that QEMU has no more.
_ENDED: Final = "has ended"


def _jobs(facts: Facts) -> str:
    """``vda pending at 7.6 MiB, vdb has ended``: QEMU's word for each job."""
    return _list(
        f"{disk} {_ENDED if job['status'] == 'gone' else job['status']}"
        + (f" at {size(job['bytes'])}" if "bytes" in job else "")
        + (f" ({job['error']})" if "error" in job else "")
        for disk, job in facts["jobs"].items()
    )


def _stood(facts: Facts) -> str:
    """How long a guest stood, at the end of a sentence."""
    held, total = facts.get("held_ms"), facts.get("downtime_ms")
    if held is None:
        return ""
    said = f"; it stood still for {held:.0f} ms"
    return said if total is None or total == held else f"{said} ({total:.0f} ms in all)"


def _hold(facts: Facts) -> str:
    disks, state = _list(facts["disks"]), facts["run_state"]
    if facts["stops_guest"]:
        return (
            f"Called the vote of {disks}; the guest is {state}, and is stopped for it."
        )
    if facts["fences"]:
        return f"Called the vote of {disks}; the guest is {state} and stays so."
    return f"Called the vote of {disks}; the guest need not be stopped for it."


def _released(facts: Facts) -> str:
    taken = []
    if facts["cancelled"]:
        taken.append(f"the votes of {_list(facts['cancelled'])} were cancelled")
    if facts["unfenced"]:
        taken.append(f"{_names(facts['unfenced'])} got back their names")
    if facts.get("sent") == "cont":
        taken.append("the guest goes on")
    taken = taken or ["nothing of it had happened"]
    return f"Took the vote back: {'; '.join(taken)}{_stood(facts)}."


def _owner(facts: Facts) -> str:
    hook = facts["hook"]
    return (
        "the program that owns the definition" if hook is None else f"the hook {hook}"
    )


def _images(facts: Facts) -> str:
    return _list(
        f"{disk} is {base_name(path)}" for disk, path in facts["disks"].items()
    )


def _called(facts: Facts) -> str:
    """A call while the guest stood, which may have come to no end."""
    if facts["status"] == 0:
        return f"Told {_owner(facts)}: {_images(facts)}."
    why = f" ({said.removesuffix('.')})" if (said := facts.get("said")) else ""
    return (
        f"Called {_owner(facts)} with {_images(facts)}; it had not succeeded when the"
        f" guest went on{why}."
    )


def _let_go(facts: Facts) -> str:
    found = facts.get("found")
    if facts.get("sent") == "cont":
        return f"QEMU had the guest {found}, and let it go on{_stood(facts)}."
    if found is None:
        return "No guest had been stopped."
    if found == "no QEMU":
        return f"No QEMU has the guest any more{_stood(facts)}."
    return f"The guest was not let go on: QEMU says {found}{_stood(facts)}."


def _links(facts: Facts) -> str:
    if not facts["links"]:
        return "Read back the graph: no header had to change."
    return (
        "Synced the changed headers and read them back: "
        + _list(
            f"{base_name(image)} is based on {base_name(link) if link else 'nothing'}"
            for image, link in facts["links"].items()
        )
        + "."
    )


def _recorded(facts: Facts) -> str:
    moved = _list(f"{disk} is {base_name(p)}" for disk, p in facts["disks"].items())
    gone = (
        f"{_list(facts['snapshots'])} {'is' if len(facts['snapshots']) < 2 else 'are'}"
    )
    return f"Recorded in the catalog: {gone} gone" + (f"; {moved}." if moved else ".")


def _removed(facts: Facts) -> str:
    path = facts.get("image") or facts["memory"]
    if "left" in facts:
        return f"Left {base_name(path)} alone: {facts['left']}."
    held = f" ({size(facts['bytes'])})" if "bytes" in facts else ""
    return f"Removed {base_name(path)}{held}."


def _undone(facts: Facts) -> str:
    if facts["written"]:
        return (
            f"Everything is undone. Written into meanwhile: {_names(facts['written'])}:"
            " what it held at its snapshot cannot be gone back to."
        )
    return "Everything is undone, and nothing was written into a frozen image."


def _accepted(facts: Facts) -> str:
    total = sum(facts["bytes"].values())
    return (
        f"All checks passed: {size(total)} to copy on"
        f" {count(len(facts['bytes']), 'disk')}; the domain is {facts['power']}."
    )


def _refused(facts: Facts) -> str:
    return "Refused: " + " ".join(
        f"{reason['message']} [{reason['code']}]" for reason in facts["reasons"]
    )


def _planned(facts: Facts) -> str:
    where = "in a helper" if facts["place"] == "helper" else "in the domain's QEMU"
    disks = count(len(facts["disks"]), "disk")
    return f"Planned: {disks} {where}; the domain is {facts['power']}."


def _proved(facts: Facts) -> str:
    by = (
        "the graph of QEMU" if facts["proof"] == "graph" else "the images, with no QEMU"
    )
    return (
        f"Proved by {by}: what the guest wrote is in {_names(facts['disks'].values())}."
    )


STEPS: Final[Mapping[str, Forms]] = {
    "probe_fence": (
        lambda f: "Tried out that each image can be renamed where it is.",
        "Tried out that each image can be renamed where it is.",
    ),
    "sync_frozen": (
        lambda f: f"Synced {_names(f['images'])}.",
        "Synced the frozen images.",
    ),
    "start_helper": (
        lambda f: f"Started a helper, a paused QEMU without a guest (pid {f['pid']}).",
        "Started a helper, a paused QEMU without a guest.",
    ),
    "open_images": (
        lambda f: f"The helper opened the chains of {_names(f['images'])}.",
        "The helper opened the images.",
    ),
    "end_helper": (
        lambda f: f"Ended the helper (pid {int(f['pid'])}).",
        "Ended the helper.",
    ),
    "reopen_above": (
        lambda f: f"{f['disk']}: reopened the image whose link will change.",
        "Reopened the image whose link will change.",
    ),
    "note_bitmaps": (
        lambda f: f"{f['disk']}: kept what the dirty bitmaps had noted.",
        "Kept what the dirty bitmaps had noted.",
    ),
    "start_job": (
        lambda f: f"{f['disk']}: QEMU accepted {f['command']}.",
        "QEMU accepted a block job.",
    ),
    "resume_job": (
        lambda f: f"{f['disk']}: let the job go on that had stopped.",
        "Let a job go on that had stopped.",
    ),
    "dismiss_jobs": (
        lambda f: "Jobs that had ended were forgotten.",
        "Jobs that had ended were forgotten.",
    ),
    "flush_copied": (
        lambda f: f"QEMU flushed what was copied into {_names(f['images'])}.",
        "QEMU flushed what was copied.",
    ),
    "hold": (_hold, "Called the vote."),
    "stop_guest": (
        lambda f: f"QEMU stopped the guest, which was {f['found']}.",
        "QEMU stopped the guest.",
    ),
    "complete_jobs": (
        lambda f: f"QEMU was told to complete the jobs: {_jobs(f)}.",
        "QEMU completed the jobs.",
    ),
    "carry_bitmaps": (
        lambda f: f"Carried the dirty bitmaps over: {_list(f['bitmaps'])}.",
        "Carried the dirty bitmaps over.",
    ),
    "sync_written": (
        lambda f: f"Synced {_names(f['images'])}.",
        "Synced what was written into.",
    ),
    "fence": (
        lambda f: (
            "Fenced "
            + _list(
                f"{base_name(old)} as {base_name(new)}"
                for old, new in f["names"].items()
            )
            + "."
        ),
        "Fenced the images that are superseded.",
    ),
    "look_again": (
        lambda f: f"Looked again: {_jobs(f)}; QEMU is {f['run_state']}.",
        "Looked again: every vote stands.",
    ),
    "finalize": (
        lambda f: f"QEMU switched the disks: {_jobs(f)}.",
        "QEMU switched the disks.",
    ),
    "ask_owner": (
        lambda f: f"Asked {_owner(f)} whether it could be given {_images(f)}: it can.",
        "Asked the owner of the definition, which can be changed.",
    ),
    "call_hook": (_called, "Called the owner of the definition."),
    "tell_owner": (
        lambda f: f"Told {_owner(f)}: {_images(f)}.",
        "Told the owner of the definition which images the disks have.",
    ),
    "release_guest": (_let_go, "The guest goes on."),
    "release_votes": (_released, "Took the vote back, if there was one."),
    "unfence": (
        lambda f: f"{_names(f['names'])} got back their names.",
        "Took the fences back.",
    ),
    "relink": (
        lambda f: (
            f"{f['disk']}: {base_name(f['image'])} is based on"
            f" {f['link'] or 'nothing'} now."
        ),
        "Changed the link of an image.",
    ),
    "sync_headers": (_links, "Synced the changed headers and read them back."),
    "close_images": (
        lambda f: "QEMU closed the images that are superseded.",
        "QEMU closed the images that are superseded.",
    ),
    "keep": (
        lambda f: f"Somebody keeps {_list(f['disks'])} on the overlay: folded again.",
        "Somebody keeps a disk on its overlay: it is folded again.",
    ),
    "decide_again": (
        lambda f: f"Decided again for {_list(f['disks'])}.",
        "Decided again for the disks that were folded once more.",
    ),
    "record": (_recorded, "Recorded in the catalog."),
    "set_aside": (
        lambda f: (
            f"Renamed {base_name(f.get('image') or f['memory'])} to"
            f" {base_name(f['fence'])}."
        ),
        "Set a superseded file aside.",
    ),
    "unlink": (_removed, "Removed a superseded file."),
    "check_bases": (
        lambda f: (
            "qemu-img check: "
            + _list(
                f"{base_name(image)} {verdict}"
                for image, verdict in f["images"].items()
            )
            + "."
        ),
        "qemu-img check found the images sound.",
    ),
    "cancel_jobs": (
        lambda f: f"Cancelled the jobs: {_jobs(f)}.",
        "Cancelled the jobs.",
    ),
    "restore_bitmaps": (
        lambda f: "Made the dirty bitmaps as they were.",
        "Made the dirty bitmaps as they were.",
    ),
    "restore_read_only": (
        lambda f: "The images below the disks are read-only again.",
        "The images below the disks are read-only again.",
    ),
    "make_overlays": (
        lambda f: f"Made the new overlays: {_names(f['disks'].values())}.",
        "Made the new overlays.",
    ),
    "switch": (
        lambda f: (
            "QEMU switched to the overlays: "
            + _list(f"{disk} is {base_name(path)}" for disk, path in f["disks"].items())
            + "."
        ),
        "QEMU switched every disk to its overlay.",
    ),
    "sync_images": (
        lambda f: f"Synced {_names(f['images'])}.",
        "Synced the images.",
    ),
    "remove_overlays": (
        lambda f: "Removed the new overlays.",
        "Removed the new overlays.",
    ),
}

#: Edges that say something, by name, or by the state that they leave and name.
EDGES: Final[Mapping[str | tuple[str, str], Forms]] = {
    "accept": (_accepted, "All checks passed."),
    "refuse": (_refused, "Refused."),
    ("prepare", "proceed"): (_planned, "Planned."),
    ("pivot", "proceed"): (_proved, "Every disk was proved to be switched."),
    "decide": (
        lambda f: f"Decided for {_list(f['disks'])}: only forward from here.",
        "Decided: only forward from here.",
    ),
    "annul": (
        lambda f: "The decision was taken back: nobody knew whether it was durable.",
        "The decision was taken back: nobody knew whether it was durable.",
    ),
    "abandon": (_refused, "Given up."),
    "again": (
        lambda f: f"One pass is done ({_list(f['done'])}); another one follows.",
        "One pass is done; another one follows.",
    ),
}
#: How an edge with a reason begins.
_EDGES: Final[Mapping[str, str]] = {
    "abandon": "Given up",
    "back_off": "Backed off",
    "replan": "Plans again",
    "refuse": "Refused",
    "finish": "Ends here",
    "undo": "Undone",
}

REMARKS: Final[Mapping[str, Forms]] = {
    "alarm": (lambda f: f"Alarm: {f['what']}", "Alarm."),
    "flush_failed": (
        lambda f: (
            f"{f['path']} could not be flushed; no sync of it is trusted before"
            " the host is restarted."
        ),
        "A file could not be flushed.",
    ),
    "left_open": (
        lambda f: f"Left open: {f['what']} {f['remedy']}".strip(),
        "Left open.",
    ),
}
