"""Tables of cases: what people can write wrongly, and that each mistake is told with its line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ostiary import assets
from ostiary.errors import ConfigurationError
from ostiary.policy.bundle import build_bundle, rego_for_tests
from ostiary.policy.cases import SOME_TIME, load_cases
from ostiary.policy.document import parse_document, plain
from ostiary.policy.model import PermissionMap, load_permissions
from ostiary.policy.rego import Opa
from ostiary.policy.schema import cases_schema

OTHERS = """\
cases:
  - {caller: web, service: orders, request: GET /orders, expect: allow, why: a}
  - {caller: web, service: orders, request: PUT /orders, expect: deny, why: b}
"""
CASE = "  - {caller: web, service: orders, request: GET /orders, expect: allow, why: c}\n"


@pytest.fixture(scope="module")
def demo() -> PermissionMap:
    return load_permissions(assets.demo_bundle() / "permissions.yaml")


def mistakes(text: str, known: PermissionMap, tmp_path: Path) -> list[str]:
    path = tmp_path / "x_cases.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load_cases(path, known)
    return [line.removeprefix(f"{path}:") for line in caught.value.mistakes]


def schema_errors(text: str) -> list[str]:
    document: Any = plain(parse_document(text, name="x").value)
    return [error.json_path for error in jsonschema.Draft202012Validator(cases_schema()).iter_errors(document)]


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        ("caller: web", "caller: wbe", "caller: unknown caller 'wbe' (did you mean 'web'?)"),
        ("caller: web, ", "", "says not who asks: name a caller"),
        (
            "caller: web",
            "caller: web, identity: {issuer: i, subject: s}",
            "has a caller and an identity: leave one out",
        ),
        (
            "caller: web",
            "identity: {issuer: i}",
            "identity: an identity is an issuer and a subject, or a SPIFFE ID",
        ),
        (
            "caller: web",
            "identity: {issuer: i, subject: s}, granted: [refund]",
            "granted: is for a caller; an identity says all of itself",
        ),
        ("caller: web", "caller: web, subject: ann", "subject: the caller 'web' is 'web' alone"),
        (
            "caller: web",
            "caller: support, claims: {groups: [a]}",
            "claims.groups: with this it is not the caller 'support', who has 'support'",
        ),
        ("caller: web", "caller: web, granted: [export]", "granted[0]: 'web' is not eligible for 'export'"),
        ("service: orders", "service: order", "service: unknown service 'order' (did you mean 'orders'?)"),
        ("service: orders, ", "", "service: is missing"),
        (
            "GET /orders",
            "GET orders",
            "request: 'GET orders' is not a request, which is written GET /orders/42?page=2",
        ),
        (
            "request: GET /orders",
            'request: "GET /a\\eb"',
            r"request: 'GET /a\x1bb' is not a request, which is written GET /orders/42?page=2",
        ),
        ("GET /orders", "get /orders", "request: unknown method 'get' (did you mean 'GET'?)"),
        ("why: c", "why: c, from: here", "from: 'here' is not an IP address"),
        ("why: c", "why: c, at: noon", "at: 'noon' is not a time, which is written 2026-09-21T10:00:00Z"),
        (", why: c", "", "why: is missing"),
        ("why: c", "wy: c, why: c", "wy: unknown key (did you mean 'why'?)"),
        ("expect: allow", "expect: allowed", "expect: unknown reason 'allowed' (did you mean 'allow'?)"),
        ("expect: allow", "expect: [deny]", "expect[0]: 'deny' stands alone: a list is of reasons"),
        ("expect: allow", "expect: []", "expect: is allow, deny, observed, a reason or a list of reasons"),
        ("expect: allow", "expect: [observed]", "expect[0]: 'observed' stands alone: a list is of reasons"),
    ],
)
def test_a_mistake_is_told_with_its_place(
    old: str, new: str, mistake: str, demo: PermissionMap, tmp_path: Path
) -> None:
    where = "cases[2]" + (": " if mistake.startswith(("says", "has a")) else ".")
    assert old in CASE
    assert mistakes(OTHERS + CASE.replace(old, new), demo, tmp_path) == [f"4: {where}{mistake}"]


def test_mistakes_of_one_case_hide_none_of_another_nor_of_the_same(demo: PermissionMap, tmp_path: Path) -> None:
    wrong = CASE.replace("web", "wbe").replace("GET /", "GET ").replace("allow", "alow").replace("orders,", "order,", 1)
    found = mistakes(OTHERS + wrong + wrong, demo, tmp_path)
    assert [line.partition(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        f"{line} cases[{place}].{key}"
        for line, place in ((4, 2), (5, 3))
        for key in ("caller", "expect", "request", "service")
    ]


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        (1, "1: no case expects a denial: a policy that allows everything would pass"),
        (2, "1: no case expects 'allow': a policy that allows nothing would pass"),
    ],
)
def test_a_table_goes_both_ways(line: int, mistake: str, demo: PermissionMap, tmp_path: Path) -> None:
    lines = OTHERS.splitlines()
    assert mistakes(f"{lines[0]}\n{lines[line]}\n", demo, tmp_path) == [mistake]


def test_what_is_not_said_is_a_monday_and_nobody_s_network(demo: PermissionMap, tmp_path: Path) -> None:
    path = tmp_path / "x_cases.yaml"
    path.write_text(OTHERS, encoding="utf-8")
    table = load_cases(path, demo)
    assert [(line, case.from_, case.time) for line, case in table.cases] == [
        (2, "192.0.2.1", SOME_TIME),
        (3, "192.0.2.1", SOME_TIME),
    ]


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("request: GET /orders/42\n", "request: get /orders/42\n", "$.cases[0].request"),
        ("    why: the shop", "    wy: the shop", "$.cases[0]"),
        ("expect: grant-required", "expect: []", "$.cases[7].expect"),
        ("cases:\n", "cases: []\nothers:\n", "$"),
    ],
)
def test_what_the_loader_refuses_by_shape_the_schema_refuses_too(old: str, new: str, place: str) -> None:
    text = (assets.demo_bundle() / "demo_cases.yaml").read_text(encoding="utf-8")
    assert schema_errors(text) == []
    assert old in text
    assert place in schema_errors(text.replace(old, new, 1))


def test_the_words_mean_the_same_in_rego(demo: PermissionMap, opa_binary: Path, tmp_path: Path) -> None:
    """`testing.decision` of what a table says is what the table expects; but no path with an escape is described."""
    path = assets.demo_bundle() / "demo_cases.yaml"
    cases = [case for _, case in load_cases(path, demo).cases]
    written: Any = plain(parse_document(path.read_text(encoding="utf-8"), name="x").value)["cases"]
    words = [{key: value for key, value in each.items() if key not in ("expect", "why")} for each in written]
    bundle = build_bundle(
        assets.demo_bundle(), tmp_path / "b", opa=opa_binary, sequence=0, rego_root=assets.rego()
    ).path
    shutil.copy(rego_for_tests(assets.rego()), bundle / "ostiary" / "testing.rego")
    query = "[decided | some each in input; decided := data.ostiary.testing.decision(each)]"
    decisions, _ = Opa(opa_binary).evaluate(bundle, query, words)
    expected = [case.expect for case in cases if b"%" not in case.request.path]
    assert len(expected) == len(cases) - 1
    assert ["allow" if each["allow"] else each["reasons"] for each in decisions] == expected
