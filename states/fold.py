"""The machine of a fold: the part of a deletion on one disk."""

from __future__ import annotations

from typing import Final

from .machine import Declaration, Edge, State

FOLD: Final = Declaration(
    name="fold",
    title="A fold: one disk of a deletion",
    states=(
        State("planned", "No job of this plan runs."),
        State("copying", "A block job copies into the survivor."),
        State("converged", "The job has copied all there was: READY or PENDING."),
        State(
            "voted",
            "Covered by the decision: top and base are equal and flushed, and a"
            " superseded active image is fenced.",
        ),
        State(
            "switched",
            "The chain has the survivor alone, read back from graph and headers,"
            " and the changed header is synced.",
        ),
        State("retired", "The superseded images are gone.", final=True),
        State(
            "cancelled", "The job was cancelled; the old chain is whole.", final=True
        ),
        State("failed", "The job failed; the old chain is whole.", final=True),
    ),
    edges=(
        Edge("start", "planned", "copying", "the job runs"),
        Edge("converge", "copying", "converged", "READY, or PENDING if intermediate"),
        Edge("diverge", "converged", "copying", "its vote was released"),
        Edge("vote", "converged", "voted", "the decision, in its own transaction"),
        Edge("annul", "voted", "converged", "the decision was annulled"),
        Edge("keep", "voted", "copying", "somebody kept the disk on its overlay"),
        Edge("switch", "voted", "switched", "the base was read back"),
        Edge("retire", "switched", "retired", "nothing uses the old image"),
        Edge("restart", "planned", "planned", "the deletion plans again"),
        Edge("restart", "copying", "planned", "the deletion plans again"),
        Edge("restart", "converged", "planned", "the deletion plans again"),
        Edge("cancel", "planned", "cancelled", "the deletion is rolled back"),
        Edge("cancel", "copying", "cancelled", "the deletion is rolled back"),
        Edge("cancel", "converged", "cancelled", "the deletion is rolled back"),
        Edge("fail", "copying", "failed", "the job ended with an error"),
        Edge("fail", "converged", "failed", "the job ended with an error"),
    ),
)

#: Which fold states each deletion state allows; the journal checks it at each edge.
ALLOWED: Final[dict[str, frozenset[str]]] = {
    "validate": frozenset(),
    "refused": frozenset(),
    "prepare": frozenset({"planned"}),
    "start_paused": frozenset({"planned"}),
    "commit_per_disk": frozenset({"planned", "copying", "converged"}),
    "vote": frozenset({"converged"}),
    "pivot": frozenset({"voted", "switched", "copying", "converged"}),
    "update_metadata": frozenset({"switched", "retired"}),
    "stop": frozenset({"retired"}),
    # Cancelled or failed in a later pass, when the snapshot was gone already.
    "completed": frozenset({"retired", "cancelled", "failed"}),
    "roll_back": frozenset({"planned", "copying", "converged", "failed"}),
    "rolled_back": frozenset({"cancelled", "failed"}),
}
