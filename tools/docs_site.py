"""What the site needs beyond MkDocs: a hook of mkdocs.yml.

- Links from a page to files outside of docs/ (`../CHANGELOG.md`) hold in a checkout
  and on the site: the files that are linked become pages below `repository/`.
- Where a page has a Mermaid diagram, the site shows the picture beside it; a browser
  would need a script of three megabytes for the other.
- The build fails if a page would load anything from another host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

#: Where files of the repository are on the site.
COPIES = "repository"
_LINK = re.compile(r"(?<=\]\()(?P<target>\.\.?/[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
#: A link of a document beside docs/ to a page.
_TO_DOCS = re.compile(r"\]\(docs/")
_MERMAID = re.compile(r"^```mermaid\n(?P<code>.*?)^```\n", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'^title: "(?P<title>.*)"$', re.MULTILINE)
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|link(?![^>]*rel=\"?canonical))\b[^>]*?"
    r"\b(?:src|href)=[\"']?(?P<url>(?:https?:)?//[^\"'\s>]+)"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that pages link to."""
    from mkdocs.structure.files import File, InclusionLevel

    root = Path(config.config_file_path).parent
    docs = Path(config.docs_dir)
    for source in sorted(set(_linked(root, docs, files))):
        path = root / source
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".md":
            text = _TO_DOCS.sub("](../", text)
        else:
            fence = "`" * 6
            text = f"# {source}\n\n{fence}{path.suffix[1:]}\n{text}\n{fence}\n"
        files.append(
            File.generated(
                config,
                _copy_of(source),
                content=text,
                inclusion=InclusionLevel.NOT_IN_NAV,
            )
        )
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Lead links to the copies, and show pictures instead of Mermaid's text."""
    uri = PurePosixPath(page.file.src_uri)
    if uri.parts[0] == COPIES:
        return markdown
    root = Path(config.config_file_path).parent
    up = "../" * (len(uri.parts) - 1)

    def lead(link: re.Match[str]) -> str:
        source = _outside(root, Path(config.docs_dir), uri, link["target"])
        if source is None:
            return link[0]
        return f"{up}{_copy_of(source)}{link['anchor'] or ''}"

    def draw(block: re.Match[str]) -> str:
        title = _TITLE.search(block["code"])
        name = title["title"] if title else uri.stem
        return f"![{name}]({uri.stem}.svg)\n"

    return _MERMAID.sub(draw, _LINK.sub(lead, markdown))


def on_post_build(config: MkDocsConfig) -> None:
    """Fail if anything is loaded from another host."""
    for path in sorted(Path(config.site_dir).rglob("*.html")):
        for url in loaded(path.read_text(encoding="utf-8")):
            from mkdocs.exceptions import PluginError

            raise PluginError(f"{path} would load {url}")


def loaded(html: str) -> list[str]:
    """What a page would load from other hosts."""
    return [found["url"] for found in _LOADED.finditer(html)]


def _linked(root: Path, docs: Path, files: Files) -> Iterator[str]:
    """The files outside of docs/ that pages link to, as paths below the root."""
    for file in files.documentation_pages():
        uri = PurePosixPath(file.src_uri)
        for link in _LINK.finditer(file.content_string):
            source = _outside(root, docs, uri, link["target"])
            if source is not None:
                yield source


def _outside(root: Path, docs: Path, page: PurePosixPath, target: str) -> str | None:
    """The path below the root of a file outside of docs/, else None."""
    path = (docs / page.parent / target).resolve()
    if path.is_relative_to(docs) or not path.is_file():
        return None
    return str(path.relative_to(root))


def _copy_of(source: str) -> str:
    """The page of a file of the repository."""
    return f"{COPIES}/{source}" if source.endswith(".md") else f"{COPIES}/{source}.md"
