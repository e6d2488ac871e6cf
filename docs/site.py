"""Add the results, the changelog and the files that pages link to, to the site; adapt the links.

A hook of MkDocs, whose sources are the folder docs/ alone. In the repository, pages link to files
outside it (`../studies/results/README.md`), and these links work there too.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent

PATTERNS = (
    *("README.md", "CHANGELOG.md", "studies/*.toml"),
    *("studies/results/*.md", "studies/results/*.png"),
)

LINK = re.compile(r"(?<=\]\()(?!\w+:)([^)#\s]+)")


def _in_site(path: str) -> str:
    """Return where a file of the repository is in the site."""
    if path == "README.md":
        return "readme.md"  # MkDocs takes README.md for an index page, which is docs/index.md
    return path.removeprefix("docs/").replace("studies/results/", "results/")


ADDED = {
    _in_site(path): path
    for pattern in PATTERNS
    for path in (one.relative_to(ROOT).as_posix() for one in sorted(ROOT.glob(pattern)))
}


def on_files(files: Files, *, config: Any) -> Files:
    """Add the files from outside docs/."""
    for there, path in ADDED.items():
        files.append(File.generated(config, there, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Let each relative link lead to where its file is in the site."""
    site_path = page.file.src_uri
    here = posixpath.dirname(ADDED.get(site_path, f"docs/{site_path}"))

    def moved(found: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, found[0]))
        return posixpath.relpath(_in_site(target), posixpath.dirname(site_path) or ".")

    return LINK.sub(moved, markdown)
