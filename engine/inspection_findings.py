"""What an inspection finds, and what it may mend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..journal.model import FileId

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, slots=True)
class Fix:
    """A change that is proved safe: what is done, to which path and which file."""

    action: Literal["remove_file", "forget_entry", "clear_socket"]
    path: str
    file: FileId | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be.

    Attributes:
        code: Stable: what to branch on.
        severity: ``error``: the domain cannot be started, or data is in doubt;
            ``warning``: something to mend; ``note``: harmless.
        message: What was found.
        meaning: What it means for the data.
        remedy: What mends it.
        disk: The target that it is about.
        snapshot: The snapshot that it is about.
        image: The path that it is about.
        fix: What ``--fix`` does; None when nobody can prove that it is safe.
    """

    code: str
    severity: Severity
    message: str
    meaning: str
    remedy: str
    disk: str | None = None
    snapshot: str | None = None
    image: str | None = None
    fix: Fix | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """The outcome for one domain; ``fixed`` findings are gone."""

    domain: str
    power: str
    findings: tuple[Finding, ...]
    fixed: tuple[Finding, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing is left but notes."""
        return all(finding.severity == "note" for finding in self.findings)
