"""docs/access.md says what there is."""

from __future__ import annotations

import re

from ostiary.grants import life, refusals
from ostiary.grants.service import step_document
from support.docs import ROOT
from support.grants import asked, moment

PAGE = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")


def test_every_refusal_of_the_api_is_on_its_page() -> None:
    published = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \|$", PAGE, flags=re.MULTILINE)
    known = [each for each in vars(refusals).values() if isinstance(each, type) and "reason" in vars(each)]
    assert published == [(each.reason, str(each.status), each.sentence) for each in known]


def test_every_command_is_on_its_page() -> None:
    from ostiary.cli.access import app

    names = {str(command.name) for command in app.registered_commands}
    assert all(f"`{name}" in PAGE for name in names), names


def test_every_member_of_a_step_s_line_is_on_the_page_of_the_audit() -> None:
    record = life.ask(asked(), moment(), id="g-1", patience=600)
    section = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").split("\n## `grant`\n")[1].split("\n## ")[0]
    published = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)))
    assert published == ["schema", "kind", "time", *step_document(record, 0)]
