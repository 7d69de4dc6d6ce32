"""The pages as a site: all of them are there, in the order of the index, and no link in them leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.docs import ROOT

SITE = ROOT / "build" / "site"


@pytest.fixture(scope="module")
def site() -> Path:
    command = [sys.executable, ROOT / "deploy" / "site" / "build.py"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return SITE


def test_the_navigation_is_that_of_the_index(site: Path) -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    front = (site / "index.html").read_text(encoding="utf-8")
    listed = [Path(link).stem.lower() for link in re.findall(r"^\| \[[^]]+\]\(([^)]+)\)", index, flags=re.MULTILINE)]

    assert len(listed) > 10
    assert re.findall(r'<a href="\./([a-z-]+)/" class="md-nav__link"', front) == listed


def test_files_that_pages_link_to_are_part_of_the_site(site: Path) -> None:
    assert (site / "files" / "docs" / "schema" / "permissions.schema.json").is_file()
    assert (site / "files" / "bundles" / "demo" / "permissions.yaml").is_file()


def test_a_page_loads_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r'<(?:script|link|img)\b[^>]*?\b(?:src|href)="(https?:[^"]+)"')
    for page in site.rglob("*.html"):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page
