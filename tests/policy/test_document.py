"""Reading YAML: the core schema of 1.2, and what is refused."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.errors import ConfigurationError
from ostiary.policy import notation
from ostiary.policy.document import MAX_BYTES, Document, parse_document, plain, read_document


def value(text: str) -> object:
    document = parse_document(text, name="file.yaml")
    assert document.mistakes == []
    return plain(document.value)


def refused(text: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        parse_document(text, name="file.yaml")
    (line,) = error.value.mistakes
    return line


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("08:00", "08:00"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("+0x1F", "+0x1F"),
        ("true", True),
        ("TRUE", True),
        ("tRUE", "tRUE"),
        ("False", False),
        ("null", None),
        ("~", None),
        ("nULL", "nULL"),
        ("", None),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        ("-12", -12),
        ("+12", 12),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("-1.5E-2", -0.015),
        ("1e", "1e"),
        (".", "."),
        ("-", [None]),
        ("=", "="),
        ("'12'", "12"),
        ('"true"', "true"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_a_plain_scalar_means_what_the_core_schema_says(scalar: str, expected: object) -> None:
    found = value(scalar)
    assert (found, type(found)) == (expected, type(expected))


def test_numbers_that_are_not_finite_are_read_and_are_not_json() -> None:
    document = parse_document("[.inf, -.INF, +.Inf, .nan]", name="file.yaml")
    assert document.value[:3] == [math.inf, -math.inf, math.inf]
    assert math.isnan(document.value[3])
    with pytest.raises(ValueError, match="inf is not a JSON number"):
        plain(document.value)


def test_json_is_yaml() -> None:
    assert value('{"a": [1, "b\\u00e9", {"c": null}], "d": 1.5}') == {"a": [1, "bé", {"c": None}], "d": 1.5}


def test_a_merge_key_is_a_key_like_any_other() -> None:
    assert value("a: &a {x: 1}\nb: {<<: *a, y: 2}\n") == {"a": {"x": 1}, "b": {"<<": {"x": 1}, "y": 2}}


def test_an_alias_stands_for_what_its_anchor_named() -> None:
    assert value("a: &office [10.0.0.0/8]\nb: *office\nc: &n web\nd: {*n : 1}\n") == {
        "a": ["10.0.0.0/8"],
        "b": ["10.0.0.0/8"],
        "c": "web",
        "d": {"web": 1},
    }


def test_keys_that_are_there_twice_are_reported_and_the_first_is_kept() -> None:
    document = parse_document("a: 1\nb: {c: 1,\n  c: 2}\na: [x, {y: z}]\n", name="file.yaml")
    assert (document.value, document.mistakes) == (
        {"a": 1, "b": {"c": 1}},
        [
            (3, "the key 'c' is there twice, first on line 2"),
            (4, "the key 'a' is there twice, first on line 1"),
        ],
    )


def test_keys_that_are_not_text_are_reported() -> None:
    document = parse_document("404: a\n'405': b\nno: c\ntrue: d\n", name="file.yaml")
    assert document.mistakes == [
        (1, "the key '404' is not a text: put it in quotes"),
        (4, "the key 'true' is not a text: put it in quotes"),
    ]


def test_tags_are_reported() -> None:
    document = parse_document("a: !!str 1\nb: !!python/name:os.system x\nc: !mine [1]\nd: ! x\n", name="file.yaml")
    said = "is refused: what a value is, is seen from how it is written"
    assert document.mistakes == [
        (1, f"the tag 'tag:yaml.org,2002:str' {said}"),
        (2, f"the tag 'tag:yaml.org,2002:python/name:os.system' {said}"),
        (3, f"the tag '!mine' {said}"),
        (4, f"the tag '!' {said}"),
    ]


def test_a_number_without_end_is_reported() -> None:
    document = parse_document(f"a: {'9' * 100_000}\n", name="file.yaml")
    assert document.mistakes == [(1, f"the number '{'9' * 80}…' is too long")]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\n---\nb: 2\n", "file.yaml:2: a second document: a file holds one"),
        ("a: 1\n---\n", "file.yaml:2: a second document: a file holds one"),
        (
            "%YAML 1.1\n---\na: no\n",
            "file.yaml:1: files are read as YAML 1.2, and this one says that it is something else",
        ),
        ("a: 1\n? [b]\n: 2\n", "file.yaml:2: a key is a mapping or a list; keys are texts"),
        ("a: *b\n", "file.yaml:1: the alias 'b' stands for nothing that is complete before it"),
        ("a: 1\nb: &b [*b]\n", "file.yaml:2: the alias 'b' stands for nothing that is complete before it"),
        ("\n\na: x\x85b\n", "file.yaml:3: the character U+0085 is accepted only as an escape"),
        ("a: [" + "[" * 40 + "]" * 41, "file.yaml:1: values are nested more than 32 deep"),
        ("a:\n\t- b\n", "file.yaml:2: a tab cannot indent: use spaces"),
        ("a:\r\n  b: 1\r\n \tc: 2\r\n", "file.yaml:3: a tab cannot indent: use spaces"),
        (
            "a: [1,\n\t@]\n",
            "file.yaml:2: not YAML: while scanning for the next token, found character that cannot start any token",
        ),
        ("a: [1\nb: 2\n", "file.yaml:2: not YAML: while parsing a flow sequence, did not find expected ',' or ']'"),
        ("é: 1\nb: \x00\n", "file.yaml:2: not YAML: control characters are not allowed"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, line: str) -> None:
    assert refused(text) == line


def test_aliases_that_multiply_are_refused() -> None:
    """A billion laughs: nine levels of ten aliases each."""
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert refused("\n".join(levels)) == "file.yaml:5: aliases stand for more than 100000 values"


def test_nesting_without_end_costs_no_stack() -> None:
    assert refused("[" * 200_000) == "file.yaml:1: values are nested more than 32 deep"


def test_a_file_that_is_not_there_not_a_file_not_utf8_or_too_large_is_refused(tmp_path: Path) -> None:
    said = {}
    (tmp_path / "folder").mkdir()
    for name, content in {
        "absent": None,
        "folder": None,
        "latin": b"a: 1\nb: \xe9\n",
        "large": b"#" * (MAX_BYTES + 1),
    }.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(ConfigurationError) as error:
            read_document(path)
        said[name] = [line.replace(str(path), name) for line in error.value.mistakes]
    assert said == {
        "absent": ["absent: there is no such file"],
        "folder": ["folder: is a directory, not a file"],
        "latin": ["latin:2: the file is not UTF-8"],
        "large": ["large:1: the file is larger than 64 MiB"],
    }


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_document(path).value == {"a": 1}


def test_each_key_and_item_has_its_line() -> None:
    document = parse_document(
        "a:\n  - x\n  - y:\n      z: 1\n    w: |\n      text\nb: {c: [1,\n  2]}\n", name="file.yaml"
    )
    places: dict[tuple[int | str, ...], int] = {
        (): 1,
        ("a",): 1,
        ("a", 0): 2,
        ("a", 1): 3,
        ("a", 1, "y", "z"): 4,
        ("a", 1, "w"): 5,
        ("b",): 7,
        ("b", "c", 1): 8,
        ("b", "absent"): 7,
    }
    assert {place: document.line(place) for place in places} == places


def test_what_is_cut_out_leaves_lines_and_indices_as_they_were_written() -> None:
    document = parse_document("a: [1,\n 2,\n 3]\nb: {c: 1}\n", name="file.yaml")
    assert document.cut([("a", 0), ("a", 1), ("b", "c")])
    assert (document.value, document.line(("a", 0)), document.written(("a", 0))) == ({"a": [3], "b": {}}, 3, "a[2]")


def test_nothing_is_left_when_everything_is_cut_out() -> None:
    assert Document(name="file.yaml", value=notation.Mapping()).cut([()]) is False


@given(st.text())
def test_any_text_is_read_or_refused_as_a_configuration(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        parse_document(text, name="file.yaml")


@given(st.sampled_from(["true", "no", "0x1F", "1e3", "08:00", "~", "''", "x", "+1", ".5"]))
def test_a_quoted_scalar_is_text(scalar: str) -> None:
    assert value(f'"{scalar}"') == scalar
