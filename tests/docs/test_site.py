"""What the site does with links, diagrams, and pages that would load something.

`make docs` builds it; these tests need no MkDocs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """The hook of mkdocs.yml."""
    spec = importlib.util.spec_from_file_location(
        "docs_site", ROOT / "tools/docs_site.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shown(site: ModuleType, page: str, text: str) -> str:
    """The text of a page as the site has it."""
    config = SimpleNamespace(
        config_file_path=str(ROOT / "mkdocs.yml"), docs_dir=str(ROOT / "docs")
    )
    file: Any = SimpleNamespace(file=SimpleNamespace(src_uri=page))
    found = site.on_page_markdown(text, file, config, None)
    assert isinstance(found, str)
    return found


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("guide.md", "../CHANGELOG.md", "repository/CHANGELOG.md"),
        ("guide.md", "../CHANGELOG.md#added", "repository/CHANGELOG.md#added"),
        ("reference/api.md", "../../states/fold.py", "../repository/states/fold.py.md"),
        ("reference/api.md", "../guide.md", "../guide.md"),
        ("guide.md", "../no/such/file.md", "../no/such/file.md"),
        ("guide.md", "https://example.org/../x", "https://example.org/../x"),
    ],
)
def test_links_to_the_repository_lead_to_copies(
    site: ModuleType, page: str, link: str, expected: str
) -> None:
    assert shown(site, page, f"see [it]({link}).") == f"see [it]({expected})."


def test_pictures_stand_for_the_text_of_diagrams(site: ModuleType) -> None:
    text = '```mermaid\n---\ntitle: "A fold"\n---\nstateDiagram-v2\n```\nafter\n'

    assert shown(site, "state-diagrams/fold.md", text) == "![A fold](fold.svg)\nafter\n"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<script src="https://unpkg.com/x"></script>', ["https://unpkg.com/x"]),
        ("<img alt=x src=//cdn.example/y.png>", ["//cdn.example/y.png"]),
        ('<link rel="stylesheet" href="http://a/b.css">', ["http://a/b.css"]),
        ('<a href="https://example.org">a link</a>', []),
        ('<script src="assets/x.js"></script><img src="data:image/png;base64,">', []),
    ],
)
def test_what_a_page_would_load_is_found(
    site: ModuleType, html: str, expected: list[str]
) -> None:
    assert site.loaded(html) == expected
