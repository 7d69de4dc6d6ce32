"""One line is one JSON object in ASCII, whatever is put into it, and holds no token."""

from __future__ import annotations

import json
import re
import time
from types import MappingProxyType
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.audit.lines import MAX_LINE, Timestamps, capped, render

TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
TOKEN = jwt.encode({"sub": "web", "aud": "proxy"}, "a-key-for-this-test-alone-of-32-bytes", algorithm="HS256")


@given(JSON)
def test_whatever_is_put_in_is_one_printable_line_and_comes_out_again(value: Any) -> None:
    line = render({"value": value})

    assert re.fullmatch(rb"[\x20-\x7e]*\n", line)
    assert json.loads(line) == {"value": value}


@pytest.mark.parametrize(
    "text",
    [
        'a"b',
        "line\nbreak\r\n{}",
        "\u2028\u2029\x85",
        "\u202egnp.exe",
        "\x00\x1b[31m\x7f",
        "caf\u00e9".encode("latin-1").decode("latin-1"),
        "\U0001f511",
        "\ud800 alone",
        "\\u000a",
    ],
)
def test_text_that_attacks_readers_of_logs_is_escaped(text: str) -> None:
    line = render({text: text})

    assert re.fullmatch(rb"[\x20-\x7e]*\n", line)
    assert json.loads(line) == {text: text}


def test_frozen_documents_and_sets_are_written_as_what_they_stand_for() -> None:
    document = {"a": MappingProxyType({"b": frozenset({"z", "y"})}), "c": ("d",)}

    assert render(document) == b'{"a":{"b":["y","z"]},"c":["d"]}\n'


@pytest.mark.parametrize("value", [object(), {1: float("nan"), 2: 2**70}, b"bytes"])
def test_what_is_not_json_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        render({"value": value})


def test_a_line_has_a_greatest_length() -> None:
    with pytest.raises(ValueError, match="longer than"):
        render({"value": "x" * MAX_LINE})


@pytest.mark.parametrize("around", ["{}", "/orders/{}", "Bearer {}", "({}), really", "/x/y.{}/z"])
def test_a_token_is_replaced_by_its_digest_wherever_it_stands(around: str) -> None:
    line = render({"value": around.format(TOKEN)})

    assert all(part.encode() not in line for part in TOKEN.split("."))
    assert re.search(rb"\[token sha256:[0-9a-f]{16}\]", line)
    assert json.loads(line)


def test_a_token_with_encoded_dots_is_replaced_too() -> None:
    line = render({"path": "/orders/" + TOKEN.replace(".", "%2e")})

    assert re.fullmatch(rb'\{"path":"/orders/\[token sha256:[0-9a-f]{16}\]"\}\n', line)


@pytest.mark.parametrize("text", ["/orders/42.eyes", "orders.ewe.example", "a.b.c", "100%"])
def test_what_only_looks_a_little_like_a_token_stays(text: str) -> None:
    assert json.loads(render({"value": text})) == {"value": text}


def test_capped_text_says_how_much_is_missing() -> None:
    assert capped("abcdef", 6) == "abcdef"
    assert capped("abcdefg", 6) == "abcdef[+1]"


@pytest.mark.parametrize("limit", [10, 40, 80, 120])
def test_a_token_is_replaced_before_a_text_is_cut(limit: int) -> None:
    """Else its first parts would stay, which nothing would know for a token any more."""
    text = capped("/é/" + TOKEN + "/items", limit)

    assert all(part[:20] not in text for part in TOKEN.split("."))
    assert text.startswith("/é/[token")


@pytest.mark.parametrize(
    "text", ["ey" * 30_000 + ".ey", "eyAAAAAA." + "ew" * 30_000, "eyAAAAAA.eyAA" * 5_000], ids=lambda text: text[:12]
)
def test_looking_for_tokens_costs_no_more_than_the_text_is_long(text: str) -> None:
    """A stranger chooses it: with a Host of 31 KB it stopped a worker for seconds."""
    began = time.process_time()
    capped(text, 255)

    assert time.process_time() - began < 1.0


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (1_790_000_000.0, "2026-09-21T14:13:20.000Z"),
        (1_790_000_000.9999, "2026-09-21T14:13:20.999Z"),
        (0.25, "1970-01-01T00:00:00.250Z"),
    ],
)
def test_times_are_rfc_3339_in_utc_with_milliseconds(now: float, text: str) -> None:
    assert Timestamps().format(now) == text
