"""What is said of a run's steps, edges and remarks, and of what was copied.

The sentences of steps are in `engine.step_sentences`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .phrases import Facts, Forms, always, base_name, listed, names, said
from .step_sentences import STEPS
from .words import brief, count, size


def of_step(name: str, facts: Facts) -> str:
    """What a step did."""
    return said(STEPS.get(name, always(f"Did {name.replace('_', ' ')}.")), facts)


def of_edge(source: str, name: str, dest: str, facts: Facts) -> str | None:
    """What an edge tells; None when it says no more than the state that it leads to."""
    because = facts.get("because")
    if isinstance(because, str):
        begun = _EDGES.get(name, name.replace("_", " ").capitalize())
        return f"{begun}: {because.rstrip('.')}."
    if name == "proceed" and dest == "rolled_back":
        return said((_undone, "Everything is undone."), facts)
    forms = EDGES.get((source, name)) or EDGES.get(name)
    return None if forms is None else said(forms, facts)


def of_remark(name: str, facts: Facts) -> str:
    """What a remark tells."""
    plain = f"{name.replace('_', ' ').capitalize()}."
    return said(REMARKS.get(name, always(plain)), facts)


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

    return said((full, f"{disk} is to be folded."), facts)


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

    return said((full, f"{disk} converged: all that there was is copied."), facts)


def _undone(facts: Facts) -> str:
    if facts["written"]:
        return (
            f"Everything is undone. Written into meanwhile: {names(facts['written'])}:"
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
        f"Proved by {by}: what the guest wrote is in {names(facts['disks'].values())}."
    )


#: Edges that say something, by name, or by the state that they leave and name.
EDGES: Final[Mapping[str | tuple[str, str], Forms]] = {
    "accept": (_accepted, "All checks passed."),
    "refuse": (_refused, "Refused."),
    ("prepare", "proceed"): (_planned, "Planned."),
    ("pivot", "proceed"): (_proved, "Every disk was proved to be switched."),
    "decide": (
        lambda f: f"Decided for {listed(f['disks'])}: only forward from here.",
        "Decided: only forward from here.",
    ),
    "annul": always("The decision was taken back: nobody knew whether it was durable."),
    "abandon": (_refused, "Given up."),
    "again": (
        lambda f: f"One pass is done ({listed(f['done'])}); another one follows.",
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
