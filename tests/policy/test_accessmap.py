"""The access map: what is written, role by role resolved, for people, for programs and as a diagram."""

from __future__ import annotations

from pathlib import Path

import pytest

from ostiary.errors import ConfigurationError
from ostiary.policy.accessmap import access_map, outline
from ostiary.policy.diagrams import dot, mermaid
from ostiary.policy.model import PermissionMap, load_permissions
from support.cli import POLICY
from support.diagrams import Diagram, read_dot, read_mermaid

# Legal names of every kind that mean something in YAML, Markdown, HTML, Mermaid or DOT.
NASTY = r"""
services:
  end:
    endpoints:
      subgraph: "GET /{graph:text}/style/**"
      node: POST /end
callers:
  strict: {issuer: '"]; x --> y', subject: '%%{init: {"theme": "x"}}%%'}
  digraph: {issuer: https://idp.test, claims: {'a|b': ['<img src=x>', '`code`', '#35;', '&amp;', 'C:\N', '🙂', '"']}}
permissions:
  - {caller: strict, service: end, endpoints: [subgraph], when: {claims: {'"x"|': ['\', '; end', '-->', '\"']}}}
  - {caller: digraph, service: end, endpoints: [node], when: {query: {'%%': '*', '<b>': ['#quot;', '|']}, custom: {hour: "\" ];\n"}}}
"""  # noqa: E501 - one permission a line


@pytest.fixture
def policy(tmp_path: Path) -> PermissionMap:
    return loaded(tmp_path, POLICY)


def loaded(tmp_path: Path, text: str) -> PermissionMap:
    path = tmp_path / "permissions.yaml"
    path.write_text(text, encoding="utf-8")
    return load_permissions(path)


def test_every_access_is_listed_once_and_sorted(policy: PermissionMap) -> None:
    found = access_map(policy)
    assert [(access.permission, access.kind, access.credential) for access in found.accesses] == [
        ("job/orders/list-orders/651cd4ad", "standing", "reusable, 1m"),
        ("support/billing/refund/8ca93b85", "eligible", "reusable, 1m"),
        ("support/orders/get-order/c8759f29", "standing", "reusable, 1m"),
        ("support/orders/list-orders/c8759f29", "standing", "reusable, 1m"),
        ("support-lead/billing/ledger/fb4fae46", "standing", "reusable, 1m"),
        ("support-lead/orders/export/e910be0c", "standing", "reusable, 1m"),
        ("web/billing/charge/44136fa3", "standing", "one call, 30s"),
        ("web/orders/cancel-order/b8232c64", "standing", "reusable, 1m"),
        ("web/orders/get-order/44136fa3", "standing", "reusable, 1m"),
        ("web/orders/list-orders/44136fa3", "standing", "reusable, 1m"),
    ]
    assert list(found.callers) == ["job", "support", "support-lead", "unused", "web"]
    assert found.nobody == ()


def test_the_same_permission_from_a_role_and_by_name_is_one_with_the_strictest_credential(tmp_path: Path) -> None:
    """As the compiled bundle has it."""
    twice = POLICY.replace(
        "permissions:\n",
        "permissions:\n"
        "  - {caller: web, service: orders, endpoints: [get-order], credential: {per_call: true, lifetime: 2m}}\n",
    )
    found = access_map(loaded(tmp_path, twice), caller="web", service="orders")
    assert [(access.permission, access.credential) for access in found.accesses] == [
        ("web/orders/cancel-order/b8232c64", "reusable, 1m"),
        ("web/orders/get-order/44136fa3", "one call, 1m"),
        ("web/orders/list-orders/44136fa3", "reusable, 1m"),
    ]


def test_a_shadow_is_shown_and_is_nobodys_permission(tmp_path: Path) -> None:
    text = POLICY.replace("charge: POST /charges\n", "charge: POST /charges\n      void: DELETE /charges/{charge_id}\n")
    shadow = "permissions:\n  - {caller: web, service: billing, endpoints: [void, charge], shadow: true}\n"
    found = access_map(loaded(tmp_path, text.replace("permissions:\n", shadow)), service="billing", caller="web")
    assert [(access.endpoint.name, access.kind, access.credential) for access in found.accesses] == [
        ("charge", "shadow", "reusable, 1m"),
        ("charge", "standing", "one call, 30s"),
        ("void", "shadow", "reusable, 1m"),
    ]
    assert [endpoint.name for _, endpoint in access_map(loaded(tmp_path, text), service="billing").nobody] == ["void"]
    assert outline(found, width=80).splitlines()[2:4] == [
        "    charge  POST /charges",
        "            shadow: allows nothing",
    ]


def test_one_caller_or_one_service_can_be_asked_for(policy: PermissionMap) -> None:
    of_web, of_orders = access_map(policy, caller="web"), access_map(policy, service="orders")
    assert (set(of_web.callers), {access.caller for access in of_web.accesses}) == ({"web"}, {"web"})
    assert list(of_orders.callers) == ["job", "support", "support-lead", "web"]
    assert {access.service for access in of_orders.accesses} == {"orders"}


@pytest.mark.parametrize(
    ("names", "mistake"),
    [
        ({"caller": "wbe"}, "the map has no caller 'wbe' (did you mean 'web'?)"),
        ({"service": "odrers"}, "the map has no service 'odrers' (did you mean 'orders'?)"),
    ],
)
def test_a_name_that_is_none_is_a_mistake_and_no_empty_map(
    policy: PermissionMap, names: dict[str, str], mistake: str
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        access_map(policy, **names)
    assert refused.value.mistakes == (mistake,)


def test_the_outline_is_grouped_by_caller_and_service_and_names_what_nobody_may_call(tmp_path: Path) -> None:
    text = POLICY.replace("charge: POST /charges\n", "charge: POST /charges\n      void: DELETE /charges/{charge_id}\n")
    assert outline(access_map(loaded(tmp_path, text)), width=80) == (
        """\
job  spiffe://shop.test/job
  orders
    list-orders   GET /orders
                  if read-only
                  if query only status = open or paid, page = anything

support  https://idp.test, claims groups = support
  billing
    refund        POST /charges/{charge_id}/refund
                  eligible: approved by support-lead, for at most 30m, for 5
                    requests
                  if hours 22:00–06:00 sat,sun UTC
  orders
    get-order     GET /orders/{order_id}
                  if hours 08:00–18:00 mon–fri Europe/Paris
                  if claims tenant = acme
    list-orders   GET /orders
                  if hours 08:00–18:00 mon–fri Europe/Paris
                  if claims tenant = acme

support-lead  https://idp.test, claims groups = support-lead, tenant = acme or
    umbrella
  billing
    ledger        GET /tenants/{tenant_id}/ledger
                  if path tenant_id = the claim tenant
  orders
    export        GET /orders/export
                  if custom weekly {"on": "sunday"}

unused  https://idp.test, subject unused
  may call nothing

web  https://idp.test, subject web
  billing
    charge        POST /charges
                  credential: one call, 30s
  orders
    cancel-order  DELETE /orders/{order_id}
                  if source 10.0.0.0/8 or 2001:db8::/32
    get-order     GET /orders/{order_id}
    list-orders   GET /orders

nobody
  billing
    void          DELETE /charges/{charge_id}"""
    )


def test_a_long_name_has_a_line_of_its_own(tmp_path: Path) -> None:
    name = "a-name-that-is-longer-than-a-column-should-be"
    text = POLICY.replace("charge: POST", f"{name}: POST").replace("[charge]", f"[{name}]")
    assert outline(access_map(loaded(tmp_path, text), caller="web", service="billing"), width=80) == (
        f"""\
web  https://idp.test, subject web
  billing
    {name}
      POST /charges
      credential: one call, 30s"""
    )


def test_the_document_has_conditions_as_they_are_written(policy: PermissionMap) -> None:
    document = access_map(policy, caller="support", service="billing").document()
    assert document == {
        "callers": {"support": {"issuer": "https://idp.test", "claims": {"groups": ["support"]}}},
        "accesses": [
            {
                "permission": "support/billing/refund/8ca93b85",
                "caller": "support",
                "service": "billing",
                "endpoint": "refund",
                "method": "POST",
                "path": "/charges/{charge_id}/refund",
                "kind": "eligible",
                "when": {"hours": {"from": "22:00", "to": "06:00", "days": ["sat", "sun"], "timezone": "UTC"}},
                "credential": {"lifetime": 60, "per_call": False},
                "limits": {
                    "approvers": ["support-lead"],
                    "approvals": 1,
                    "max_duration": 1800,
                    "max_uses": 5,
                    "reason_required": True,
                },
            }
        ],
        "nobody": [],
        "observed": {},
    }


def test_diagrams_say_what_the_map_says(policy: PermissionMap) -> None:
    found = access_map(policy, service="billing")
    expected = Diagram(
        callers=["support", "support-lead", "web"],
        services={
            "billing": [
                "charge: POST /charges",
                "ledger: GET /tenants/{tenant_id}/ledger",
                "refund: POST /charges/{charge_id}/refund",
            ]
        },
        edges=[
            (
                "support",
                "refund: POST /charges/{charge_id}/refund",
                True,
                "eligible: approved by support-lead, for at most 30m, for 5 requests; hours 22:00–06:00 sat,sun UTC",
            ),
            (
                "support-lead",
                "ledger: GET /tenants/{tenant_id}/ledger",
                False,
                "path tenant_id = the claim tenant",
            ),
            ("web", "charge: POST /charges", False, ""),
        ],
    )
    assert (read_mermaid(mermaid(found)), read_dot(dot(found))) == (expected, expected)


def test_no_name_becomes_syntax_in_a_diagram(tmp_path: Path) -> None:
    found = access_map(loaded(tmp_path, NASTY))
    node, subgraph = "node: POST /end", "subgraph: GET /{graph:text}/style/**"
    expected = Diagram(
        callers=["digraph", "strict"],
        services={"end": [node, subgraph]},
        edges=[
            (
                "digraph",
                node,
                False,
                r'query only "%%" = anything, "<b>" = "#quot;" or "|"; custom hour "\" ];\n"',
            ),
            ("strict", subgraph, False, r'claims "\"x\"|" = "\\", "; end", "-->" or "\\\""'),
        ],
    )
    assert (read_mermaid(mermaid(found)), read_dot(dot(found))) == (expected, expected)


def test_an_empty_map_is_an_empty_diagram(tmp_path: Path) -> None:
    found = access_map(loaded(tmp_path, "services: {orders: {endpoints: {list: GET /orders}}}\n"))
    assert (read_mermaid(mermaid(found)), read_dot(dot(found))) == (Diagram(), Diagram())
    assert outline(found, width=80) == "nobody\n  orders\n    list  GET /orders"
