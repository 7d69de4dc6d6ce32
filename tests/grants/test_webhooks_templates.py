"""What people wrote stays within the text it was put into, and does nothing in a chat but be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.grants.webhooks.notices import Notice
from ostiary.grants.webhooks.templates import BUILT_IN, Style, Template
from support.grants import terms
from support.webhooks import OWN, block, last_notice, record

HOSTILE = 'x", "y": "$digest <!channel> <@U1> @here & [a](https://evil.test) ![b](c) [d][e]\n*To approve it*\u202e\0'


def notice(**changes: Any) -> Notice:
    return last_notice(record(**changes))


def rendered(style: Style, layout: Any = None, **changes: Any) -> Any:
    template = BUILT_IN[style] if layout is None else Template(style=style, layout=layout)
    return json.loads(template.body(notice(**changes)))


def texts(document: Any) -> list[str]:
    if isinstance(document, dict | list):
        return [
            text for each in (document.values() if isinstance(document, dict) else document) for text in texts(each)
        ]
    return [document] if isinstance(document, str) else []


def test_slack_gets_what_is_asked_and_how_to_approve_it() -> None:
    said = "ann (support) asks for billing: refund, for 10 min: order 42 was charged twice"
    command = f"ostiary access approve g-1 --digest {record().digest} --url {OWN}"
    assert rendered("slack") == {
        "text": f"*Access requested*\n{said}\n{command}",
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": [
            {"type": "header", "text": {"type": "plain_text", "text": "Access requested"}},
            {"type": "section", "text": {"type": "mrkdwn", "text": said}},
            {
                "type": "section",
                "text": {"type": "mrkdwn", "text": f"To approve it, as support-lead:\n```{command}```"},
            },
            {"type": "context", "elements": [{"type": "mrkdwn", "text": "g-1, 2026-09-21T14:13:20Z"}]},
        ],
    }


def test_teams_gets_a_card() -> None:
    said = "ann (support) asks for billing: refund, for 10 min: order 42 was charged twice"
    command = f"ostiary access approve g-1 --digest {record().digest} --url {OWN}"
    document = rendered("teams")
    card = document["attachments"][0]
    assert (document["type"], card["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    assert card["content"]["body"] == [
        {"type": "TextBlock", "text": "Access requested", "size": "Medium", "weight": "Bolder", "wrap": True},
        {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": said}]},
        {
            "type": "RichTextBlock",
            "inlines": [{"type": "TextRun", "text": f"To approve it, as support-lead: {command}"}],
        },
        {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": "g-1, 2026-09-21T14:13:20Z"}]},
    ]


@pytest.mark.parametrize("style", ["slack", "teams"])
def test_a_block_is_said_with_its_id(style: Style) -> None:
    found = texts(json.loads(BUILT_IN[style].body(last_notice(block()))))
    assert "b-1, 2026-09-21T14:13:20Z" in found
    assert "cid has blocked the subject https://idp.test ann until it is lifted: a stolen laptop" in found
    assert not [text for text in found if "approve" in text]


@pytest.mark.parametrize("style", ["slack", "teams"])
def test_an_emergency_is_loud_and_what_says_nothing_is_left_out(style: Style) -> None:
    loud = texts(rendered(style, emergency=True, terms=terms(emergency=600)))
    assert any("Nobody else has approved this. Its review is open." in text for text in loud)
    assert not [text for text in loud if "To approve it" in text]
    assert not [text for text in texts(rendered(style)) if "review" in text or "rotating_light" in text]


def test_a_chat_calls_nobody_and_shows_no_false_link() -> None:
    for style in ("slack", "teams"):
        for text in texts(rendered(style, reason=HOSTILE)):
            assert not [mark for mark in ("@here", "](", "][", "\u202e", "\0", "\n*To") if mark in text], text
    for text in texts(rendered("slack", reason=HOSTILE)):
        assert "<" not in text
        assert "&lt;!channel&gt;" in text or "!channel" not in text


def test_who_asks_at_length_is_seen_all_the_same() -> None:
    """A text of Slack's has at most 3000 characters: with more, the whole message is refused."""
    found = rendered("slack", reason="<" * 1000, endpoints=tuple(f"&{number}" for number in range(5000)))
    assert max(map(len, texts(found))) < 3000
    assert any("To approve it" in text for text in texts(found))


def test_the_generic_document_has_all_as_it_was_written() -> None:
    assert rendered("generic", reason=HOSTILE)["data"]["request_reason"] == HOSTILE
    found = notice(reason=HOSTILE)
    assert rendered("generic", reason=HOSTILE) == found.document()


def test_a_template_of_one_s_own_names_values() -> None:
    layout = {
        "$holder": ["$holder", "$expires", {"until": "$expires", "for": "$duration"}, ["$expires"], 7, None, "$$5"],
        "until": "$expires",
        "why": {"text": "${reason}!"},
    }
    assert rendered("generic", layout) == {
        "$holder": ["ann", 7, None, "$5"],
        "until": "",
        "why": {"text": "order 42 was charged twice!"},
    }


@pytest.mark.parametrize("style", ["generic", "slack", "teams"])
@given(reason=st.text(alphabet=st.characters(codec=None), max_size=1000))
def test_no_text_leaves_the_one_that_it_is_put_into(style: Style, reason: str) -> None:
    layout = {"a": "$reason", "b": ["$why", {"c": "$text"}], "d": "$$reason"}
    unasked = {"terms": terms(reason_required=False)}
    for template in (BUILT_IN[style], Template(style=style, layout=layout)):
        body = template.body(notice(reason=reason, **unasked))
        others = [template.body(notice(reason=other, **unasked)) for other in ("", "-")]
        assert body.isascii()
        assert shape(json.loads(body)) in [shape(json.loads(other)) for other in others]


def shape(document: Any) -> Any:
    if isinstance(document, dict):
        return {key: shape(value) for key, value in document.items()}
    return [shape(each) for each in document] if isinstance(document, list) else type(document)
