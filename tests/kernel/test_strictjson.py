"""JSON that two parsers could read differently is refused; what is left reads as Python reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.strictjson import NotStrict, read_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    # A surrogate on its own is no text (RFC 7493 section 2.1); hypothesis would make some.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), VALUES), st.booleans())
def test_what_is_strict_reads_as_python_reads_it(document: dict[str, Any], escaped: bool) -> None:
    text = json.dumps(document, ensure_ascii=escaped)
    assert read_object(text.encode()) == document == json.loads(text)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "not JSON"),
        (b"{} {}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a":"\xff"}', "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b'{"a":-Infinity}', "not JSON"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deep"),
        (b"[]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":1,"a":1}', "a member occurs twice"),
        (b'{"a":1,"\\u0061":2}', "a member occurs twice"),
        (b'{"a":[{"b":1,"b":2}]}', "a member occurs twice"),
        (b'{"a":1e999}', "a number is out of range"),
        (b'{"a":-9223372036854775809}', "a number is out of range"),
        (b'{"a":18446744073709551616}', "a number is out of range"),
        (b'{"a":%s}' % (b"9" * 5000), "a number is out of range"),
        (b'{"a":"\\ud800"}', "text is not Unicode"),
        (b'{"a":"\\uDFFF\\uD800"}', "text is not Unicode"),
        (b'{"a":[{"\\udc00":1}]}', "text is not Unicode"),
        (b'{"a":{"b":[[1]]}}', "nested too deep"),
        (b'{"a":[[[]]]}', "nested too deep"),
    ],
    ids=lambda given: repr(given[:30]),
)
def test_what_is_not_strict_is_refused_in_fixed_words(document: bytes, words: str) -> None:
    with pytest.raises(NotStrict) as refused:
        read_object(document, max_depth=3)
    assert str(refused.value) == words


@pytest.mark.parametrize(
    "document",
    [
        {"a": [[1], [2], [3]], "b": {"c": {"d": 1}}},
        {"a": "[[[[{{{{", "b": "\\ud800"},
        {"a": [["\U0001f600"]]},
    ],
    ids=repr,
)
@pytest.mark.parametrize("escaped", [True, False], ids=["escaped", "plain"])
def test_depth_counts_what_is_nested_and_a_pair_of_surrogates_is_one_character(
    document: dict[str, Any], *, escaped: bool
) -> None:
    """Brackets within text, brackets side by side and an escaped backslash before `ud800` are none of these."""
    assert read_object(json.dumps(document, ensure_ascii=escaped).encode(), max_depth=3) == document
