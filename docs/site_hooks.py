"""Hooks of the documentation site: pages outside `docs/`, and links between all pages.

A page keeps its links as they work in the repository; the site gets them as they work there. A link to a file that is
no page, such as code, becomes plain text.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
FOLDERS = ("bench/*.md", "experiments/**/*.md", "launch/*.md", "notebooks/*.md")
OUTSIDE = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", *FOLDERS)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
START = "README.md"
"""Becomes the site's first page."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live next to their code."""
    for pattern in OUTSIDE:
        for path in sorted(REPOSITORY.glob(pattern)):
            name = path.relative_to(REPOSITORY).as_posix()
            files.append(File.generated(config, "index.md" if name == START else name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn the repository's links into the site's."""
    here = _in_repository(Path(str(page.file.abs_src_path)))

    def mended(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        if "://" in target:
            return match.group(0)
        place = os.path.normpath(here.parent / target)
        name = "index.md" if place == START else place.removeprefix("docs/")
        if (REPOSITORY / place).is_dir():
            name = f"{name}/README.md"
        if files.get_file_from_path(name) is not None:
            return f"[{text}]({os.path.relpath(name, Path(page.file.src_uri).parent)}{anchor})"
        if (REPOSITORY / place).exists():
            return text
        return match.group(0)  # mkdocs --strict names it

    return LINK.sub(mended, markdown)


def _in_repository(path: Path) -> Path:
    return path.relative_to(REPOSITORY)
