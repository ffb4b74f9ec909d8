"""Links of the documents beside docs/ lead somewhere; `make docs` checks the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\((?!https?:)(?P<target>[^)#]+)(#[^)]*)?\)")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_lead_to_files(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")

    targets = {found["target"] for found in LINK.finditer(text)}

    assert {target for target in targets if not (ROOT / target).exists()} == set()
