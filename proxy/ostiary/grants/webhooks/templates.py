"""How a notice looks to whoever reads it: a JSON document whose texts name values by `$name` (`string.Template`).

A template is parsed as JSON first, and values are put into its texts after that: whatever is in one, it stays within
its text. Keys are left as they are. What is in a list and names a value that says nothing is left out of it, and so is
a list in a list of which nothing is left.

Values hold what people wrote, and a chat gives some of it a meaning: `<!channel>` and `@here` call everybody, and a
link may show another address than it leads to. So for a chat every value is in one line, of a bounded length, without
control characters, and with those marks made harmless.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from string import Template as Text
from typing import Final, Literal, TypeAlias, get_args

from ostiary.grants.webhooks.notices import Notice
from ostiary.models import Json

Style: TypeAlias = Literal["generic", "slack", "teams"]
STYLES: Final[tuple[Style, ...]] = get_args(Style)

_LONGEST: Final = 500
"""Characters of a value. Escaped, each is five at most, and a text of Slack's has 3000: nobody keeps a request out of
the chat by asking for it at length."""
_BREAK: Final = "\N{ZERO WIDTH SPACE}"
_SLACK_ENTITIES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}

# Mattermost and others that take Slack's messages show the text and not the blocks.
SLACK: Final[Json] = {
    "text": "*$title*\n$text\n$command",
    "unfurl_links": False,
    "unfurl_media": False,
    "blocks": [
        {"type": "header", "text": {"type": "plain_text", "text": "$title"}},
        {"type": "section", "text": {"type": "mrkdwn", "text": ":rotating_light: *$alarm*"}},
        {"type": "section", "text": {"type": "mrkdwn", "text": "$text"}},
        {"type": "section", "text": {"type": "mrkdwn", "text": "To approve it, as $approvers:\n```$command```"}},
        {
            "type": "context",
            "elements": [{"type": "mrkdwn", "text": "$grant, $time"}, {"type": "mrkdwn", "text": "$block, $time"}],
        },
    ],
}

# A TextBlock would read Markdown; a TextRun is plain text.
TEAMS: Final[Json] = {
    "type": "message",
    "attachments": [
        {
            "contentType": "application/vnd.microsoft.card.adaptive",
            "contentUrl": None,
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "msteams": {"width": "Full"},
                "body": [
                    {"type": "TextBlock", "text": "$title", "size": "Medium", "weight": "Bolder", "wrap": True},
                    {"type": "TextBlock", "text": "$alarm", "color": "Attention", "weight": "Bolder", "wrap": True},
                    {"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": "$text"}]},
                    {
                        "type": "RichTextBlock",
                        "inlines": [{"type": "TextRun", "text": "To approve it, as $approvers: $command"}],
                    },
                    {
                        "type": "RichTextBlock",
                        "inlines": [
                            {"type": "TextRun", "text": "$grant, $time"},
                            {"type": "TextRun", "text": "$block, $time"},
                        ],
                    },
                ],
            },
        }
    ],
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Without a `layout` it is the generic document, which has all of a notice. Values are made harmless as `style`
    needs."""

    style: Style
    layout: Json = None

    def body(self, notice: Notice) -> bytes:
        """What is posted."""
        document = notice.document()
        if self.layout is not None:
            escape = _ESCAPES[self.style]
            document = _filled(
                self.layout, {name: escape(value) for name, value in notice.values.items()}, listed=False
            )
        return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode("ascii")


BUILT_IN: Final[Mapping[Style, Template]] = {
    "generic": Template(style="generic"),
    "slack": Template(style="slack", layout=SLACK),
    "teams": Template(style="teams", layout=TEAMS),
}


def texts(layout: Json) -> Iterator[str]:
    """All in which values can be named."""
    if isinstance(layout, str):
        yield layout
    elif isinstance(layout, dict | list):
        for each in layout.values() if isinstance(layout, dict) else layout:
            yield from texts(each)


class _Nothing:
    """Stands for what says nothing."""


_NOTHING: Final = _Nothing()


def _filled(layout: Json, values: Mapping[str, str], *, listed: bool) -> Json:
    """`listed`: it can be left out of what it is in."""
    if isinstance(layout, dict):
        members = {key: _filled(value, values, listed=listed) for key, value in layout.items()}
        return _NOTHING if _NOTHING in members.values() else members
    if isinstance(layout, list):
        items = [item for each in layout if (item := _filled(each, values, listed=True)) is not _NOTHING]
        return _NOTHING if listed and layout and not items else items
    if not isinstance(layout, str):
        return layout
    text = Text(layout)
    if listed and not all(values[name] for name in text.get_identifiers()):
        return _NOTHING
    return text.substitute(values).strip()


def plain(value: str) -> str:
    """In one line, without what is not to be seen, and not too long."""
    line = " ".join("".join(" " if _hidden(character) else character for character in value).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def _hidden(character: str) -> bool:
    """Control characters, line separators, and marks that turn the direction of what follows."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _for_chat(value: str) -> str:
    """Nobody is called, and no link hides where it leads to. Addresses that are written out stay what they are."""
    return plain(value).replace("@", f"@{_BREAK}").replace("](", f"]{_BREAK}(").replace("][", f"]{_BREAK}[")


def _for_slack(value: str) -> str:
    """Its marks are in angle brackets: `<!here>`, `<@U…>`, `<https://…|text>`."""
    return "".join(_SLACK_ENTITIES.get(character, character) for character in _for_chat(value))


_ESCAPES: Final[Mapping[Style, Callable[[str], str]]] = {"generic": plain, "slack": _for_slack, "teams": _for_chat}
