"""One line of the audit: one JSON object in ASCII, whatever was put into it.

A log line is an injection target (uvicorn PYSEC-2020-150, envoy CVE-2024-45808). Nothing that a request brings can
end a line early, hide text behind control or bidirectional characters, or leave a credential in the file.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

SCHEMA: Final = 1
"""The version of the format; every line carries it."""

MAX_LINE: Final = 1 << 20
"""Bytes. A longer line is not written; what `input` and `result` can hold is bounded far below by the listener."""

_UNSAFE: Final = re.compile(r"[^\x00-\x7e]")
# A JWT (RFC 7519) is two JSON objects and a signature in base64url: `{"`, `{ ` and `{\n` encode to `ey` or `ew`. The
# hint, its second part after the dot, is what nearly no line holds and is found in half a microsecond.
_TOKEN_HINT: Final = re.compile(rb"\.e[yw]")
_DOT: Final = rb"(?:\.|%2[eE])"
_IN: Final = rb"[A-Za-z0-9_-]"
# Looked for once in each run of these characters, from its beginning and never again further on: a run in which every
# other character could begin a token would otherwise be read to its end from each of them.
_TOKEN: Final = re.compile(
    rb"(?<!%b)(?>(%b*?)(?=e[yw]%b{6}))(%b++%be[yw]%b{2,}+%b%b{32,}+)" % (_IN, _IN, _IN, _IN, _DOT, _IN, _DOT, _IN)
)


def render(document: Mapping[str, Any]) -> bytes:
    """The line, with its newline. Raises ValueError if the document cannot be JSON or is too long."""
    try:
        line = orjson.dumps(document, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        line = _render_odd(document)
    line = clean(line)
    if len(line) > MAX_LINE:
        raise ValueError(f"an audit line of {len(line)} bytes is longer than {MAX_LINE}")
    return line


def clean(json_text: bytes) -> bytes:
    """JSON in UTF-8 as it may be written: ASCII, and without a token."""
    if not json_text.isascii() or b"\x7f" in json_text:
        json_text = _UNSAFE.sub(_escape, json_text.decode()).encode("ascii")
    if b"%" in json_text or _TOKEN_HINT.search(json_text):
        json_text = _TOKEN.sub(_digest, json_text)
    return json_text


def _render_odd(document: Mapping[str, Any]) -> bytes:
    """What orjson will not take: lone surrogates and integers above 64 bits, both legal in a token's claims."""
    try:
        text = json.dumps(document, default=_plain, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    return text.encode("ascii") + b"\n"


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (frozenset, set)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _escape(match: re.Match[str]) -> str:
    # Outside strings JSON is ASCII, so this is inside one, where \u stands for it (RFC 8259 section 7).
    return "".join(f"\\u{unit:04x}" for unit in _utf16(ord(match.group())))


def _utf16(point: int) -> tuple[int, ...]:
    if point < 0x10000:
        return (point,)
    point -= 0x10000
    return (0xD800 + (point >> 10), 0xDC00 + (point & 0x3FF))


def _digest(match: re.Match[bytes]) -> bytes:
    # A digest still tells whether two lines saw the same token.
    return match[1] + b"[token sha256:" + hashlib.sha256(match[2]).hexdigest()[:16].encode() + b"]"


def capped(text: str, limit: int) -> str:
    """At most `limit` characters of what a stranger sent, and how many were left out."""
    if len(text) <= limit:
        return text
    # A token that is cut would no longer be known for one.
    text = _TOKEN.sub(_digest, text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")
    if len(text) <= limit:
        return text
    return f"{text[:limit]}[+{len(text) - limit}]"


class Timestamps:
    """Unix seconds as RFC 3339 in UTC with milliseconds. What was said last is kept, and its part up to the second:
    a busy proxy asks ten times in a millisecond.
    """

    __slots__ = ("_millisecond", "_prefix", "_second", "_text")

    def __init__(self) -> None:
        self._second = self._millisecond = -1
        self._prefix = self._text = ""

    def format(self, now: float) -> str:
        millisecond = int(now * 1000)
        if millisecond != self._millisecond:
            self._millisecond = millisecond
            second = millisecond // 1000
            if second != self._second:
                self._second = second
                self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._text = f"{self._prefix}.{millisecond % 1000:03d}Z"
        return self._text
