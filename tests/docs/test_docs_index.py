"""The pages hang together: every refusal is explained, every link leads somewhere, every page is listed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ostiary
from ostiary.errors import REASONS
from ostiary.grants import refusals
from support.docs import ROOT, pages

DOCS = ROOT / "docs"
EVERY = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]

CATEGORIES = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The ids that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_refusal_is_on_its_page_with_its_status_and_sentence() -> None:
    """Equal to `ostiary.errors.REASONS`, in its order within a status."""
    published: list[tuple[int, str, str]] = []
    for section in re.split(r"^## ", prose(DOCS / "reasons.md"), flags=re.MULTILINE)[1:]:
        status = int(section.partition("\n")[0])
        rows = re.findall(r"^\| `([a-z0-9-]+)` \| (.+?) \| (.+) \|$", section, flags=re.MULTILINE)
        published += [(status, reason, sentence) for reason, sentence, advice in rows if advice.strip()]

    assert published == sorted(
        [(refusal.status, reason, refusal.sentence) for reason, refusal in REASONS.items()], key=lambda row: row[0]
    )


def test_reasons_that_other_pages_name_exist() -> None:
    families = "audit|body|condition|credential|grant|header|host|identity|message|method|origin|permission|policy"
    pattern = rf"`((?:{families}|request|route|target|token|too|unknown|upgrade|upstream)-[a-z-]+)`"
    of_the_access_api = {vars(each).get("reason") for each in vars(refusals).values() if isinstance(each, type)}
    for page in pages():
        for name in re.findall(pattern, prose(page)):
            assert name in REASONS or name in of_the_access_api, f"{page.name}: {name}"


def test_every_threat_names_tests_that_exist() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    known = set(re.findall(r"^(?:async )?def (test_\w+)\(", source, flags=re.MULTILINE))
    rows = re.findall(
        r"^\| .+ \| .+ \| (.+) \|$", prose(DOCS / "threats.md").partition("## Threats")[2], flags=re.MULTILINE
    )
    named = [re.findall(r"`(test_\w+)`", row) for row in rows if row != "held by"]

    assert len(named) > 30
    assert all(named)
    assert {name for row in named for name in row} <= known


@pytest.mark.parametrize("page", EVERY, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\[[^]]+\]\(([^)\s]+)\)", prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_listed_in_the_index() -> None:
    listed = re.findall(r"^\| \[[^]]+\]\(([^)]+)\)", prose(DOCS / "index.md"), flags=re.MULTILINE)

    assert sorted(listed) == sorted(
        ["../README.md", *(page.name for page in DOCS.glob("*.md") if page.stem != "index")]
    )


def test_the_glossary_is_sorted_and_explains_each_word_once() -> None:
    words = re.findall(r"^\| ([a-z ]+) \|", prose(DOCS / "glossary.md"), flags=re.MULTILINE)

    assert words[0] == "word"
    assert words[1:] == sorted(set(words[1:]))


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)

    assert text.startswith("# Changelog\n")
    assert versions[0] == "[Unreleased]"
    assert set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE)) <= CATEGORIES
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version) for version in versions[1:])
    assert ostiary.__version__ in text
