"""What happened, in one sentence, and in the numbers that people ask for first."""

from __future__ import annotations

from typing import Final

from ..cli.text import instant
from ..words import brief, size
from .facts import Facts
from .markup import Child, Markup, code, join, tag

#: Outcome: the word on its label, its sign, and the class that colours it.
_OUTCOMES: Final = {
    "completed": ("Completed", "✓", "good"),
    "rolled_back": ("Rolled back", "↺", "warn"),
    "refused": ("Refused", "✕", "bad"),
}
_OPEN: Final = ("Open", "…", "warn")


def sentence(facts: Facts) -> str:
    """What happened."""
    run = facts.run
    what = f"snapshot {run.snapshot} of {run.domain}"
    if others := len(set(run.snapshots) - {run.snapshot}):
        what = f"snapshot {run.snapshot} and {others} more of {run.domain}"
    if run.state == "completed":
        return f"Deleted {what}."
    if run.state == "rolled_back":
        return f"The deletion of {what} was rolled back."
    if run.state == "refused":
        return f"The deletion of {what} was refused."
    return f"The deletion of {what} is open."


def section(facts: Facts) -> Markup:
    """The head of the page."""
    run = facts.run
    word, sign, kind = _OUTCOMES.get(run.state, _OPEN)
    return tag(
        "header",
        tag("p", "Backfold · deletion ", code(run.id), class_="kicker"),
        tag("h1", sentence(facts)),
        tag(
            "p",
            tag(
                "span",
                tag("span", sign, aria_hidden="true"),
                f" {word}",
                class_=f"outcome {kind}",
            ),
            " ",
            tag("span", *_meaning(facts), class_="lead"),
        ),
        tag("p", tag("strong", "Reason: "), run.reason, class_="reason")
        if run.reason
        else None,
        tag("dl", *_numbers(facts), class_="numbers"),
    )


def risks(facts: Facts) -> Markup | None:
    """What was known before, and what the plan left and removed."""
    plan = facts.plan
    if plan is None or not plan.risks:
        return None
    return tag(
        "section",
        tag("h2", "Known before it began"),
        tag("ul", *(tag("li", risk) for risk in plan.risks), class_="risks"),
    )


def _meaning(facts: Facts) -> tuple[Child, ...]:
    """What the outcome means for the data, and what to do."""
    run = facts.run
    if run.state == "completed":
        return ("Every write of the guest is there.",)
    if run.state == "rolled_back":
        return ("The domain runs on the images that it had before.",)
    if run.state == "refused":
        return ("Nothing was changed.",)
    recover = tag("code", f"backfold recover {run.id}")
    place = tag("code", run.state)
    if facts.is_decided:
        return (
            *("It stands in ", place, ", after its decision: it can only be finished."),
            *(" Unless somebody is at it, run ", recover, "."),
        )
    return (
        *("It stands in ", place, ", before its decision: the images that the domain"),
        *(" had are still the truth. Unless somebody is at it, run ", recover, "."),
    )


def _numbers(facts: Facts) -> list[Markup]:
    run = facts.run
    told: list[tuple[str, Child]] = [
        ("Domain", code(run.domain)),
        ("Snapshots", _names(run.snapshots or (run.snapshot,))),
        ("Started", instant(run.started)),
    ]
    if run.finished is not None and run.seconds is not None:
        told += [("Finished", instant(run.finished)), ("Took", brief(run.seconds))]
    elif facts.rows:
        told.append(("Last row", instant(facts.rows[-1].at)))
    if facts.decided is not None:
        told.append(("Decided after", brief(facts.decided)))
    if facts.story.bytes is not None:
        told.append(("Copied", size(facts.story.bytes)))
    elif run.disks:
        planned = sum(disk.bytes for disk in run.disks)
        told.append(("To copy, as planned", size(planned)))
    if run.downtime_ms is not None:
        told.append(("Guest stood still", f"{run.downtime_ms:.0f} ms"))
    elif facts.plan is not None and not run.is_open:
        off = facts.plan.power == "off"
        told.append(("Guest stood still", "it was off" if off else "never"))
    return [tag("div", tag("dt", name), tag("dd", what)) for name, what in told]


def _names(names: tuple[str, ...]) -> Markup:
    return join(*(child for name in names for child in (code(name), Markup(" "))))
