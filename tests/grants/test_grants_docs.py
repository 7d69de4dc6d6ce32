"""docs/access.md says what there is."""

from __future__ import annotations

import json
import re
import time
from string import Template
from typing import Any

from ostiary.grants import blocks, life, refusals
from ostiary.grants.blocking import block_document
from ostiary.grants.blocks import BlockDraft
from ostiary.grants.service import step_document
from ostiary.grants.webhooks.notices import EVENTS, NAMES
from ostiary.grants.webhooks.signature import read_secrets, signed
from ostiary.grants.webhooks.templates import texts
from ostiary.marks import subject_mark
from support.docs import ROOT
from support.grants import ANN, IDP, asked, moment
from support.webhooks import OTHER, SECRET

PAGE = (ROOT / "docs" / "access.md").read_text(encoding="utf-8")


def test_every_refusal_of_the_api_is_on_its_page() -> None:
    published = re.findall(r"^\| `([a-z-]+)` \| (\d+) \| (.+) \|$", PAGE, flags=re.MULTILINE)
    known = [each for each in vars(refusals).values() if isinstance(each, type) and "reason" in vars(each)]
    assert published == [(each.reason, str(each.status), each.sentence) for each in known]


def test_every_command_is_on_its_page() -> None:
    from ostiary.cli.access import app
    from ostiary.cli.blocks import app as block

    names = {str(command.name) for command in app.registered_commands}
    names |= {f"block {command.name}" for command in block.registered_commands}
    assert all(f"`{name}" in PAGE for name in names), names


def test_every_member_of_a_step_s_line_is_on_the_page_of_the_audit() -> None:
    record = life.ask(asked(), moment(), id="g-1", patience=600)
    assert published("grant") == ["schema", "kind", "time", *step_document(record, 0)]
    draft = BlockDraft(id="b-1", mark=subject_mark(IDP, "eve"), actor=ANN.owner, reason="an incident")
    block = blocks.begin(draft, moment())
    assert published("block") == ["schema", "kind", "time", *block_document(block, 0)]


def published(kind: str) -> list[str]:
    section = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8").split(f"\n## `{kind}`\n")[1].split("\n## ")[0]
    return re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)))


def test_the_receiver_on_the_page_takes_what_is_sent_and_nothing_else() -> None:
    source = PAGE.split('```python title="receiver.py"\n')[1].split("```")[0]
    receiver: dict[str, Any] = {}
    exec(compile(source, "receiver.py", "exec"), receiver)
    verified = receiver["verified"]
    body, now = b'{"type":"grant.requested"}', int(time.time())
    headers = signed("g-1-0", now, body, read_secrets(f"{OTHER} {SECRET}"))
    assert verified(headers, body, SECRET)
    assert verified(headers, body, OTHER)
    assert not verified(headers, body + b" ", SECRET)
    assert not verified(headers | {"webhook-id": "g-1-1"}, body, SECRET)
    assert not verified(signed("g-1-0", now, body, read_secrets(OTHER)), body, SECRET)
    assert not verified(signed("g-1-0", now - 301, body, read_secrets(SECRET)), body, SECRET)


def test_every_event_and_every_value_is_on_its_page() -> None:
    section = PAGE.split("\n## Telling people\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", section, flags=re.MULTILINE)
    assert re.findall(r"`([a-z-]+)`", " ".join(rows)) == [*EVENTS]
    assert re.findall(r"\$([a-z]+)`", re.split(r"\.\s", section.split("Values are")[1])[0]) == [*NAMES]


def test_the_template_on_the_page_is_one() -> None:
    layout = json.loads(
        PAGE.split("\n## Telling people\n")[1].split('```json title="message.json"\n')[1].split("```")[0]
    )
    assert {name for text in texts(layout) for name in Template(text).get_identifiers()} <= {*NAMES}
