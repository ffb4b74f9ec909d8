"""What is said of each step of a run, in the operator's words.

Every declared step has a sentence in `STEPS`: its full form needs what the step told,
the plain one is for rows of versions that told less, and for damaged ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .phrases import Facts, Forms, always, base_name, listed, names
from .words import size

#: What is said of a job that QEMU has no more.
_ENDED: Final = "has ended"


def _jobs(facts: Facts) -> str:
    """``vda pending at 7.6 MiB, vdb has ended``: QEMU's word for each job."""
    return listed(
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
    disks, state = listed(facts["disks"]), facts["run_state"]
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
        taken.append(f"the votes of {listed(facts['cancelled'])} were cancelled")
    if facts["unfenced"]:
        taken.append(f"{names(facts['unfenced'])} got back their names")
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
    return listed(
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
        + listed(
            f"{base_name(image)} is based on {base_name(link) if link else 'nothing'}"
            for image, link in facts["links"].items()
        )
        + "."
    )


def _recorded(facts: Facts) -> str:
    moved = listed(f"{disk} is {base_name(p)}" for disk, p in facts["disks"].items())
    gone = (
        f"{listed(facts['snapshots'])} {'is' if len(facts['snapshots']) < 2 else 'are'}"
    )
    return f"Recorded in the catalog: {gone} gone" + (f"; {moved}." if moved else ".")


def _removed(facts: Facts) -> str:
    path = facts.get("image") or facts["memory"]
    if "left" in facts:
        return f"Left {base_name(path)} alone: {facts['left']}."
    held = f" ({size(facts['bytes'])})" if "bytes" in facts else ""
    return f"Removed {base_name(path)}{held}."


STEPS: Final[Mapping[str, Forms]] = {
    "probe_fence": always("Tried out that each image can be renamed where it is."),
    "sync_frozen": (
        lambda f: f"Synced {names(f['images'])}.",
        "Synced the frozen images.",
    ),
    "start_helper": (
        lambda f: f"Started a helper, a paused QEMU without a guest (pid {f['pid']}).",
        "Started a helper, a paused QEMU without a guest.",
    ),
    "open_images": (
        lambda f: f"The helper opened the chains of {names(f['images'])}.",
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
    "dismiss_jobs": always("Jobs that had ended were forgotten."),
    "flush_copied": (
        lambda f: f"QEMU flushed what was copied into {names(f['images'])}.",
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
        lambda f: f"Carried the dirty bitmaps over: {listed(f['bitmaps'])}.",
        "Carried the dirty bitmaps over.",
    ),
    "sync_written": (
        lambda f: f"Synced {names(f['images'])}.",
        "Synced what was written into.",
    ),
    "fence": (
        lambda f: (
            "Fenced "
            + listed(
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
        lambda f: f"Asked {_owner(f)}: it could write that {_images(f)}.",
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
        lambda f: f"{names(f['names'])} got back their names.",
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
    "close_images": always("QEMU closed the images that are superseded."),
    "keep": (
        lambda f: f"Somebody keeps {listed(f['disks'])} on the overlay: folded again.",
        "Somebody keeps a disk on its overlay: it is folded again.",
    ),
    "decide_again": (
        lambda f: f"Decided again for {listed(f['disks'])}.",
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
            + listed(
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
    "restore_bitmaps": always("Made the dirty bitmaps as they were."),
    "restore_read_only": always("The images below the disks are read-only again."),
    "make_overlays": (
        lambda f: f"Made the new overlays: {names(f['disks'].values())}.",
        "Made the new overlays.",
    ),
    "switch": (
        lambda f: (
            "QEMU switched to the overlays: "
            + listed(
                f"{disk} is {base_name(path)}" for disk, path in f["disks"].items()
            )
            + "."
        ),
        "QEMU switched every disk to its overlay.",
    ),
    "sync_images": (
        lambda f: f"Synced {names(f['images'])}.",
        "Synced the images.",
    ),
    "remove_overlays": always("Removed the new overlays."),
}
