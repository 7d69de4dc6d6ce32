"""A comparison of two maps held against OPA: what is allowed under the newer map alone was marked as a widening."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary import assets
from ostiary.clock import written_instant
from ostiary.models import Json
from ostiary.policy.compiler import compile_map
from ostiary.policy.model import PermissionMap
from ostiary.policy.review.compare import compare_maps
from ostiary.policy.review.observed import compare_observed
from ostiary.policy.review.snapshot import Snapshot
from support.policy import NOW, OpaServer, grant, question, serving_rego

IDP = "https://idp.test"
TEMPLATES = (
    *(
        "GET /orders",
        "POST /orders",
        "GET /orders/{id}",
        "POST /orders/{id}",
        "GET /orders/admin",
        "GET /orders/{id}/**",
    ),
    *("GET /orders/{id}/{part}", "GET /orders/**", "GET /orders/{id}/special", "GET /**"),
)
NAMES = ("a", "b", "c")
ENTRIES = 4
CALLERS: tuple[dict[str, Any], ...] = (
    {"issuer": IDP, "subject": "web"},
    {"issuer": IDP, "subject": "web", "claims": {"tenant": "acme"}},
    {"issuer": IDP, "claims": {"tenant": "acme"}},
    {"issuer": IDP, "claims": {"tenant": ["acme", "zeta"]}},
    {"issuer": IDP, "claims": {"tenant": "acme", "groups": "staff"}},
    {"issuer": "https://other.test", "subject": "web"},
    {"spiffe": "spiffe://shop.test/web"},
)
WHEN: tuple[dict[str, Any] | None, ...] = (
    None,
    {"source": ["10.0.0.0/8"]},
    {"source": ["10.0.0.0/9", "192.0.2.0/24"]},
    {"hours": {"from": "14:00", "to": "15:00", "timezone": "UTC"}},
    {"hours": {"from": "15:00", "to": "14:30", "days": ["sun", "mon"], "timezone": "UTC"}},
    {"claims": {"tenant": "acme"}},
    {"claims": {"tenant": ["acme", "zeta"]}, "source": ["10.0.0.0/8"]},
    {"read_only": True},
    {"query": {"status": ["open"]}},
    {"query": {"status": "*", "page": "*"}},
    {"path": {"id": {"claim": "tenant"}}},
    {"custom": {"even": {"least": 2}}},
)
EVEN = """\
package policy

condition("even", argument, request) if count(request.resource.properties.segments) == argument.least
"""
IDENTITIES: tuple[dict[str, Any], ...] = (
    {"subject": "web"},
    {"subject": "web", "claims": {"tenant": "acme"}},
    {"subject": "web", "claims": {"tenant": ["zeta", "other"], "groups": ["staff"]}},
    {"subject": "ann", "claims": {"tenant": "acme", "groups": ["staff", "x"]}},
    {"subject": "web", "issuer": "https://other.test"},
    {"subject": "spiffe://shop.test/web", "issuer": "spiffe://shop.test", "proof": "mtls"},
)
PATHS = (
    *(
        ("GET", "/orders"),
        ("POST", "/orders"),
        ("GET", "/orders/acme"),
        ("POST", "/orders/7"),
        ("GET", "/orders/admin"),
    ),
    *(("GET", "/orders/Admin"), ("GET", "/orders/7/special"), ("GET", "/orders/acme/x"), ("GET", "/orders/a.b/c")),
    *(("GET", "/orders/7/x/y"), ("GET", "/other"), ("GET", "/orders/")),
)
CIRCUMSTANCES: tuple[dict[str, Any], ...] = (
    {},
    {"source_ip": "10.200.0.1", "query": [["status", "open"]]},
    {"source_ip": "192.0.2.1", "now": NOW + 1800, "query": [["status", "shut"], ["page", "2"]]},
)
GRANTED = ([], [("a",)], [("b", "c")])
"""The endpoints of the grants of the caller `one`, which every identity brings."""


CREDENTIALS = (None, None, {"lifetime": 30}, {"lifetime": "10m"}, {"per_call": True})
LEAD = {"issuer": IDP, "claims": {"groups": "lead"}}

FIELDS = {
    "template": (len(NAMES), st.sampled_from(TEMPLATES)),
    "definition": (2, st.sampled_from([*CALLERS, *CALLERS[:4]])),
    "kind": (ENTRIES, st.sampled_from(["permissions", "permissions", "eligible", "shadow"])),
    "caller": (ENTRIES, st.sampled_from(["one", "two"])),
    "endpoint": (ENTRIES, st.sampled_from(NAMES)),
    "when": (ENTRIES, st.sampled_from(WHEN)),
    "credential": (ENTRIES, st.sampled_from(CREDENTIALS)),
    "observed": (1, st.sampled_from([None, None, NOW + 60, NOW + 3600])),
}
"""What a map is made of: of each how many, and which there are."""


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two maps that differ in one thing or two, so that what differs is not hidden by what differs beside it."""
    old = {name: draw(st.tuples(*[values] * count)) for name, (count, values) in FIELDS.items()}
    new = {name: [*values] for name, values in old.items()}
    for name in draw(st.lists(st.sampled_from([*FIELDS, *["when"] * 5]), min_size=1, max_size=2)):
        count, values = FIELDS[name]
        new[name][draw(st.integers(0, count - 1))] = draw(values)
    return permission_map(**old), permission_map(**new)


def permission_map(**fields: Any) -> dict[str, Any]:
    """What is said twice, or never holds, is left out: it is a mistake."""
    endpoints = dict(reversed([(template, name) for name, template in zip(NAMES, fields["template"], strict=True)]))
    templates = {name: template for template, name in endpoints.items()}
    written: dict[str, Any] = {"permissions": [], "eligible": []}
    seen: list[Any] = []
    entries = zip(*(fields[name] for name in ("kind", "caller", "endpoint", "when", "credential")), strict=True)
    for kind, caller, endpoint, when, credential in entries:
        entry = {"caller": caller, "service": "shop", "endpoints": [endpoint]}
        entry |= {"when": when} if when else {}
        entry |= {"credential": credential} if credential else {}
        entry |= {"approvers": ["lead"], "max_duration": "30m"} if kind == "eligible" else {}
        if endpoint in templates and possible(when or {}, templates[endpoint]) and entry not in seen:
            seen.append(entry)
            shadow = {"shadow": True} if kind == "shadow" else {}
            written["eligible" if kind == "eligible" else "permissions"].append(entry | shadow)
    callers = dict(zip(("one", "two"), fields["definition"], strict=True))
    [until] = fields["observed"]
    if until is not None:
        written["observe"] = {"shop": {"until": written_instant(until)}}
    return {"services": {"shop": {"endpoints": templates}}, "callers": {**callers, "lead": LEAD}, **written}


def possible(when: dict[str, Any], template: str) -> bool:
    return ("path" not in when or "{id}" in template) and ("read_only" not in when or template.startswith("GET"))


def snapshot(written: dict[str, Any]) -> tuple[Json, Snapshot]:
    content = compile_map(PermissionMap.model_validate(written))
    return content, Snapshot(content)


def requests(turn: int) -> list[dict[str, Any]]:
    """Every identity at every path, each in other circumstances; in all of them, after as many turns."""
    asked = []
    for who, identity in enumerate(IDENTITIES):
        named = {"subject": identity["subject"], "issuer": identity.get("issuer", IDP)}
        for where, (method, path) in enumerate(PATHS):
            circumstances = CIRCUMSTANCES[(who + where + turn) % len(CIRCUMSTANCES)]
            given = [grant("one", *endpoints, **named) for endpoints in GRANTED[(who + turn) % len(GRANTED)]]
            said = {"method": method, "path": path, "service": "shop", "grants": given}
            asked.append(question(**(said | identity | circumstances)))
    return asked


REQUESTS = [requests(turn) for turn in range(len(CIRCUMSTANCES))]


@pytest.fixture(scope="module")
def server(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpaServer]:
    place = tmp_path_factory.mktemp("opa")
    with serving_rego(opa_binary, assets.rego(), place) as opa:
        opa.put("policies/even.rego", EVEN)
        yield opa


def decisions(server: OpaServer, content: Json, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    server.put("data/ostiary/map", json.dumps(content))
    answer = server.post("ostiary/authz/decisions", {"evaluations": asked})
    found = answer.json()["result"]
    assert len(found) == len(asked)
    return list(found)


@given(pair=pairs(), asked=st.sampled_from(REQUESTS))
@settings(max_examples=50)
def test_what_only_the_newer_map_allows_is_marked(
    server: OpaServer, pair: tuple[dict[str, Any], dict[str, Any]], asked: list[dict[str, Any]]
) -> None:
    """And what it lets through with a credential that is good for more."""
    (before, older), (after, newer) = map(snapshot, pair)
    changes, _, _ = compare_maps(older, newer)
    marked = {
        (caller, place.endpoint)
        for each in changes
        if each.widening
        for caller in each.callers
        for place in each.places
    }
    [observed] = compare_observed(older, newer) or [None]
    for request, was, now in zip(asked, *(decisions(server, each, asked) for each in (before, after)), strict=True):
        if now["observed"]:
            # What is let through so has no credential that any permission would have to have given.
            assert observed is not None
            assert observed.widening or was["allow"], (request, was, now)
        elif now["allow"] and (not was["allow"] or was["observed"]):
            assert (now["caller"], now["endpoint"]) in marked, (request, was, now)
        elif now["allow"] and is_looser(now["credential"], was["credential"]):
            assert now["endpoint"] in {endpoint for _, endpoint in marked}, (request, was, now)


def is_looser(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one["lifetime"] > other["lifetime"] or (other["per_call"] and not one["per_call"])
