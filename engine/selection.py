"""Which snapshots a deletion is about. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..journal.catalog import unknown_snapshot
from ..journal.errors import Reason, Refused, UsageError
from ..journal.model import Snapshot
from ..states.options import SCOPES, STRATEGIES, Options


def valid_options(options: Options) -> Options:
    """Options that make sense together. Raises `UsageError`."""
    if options.scope not in SCOPES:
        raise UsageError(f"{options.scope!r} is none of {', '.join(SCOPES)}.")
    if options.strategy not in STRATEGIES:
        raise UsageError(
            f"{options.strategy!r} is no strategy.",
            remedy=f"Use one of {', '.join(STRATEGIES)}.",
        )
    if options.through is not None and options.scope != "snapshot":
        raise UsageError(
            "A range and the children of a snapshot cannot be deleted in one command.",
            remedy="Use --through, or --children, or --children-only.",
        )
    return options


def selected(
    domain: str, snapshots: Sequence[Snapshot], name: str, options: Options
) -> tuple[Snapshot, ...]:
    """The snapshots that go, parents first.

    A range runs from ``name`` down to ``options.through``, along the parents.
    Raises `Refused` (``unknown_snapshot``, ``not_a_descendant``, ``no_children``).
    """
    by_name = {snapshot.name: snapshot for snapshot in snapshots}
    for wanted in (name, options.through):
        if wanted is not None and wanted not in by_name:
            raise unknown_snapshot(domain, wanted)
    if options.through is not None:
        return tuple(_range(domain, by_name, name, options.through))
    if options.scope == "snapshot":
        return (by_name[name],)
    below = {name}
    found = [] if options.scope == "children-only" else [by_name[name]]
    for snapshot in snapshots:  # Parents come first.
        if snapshot.parent in below:
            below.add(snapshot.name)
            found.append(snapshot)
    if not found:
        raise Refused(
            [
                Reason(
                    "no_children",
                    f"The snapshot {name} of {domain} has no children.",
                    f"`backfold snapshot list {domain}` shows the tree.",
                )
            ]
        )
    return tuple(found)


def _range(
    domain: str, by_name: dict[str, Snapshot], first: str, last: str
) -> list[Snapshot]:
    found = [by_name[last]]
    while found[0].name != first:
        parent = found[0].parent
        if parent is None:
            raise Refused(
                [
                    Reason(
                        "not_a_descendant",
                        f"The snapshot {last} does not descend from {first}.",
                        f"`backfold snapshot list {domain}` shows the tree; a range"
                        " begins with its oldest snapshot.",
                    )
                ]
            )
        found.insert(0, by_name[parent])
    return found
