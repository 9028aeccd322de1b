"""Pages of the site that are files outside of docs/, and links to them."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
# Page of the site by its file in the repository.
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Makes links to files of the repository links of the site; those to files that it does not have become text."""
    sources = {target: source for source, target in PAGES.items()}
    here = Path(sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")).parent
    depth = "../" * page.file.src_uri.count("/")

    def replaced(match: re.Match[str]) -> str:
        mark, text, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = (ROOT / here / target).resolve().relative_to(ROOT).as_posix()
        if path in PAGES:
            return f"{mark}[{text}]({depth}{PAGES[path]}{anchor})"
        if path.startswith("docs/"):
            return f"{mark}[{text}]({depth}{path.removeprefix('docs/')}{anchor})"
        return text

    return LINK.sub(replaced, markdown)
