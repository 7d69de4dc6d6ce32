"""Markdown in which no text of others is more than text: what the sections of a report are written with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from ostiary.models import Json

_SHOWN: Final = 10
"""Callers, and endpoints of one service, that are named."""


def side(side: Mapping[str, Json]) -> str:
    revision = "" if side["revision"] is None else f" (revision {code(side['revision'])})"
    return f"{code(side['policy'])}{revision}"


def listed(heading: str, lines: Iterable[str]) -> Iterator[str]:
    found = list(lines)
    if found:
        yield from ("", f"### {heading}", "")
        yield from found


def some(names: Sequence[str]) -> str:
    shown = ", ".join(map(code, names[:_SHOWN]))
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def code(text: Json) -> str:
    """A code span that holds whatever text (CommonMark 0.31 section 6.1): its fence is longer than any in the text.

    What does not print, as a line's end, is written as in JSON.
    """
    content = str(text)
    if not content.isprintable():
        content = json.dumps(content)
    fence = "`" * (max(map(len, re.findall("`+", content)), default=0) + 1)
    space = " " if content.startswith("`") or content.endswith("`") or not content.strip() else ""
    return f"{fence}{space}{content}{space}{fence}"
