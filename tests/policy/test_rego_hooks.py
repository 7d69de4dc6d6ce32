"""The organisation's own rules, on a real OPA server asked as the proxy asks it: they narrow and never widen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from ostiary import assets
from ostiary.policy.bundle import build_bundle
from support.policy import OpaServer, allowed, question, serving

PERMISSIONS = """\
services:
  shop:
    endpoints: {list: GET /orders, get: "GET /orders/{id}", remove: "DELETE /orders/{id}"}
callers:
  web: {issuer: https://idp.test, subject: web}
  custom: {issuer: https://idp.test, subject: custom}
permissions:
  - {caller: web, service: shop, endpoints: [list, get]}
"""
CUSTOM = """\
  - {caller: custom, service: shop, endpoints: [list], when: {custom: {odd: [1, 3]}}}
"""

Serve: TypeAlias = Callable[[str, str], OpaServer]


@pytest.fixture
def serve(opa_binary: Path, tmp_path: Path) -> Iterator[Serve]:
    """A server for a map with these rules of the organisation."""

    def start(rego: str, more: str) -> OpaServer:
        source = tmp_path / "source"
        source.mkdir()
        (source / "permissions.yaml").write_text(PERMISSIONS + more, encoding="utf-8")
        if rego:
            (source / "policy.rego").write_text(f"package policy\n\n{rego}\n", encoding="utf-8")
        bundle = build_bundle(source, tmp_path / "bundle", opa=opa_binary, sequence=1, rego_root=assets.rego())
        return stack.enter_context(serving(opa_binary, bundle.path, tmp_path))

    with ExitStack() as stack:
        yield start


def asked(subject: str = "web", **changes: Any) -> dict[str, Any]:
    return question(subject, "GET", "/orders", service="shop", endpoint="list", **changes)


ALLOWED = allowed("web", "shop", "list", cache={"max_age": 5, "vary": []})
DENIED = {**ALLOWED, "allow": False, "credential": None}
UNSTATED = {"max_age": 0, "vary": []}


def test_an_organisation_without_rego_has_no_say(serve: Serve) -> None:
    assert serve("", "").decide(asked()) == ALLOWED


def test_deny_refuses_with_its_text_and_is_not_cached_unless_it_states_so(serve: Serve) -> None:
    server = serve('deny contains "not from there" if input.context.source_ip == "192.0.2.1"', "")
    assert server.decide(asked()) == {**ALLOWED, "cache": UNSTATED}
    assert server.decide(asked(source_ip="192.0.2.1")) == {
        **DENIED,
        "reasons": ["policy-denied: not from there"],
        "cache": UNSTATED,
    }


@pytest.mark.parametrize(
    "rego",
    [
        'deny contains "all" if ["page", "all"] in input.resource.properties.query',
        'deny contains "all" if ["page", "all"] in input.resource.properties[_]',
        'deny contains "all" if {\n\twalk(input, [_, ["page", "all"]])\n}',
        'deny contains "all" if _all(input.resource)\n\n_all(asked) if ["page", "all"] in asked.properties.query',
    ],
)
def test_a_query_that_cannot_be_decoded_does_not_get_past_a_deny_that_reads_it(serve: Serve, rego: str) -> None:
    """`page=all&q=a+b` is null to the policy: what `deny` could not look at is refused (it did not fire once)."""
    server = serve(rego, "")
    assert server.decide(asked(query=[["page", "all"]]))["reasons"] == ["policy-denied: all"]
    assert server.decide(asked(query=[]))["allow"] is True
    refused = server.decide(asked(undecodable=True))
    assert (refused["allow"], refused["reasons"]) == (False, ["policy-denied: the query cannot be read"])


def test_a_deny_that_does_not_read_the_query_does_not_mind_it(serve: Serve) -> None:
    server = serve('deny contains "no" if input.subject.id == "nobody"', "")
    assert server.decide(asked(undecodable=True))["allow"] is True


def test_what_hooks_state_is_what_answers_depend_on(serve: Serve) -> None:
    rego = """\
deny contains "not from there" if input.context.source_ip == "192.0.2.1"

allow if count(input.resource.properties.query) == 0

caching := {
	"deny": {"max_age": 4, "vary": ["source_ip"]},
	"allow": {"max_age": 60, "vary": ["query"]},
}
"""
    server = serve(rego, "")
    depends = {"cache": {"max_age": 4, "vary": ["query", "source_ip"]}}
    assert server.decide(asked()) == {**ALLOWED, **depends}
    assert server.decide(asked(query=[["a", "b"]])) == {**DENIED, "reasons": ["policy-denied"], **depends}
    both = asked(query=[["a", "b"]], source_ip="192.0.2.1")
    assert server.decide(both) == {**DENIED, "reasons": ["policy-denied: not from there"], **depends}


def test_allow_cannot_widen(serve: Serve) -> None:
    server = serve("allow if true", "")
    assert server.decide(asked("stranger"))["reasons"] == ["unknown-caller"]
    unpermitted = question("web", "DELETE", "/orders/1", service="shop", endpoint="remove")
    assert server.decide(unpermitted)["reasons"] == ["permission-missing"]
    assert server.decide(asked())["allow"] is True


@pytest.mark.parametrize(
    "rego",
    [
        'allow if input.subject.properties.claims.tenant == "acme"',
        "default allow := false",
        'allow := "true"',
        "allow := 1",
        "allow := null",
        "allow := {}",
    ],
)
def test_an_allow_that_is_not_true_denies(serve: Serve, rego: str) -> None:
    """A fact that is missing, too: undefined is not true."""
    decision = serve(rego, "").decide(asked())
    assert decision == {**DENIED, "reasons": ["policy-denied"], "cache": UNSTATED}


def test_deny_and_allow_are_asked_only_about_what_the_map_allows(serve: Serve) -> None:
    """So other denials stay cacheable, and a rule that fails does not turn them into something else."""
    server = serve('deny contains "x" if to_number(input.subject.id) == 1', "")
    denial = server.decide(asked("stranger"))
    assert (denial["reasons"], denial["cache"]) == (["unknown-caller"], {"max_age": 5, "vary": []})
    unpermitted = question("web", "DELETE", "/orders/1", service="shop", endpoint="remove")
    assert server.decide(unpermitted)["cache"] == {"max_age": 5, "vary": []}


@pytest.mark.parametrize(
    "rego",
    [
        'deny contains "x" if to_number(input.subject.id) == 1',
        "allow if { not failing }\n\nfailing if to_number(input.subject.id) == 1",
        'deny contains "x" if time.weekday([1, input.action.name]) == "Sunday"',
    ],
)
def test_a_built_in_that_fails_is_no_answer(serve: Serve, rego: str) -> None:
    """OPA's answer is then a 500, which the proxy turns into 503: not a rule that silently did not fire."""
    answer = serve(rego, "").post("ostiary/authz/decision", asked())
    assert answer.status_code == 500
    assert "result" not in answer.json()


def test_in_a_batch_only_the_culprit_has_no_answer(serve: Serve) -> None:
    server = serve('deny contains "x" if to_number(input.resource.properties.query[0][0]) == 1', "")
    batch = {"evaluations": [asked(), asked(query=[["x", ""]])]}
    assert server.post("ostiary/authz/decisions", batch).status_code == 500
    assert server.decide(asked())["allow"] is True
    assert server.post("ostiary/authz/decision", batch["evaluations"][1]).status_code == 500


def test_rules_that_conflict_are_no_answer(serve: Serve) -> None:
    rego = "allow := true if input.action.name\n\nallow := false if input.resource.id"
    assert serve(rego, "").post("ostiary/authz/decision", asked()).status_code == 500


@pytest.mark.parametrize(
    ("body", "holds"),
    [
        ('condition("odd", argument, request) if count(request.resource.properties.query) in argument', True),
        ('condition("odd", argument, _) if 2 in argument', False),
        ('condition("odd", _, request) if request.missing', False),
        ('condition("odd", _, _) := "true"', False),
        ('condition("odd", _, _) := 1', False),
    ],
)
def test_a_condition_of_the_organisation_holds_only_where_it_is_true(serve: Serve, body: str, holds: bool) -> None:
    decision = serve(body, CUSTOM).decide(asked("custom", query=[["a", "1"]]))
    assert decision["allow"] is holds
    assert decision["reasons"] == ([] if holds else ["condition-custom: odd"])
    assert decision["cache"] == UNSTATED


def test_a_condition_states_what_it_depends_on(serve: Serve) -> None:
    rego = """\
condition("odd", argument, request) if count(request.resource.properties.query) in argument

caching := {"odd": {"max_age": 3, "vary": ["query"]}}
"""
    server = serve(rego, CUSTOM)
    depends = {"max_age": 3, "vary": ["query"]}
    assert server.decide(asked("custom", query=[["a", "1"]]))["cache"] == depends
    assert server.decide(asked("custom"))["cache"] == depends
    assert server.decide(asked("web"))["cache"] == {"max_age": 5, "vary": []}


@pytest.mark.parametrize(
    "statement",
    ['{"max_age": 5, "vary": ["weather"]}', '{"max_age": "5", "vary": []}', '{"vary": []}', "5", "null"],
)
def test_what_is_stated_wrongly_is_not_cached(serve: Serve, statement: str) -> None:
    rego = f'deny contains "x" if input.missing\n\ncaching := {{"deny": {statement}}}'
    assert serve(rego, "").decide(asked()) == {**ALLOWED, "cache": UNSTATED}
