"""docs/access.md says what there is."""

from __future__ import annotations

import re

from ostiary.grants import refusals
from support.docs import ROOT

PAGE = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")


def test_every_refusal_of_the_api_is_on_its_page() -> None:
    published = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \|$", PAGE, flags=re.MULTILINE)
    known = [each for each in vars(refusals).values() if isinstance(each, type) and "reason" in vars(each)]
    assert published == [(each.reason, str(each.status), each.sentence) for each in known]


def test_every_command_is_on_its_page() -> None:
    from ostiary.cli.access import app

    names = {str(command.name) for command in app.registered_commands}
    assert all(f"`{name}" in PAGE for name in names), names
