"""Whose paths became whose: every pair that is named has a path, and every path has a pair that is named."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ostiary.policy.review.overlap import shared_paths
from ostiary.routes import Endpoint, RouteTable

PARTS = ("a", "A", "ab", "7", "{x}", "{x:int}", "{x:text}", "{x:file}")
SEGMENTS = ("a", "A", "ab", "aB", "7", "07", "x", "a.b", "x-", "~", ":", "é", "")

templates = st.builds(
    lambda method, parts, end: f"{method} /{'/'.join([*dict.fromkeys(parts), *end])}",
    st.sampled_from(["GET", "GET", "POST"]),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3),
    st.sampled_from([[], [], ["**"], [""]]),
)
tables = st.lists(templates, max_size=5, unique=True)
paths = st.lists(st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4), min_size=20, max_size=40)


def endpoints(texts: list[str]) -> list[Endpoint]:
    """Those that can stand in one table; a variable of one name once."""
    found: list[Endpoint] = []
    for number, text in enumerate(texts):
        if text.count("{") > 1:
            continue
        one = Endpoint.parse(f"e{number}", text)
        if not RouteTable([*found, one]).conflicts:
            found.append(one)
    return found


def reached(table: RouteTable, method: str, path: tuple[str, ...]) -> str | None:
    found = table.endpoint(method, path)
    return None if found is None else found.name


@given(tables, tables, paths)
@example(["GET /admin", "GET /{x}"], ["GET /{x}"], [["admin"], ["Admin"]])
@example(["GET /a/b", "GET /**"], ["GET /**"], [["a", "b"], ["a"], ["A"]])
@example(["GET /s", "GET /S"], ["GET /{x:text}"], [["\u017f"]])
@example(["POST /a/{x}", "GET /a/**"], ["GET /a/**"], [["a", "7"]])
def test_what_is_said_of_two_tables_is_what_they_do(old: list[str], new: list[str], asked: list[list[str]]) -> None:
    before, after = endpoints(old), endpoints(new)
    tables = RouteTable(before), RouteTable(after)
    found = shared_paths(before, after)
    for (was, now), path in found.items():
        methods = {each.method for each, name in ((e, was) for e in before) if each.name == name}
        methods |= {each.method for each in after if each.name == now}
        assert len(methods) == 1
        assert (was, now) == tuple(reached(table, *methods, path) for table in tables)
    for path in map(tuple, asked):
        if "" in path[:-1]:
            continue  # no canonical path
        for method in ("GET", "POST"):
            pair = tuple(reached(table, method, path) for table in tables)
            assert pair == (None, None) or pair in found, path


@pytest.mark.parametrize(
    ("old", "new", "pairs"),
    [
        (["GET /a"], ["GET /a"], {("e0", "e0")}),
        (["GET /a"], [], {("e0", None)}),
        (["GET /orders/{x}"], ["GET /orders/{x}", "GET /orders/admin"], {("e0", "e0"), ("e0", "e1"), ("e0", None)}),
        (["GET /{x:int}"], ["GET /{x}"], {("e0", "e0"), (None, "e0")}),
    ],
)
def test_tables_that_are_easily_read(old: list[str], new: list[str], pairs: set[tuple[str, str]]) -> None:
    assert shared_paths(endpoints(old), endpoints(new)).keys() == pairs
