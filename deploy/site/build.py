"""`make docs`: the pages of this repository as a site, in build/site.

    python deploy/site/build.py

The pages are written to be read where they are, so README.md, docs/ and the pages elsewhere are first put side by side
in build/site-source: links between them are kept, and other files that they link to are put beside them. What the
site's navigation shows, and in which order, is what docs/index.md lists. Needs `zensical`, which fails on a link that
leads nowhere.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "build" / "site-source"
SITE: Final = ROOT / "build" / "site"
CONFIGURATION: Final = ROOT / "build" / "site.toml"

_ELSEWHERE: Final = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
    ".github/SECURITY.md": "reporting.md",
}
_LINK: Final = re.compile(r"(\[[^]]+\]\()([^)\s#]+)(#[^)\s]*)?\)")
_FENCE: Final = re.compile(r"^(```+)(\w+)([^\n]*)$", re.MULTILINE)
_TITLE: Final = re.compile(r'title="[^"]*"')
_SECTION: Final = re.compile(r"^## (.+)$|^\| \[([^]]+)\]\(([^)#]+)\)", re.MULTILINE)


def main() -> None:
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    pages = {page: page.name for page in sorted((ROOT / "docs").glob("*.md"))}
    pages |= {ROOT / path: name for path, name in _ELSEWHERE.items()}
    for page, name in pages.items():
        (SOURCE / name).write_text(_rendered(page, pages), encoding="utf-8")
    _configure(_navigation(pages))
    built = subprocess.run([_zensical(), "build", "--strict", "--config-file", CONFIGURATION], check=False)
    sys.exit(built.returncode)


def _rendered(page: Path, pages: dict[Path, str]) -> str:
    """The page with links and fences as the site has them."""

    def link(found: re.Match[str]) -> str:
        label, path, anchor = found.group(1), found.group(2), found.group(3) or ""
        if "://" in path:
            return found.group(0)
        target = (page.parent / path).resolve()
        return f"{label}{pages.get(target) or _beside(target)}{anchor})"

    def fence(found: re.Match[str]) -> str:
        title = _TITLE.search(found.group(3))  # the other words are for the tests that run the pages
        return f"{found.group(1)}{found.group(2)}{' ' + title.group(0) if title else ''}"

    parts = re.split(r"^(```.*?^```)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = [_LINK.sub(link, part) if index % 2 == 0 else _FENCE.sub(fence, part) for index, part in enumerate(parts)]
    return "".join(prose)


def _beside(target: Path) -> str:
    """A file that is no page, put where the site serves it."""
    path = target.relative_to(ROOT)
    copy = SOURCE / "files" / path
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(target, copy)
    return os.fspath(copy.relative_to(SOURCE))


def _navigation(pages: dict[Path, str]) -> list[object]:
    index = ROOT / "docs" / "index.md"
    sections: list[object] = [{"Pages": "index.md"}]
    entries: list[object] = []
    for heading, title, link in _SECTION.findall(index.read_text(encoding="utf-8")):
        if heading:
            entries = []
            sections.append({heading: entries})
        else:
            entries.append({title: pages[(index.parent / link).resolve()]})
    return sections


def _configure(navigation: list[object]) -> None:
    """The site's configuration. JSON's strings, lists and one-member objects become TOML by another separator."""
    nav = re.sub(r'("(?:[^"\\]|\\.)*"): ', r"\1 = ", json.dumps(navigation))
    CONFIGURATION.write_text(
        f"""\
[project]
site_name = "ostiary"
docs_dir = "{SOURCE.name}"
site_dir = "{SITE.name}"
nav = {nav}

[project.theme]
font = false
features = ["navigation.sections", "navigation.footer", "content.code.copy", "toc.follow"]
""",
        encoding="utf-8",
    )


def _zensical() -> str:
    beside = Path(sys.executable).with_name("zensical")
    return os.fspath(beside) if beside.exists() else "zensical"


if __name__ == "__main__":
    main()
