"""What a good permission map becomes."""

# ruff: noqa: E501 - the complete lines, as people see them

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
import yaml
from pydantic import ValidationError

from ostiary.policy.model import Conditions, PermissionMap, load_permissions
from support.files import CONDITIONS, PERMISSIONS, mistakes


def load(path: Path, text: str) -> PermissionMap:
    path.write_text(text, encoding="utf-8")
    return load_permissions(path)


def test_the_example_of_the_design_loads_unchanged(tmp_path: Path) -> None:
    permission_map = load(tmp_path / "permissions.yaml", PERMISSIONS)
    assert permission_map.model_dump(mode="json", by_alias=True, exclude_none=True) == {
        "services": {
            "orders": {
                "endpoints": {
                    "list-orders": "GET /orders",
                    "get-order": "GET /orders/{order_id}",
                    "create-order": "POST /orders",
                    "invoices": "GET /orders/{order_id}/invoices/**",
                }
            },
            "billing": {"endpoints": {"charge": "POST /charges", "refund": "POST /charges/{charge_id}/refund"}},
        },
        "roles": {"order-reader": {"orders": ["list-orders", "get-order"]}},
        "callers": {
            "web": {"issuer": "https://idp.test", "subject": "web"},
            "reporting": {"spiffe": "spiffe://shop.test/reporting"},
            "support": {"issuer": "https://idp.test", "claims": {"groups": ["support"]}},
            "support-lead": {"issuer": "https://idp.test", "claims": {"groups": ["support-lead"]}},
        },
        "permissions": [
            {"caller": "web", "roles": ["order-reader"], "shadow": False},
            {
                "caller": "web",
                "service": "orders",
                "endpoints": ["create-order"],
                "when": {"source": ["10.0.0.0/8"], "read_only": False},
                "shadow": False,
            },
            {
                "caller": "web",
                "service": "billing",
                "endpoints": ["charge"],
                "credential": {"per_call": True, "lifetime": 30},
                "shadow": False,
            },
        ],
        "eligible": [
            {
                "caller": "support",
                "service": "billing",
                "endpoints": ["refund"],
                "approvers": ["support-lead"],
                "approvals": 1,
                "max_duration": 1800,
                "max_uses": 5,
                "reason_required": True,
                "auto_approve": False,
                "when": {"source": ["10.0.0.0/8"], "read_only": False},
            }
        ],
        "observe": {},
    }


def test_every_condition_of_the_design_loads_unchanged(tmp_path: Path) -> None:
    indented = "".join(f"      {line}\n" for line in CONDITIONS.splitlines())
    text = f"""\
services:
  orders: {{endpoints: {{get: "GET /tenants/{{tenant_id}}/orders"}}}}
callers:
  web: {{issuer: https://idp.test, subject: web}}
permissions:
  - caller: web
    service: orders
    endpoints: [get]
    when:
{indented}      custom: {{ticket: {{open: true}}, weekday: }}
"""
    when = load(tmp_path / "permissions.yaml", text).permissions[0].when
    assert when is not None
    assert when.model_dump(by_alias=True) == {
        "source": ["10.0.0.0/8", "2001:db8::/32"],
        "hours": {
            "from": "08:00",
            "to": "18:00",
            "days": ["mon", "tue", "wed", "thu", "fri"],
            "timezone": "Europe/Paris",
        },
        "claims": {"tenant": ["acme"], "groups": ["support"]},
        "read_only": True,
        "query": {"status": ["open", "paid"], "page": "*"},
        "path": {"tenant_id": {"claim": "tenant"}},
        "custom": {"ticket": {"open": True}, "weekday": None},
    }
    assert when.hours is not None
    assert (when.hours.start, when.hours.end) == (480, 1080)


def test_hours_may_be_written_without_quotes_and_days_left_out() -> None:
    when = Conditions.model_validate({"hours": {"from": "22:00", "to": "24:00", "timezone": "UTC"}})
    assert when.hours is not None
    assert (when.hours.start, when.hours.end, len(when.hours.days)) == (1320, 1440, 7)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [("10.0.0.7", "10.0.0.7/32"), ("2001:DB8::/32", "2001:db8::/32"), ("::1", "::1/128"), ("0.0.0.0/0", "0.0.0.0/0")],
)
def test_a_network_has_one_form(written: str, canonical: str) -> None:
    assert Conditions.model_validate({"source": [written]}).source == [canonical]


def test_a_map_without_permissions_is_legal_and_permits_nothing(tmp_path: Path) -> None:
    permission_map = load(
        tmp_path / "permissions.yaml", "services:\n  orders: {endpoints: {a: GET /a}}\npermissions: []\n"
    )
    assert (permission_map.callers, permission_map.permissions, permission_map.eligible) == ({}, [], [])


def test_what_a_permission_covers_is_each_endpoint_once() -> None:
    permission_map = PermissionMap.model_validate(
        {
            "services": {"orders": {"endpoints": {"list": "GET /a", "get": "GET /a/{id}"}}},
            "roles": {"lister": {"orders": ["list"]}, "reader": {"orders": ["get", "list"]}},
            "callers": {"web": {"issuer": "https://idp.test", "subject": "web"}},
            "permissions": [
                {"caller": "web", "roles": ["lister", "reader"]},
                {"caller": "web", "service": "orders", "endpoints": ["get"]},
            ],
        }
    )
    covered = [
        [(service, endpoint.name) for service, endpoint in permission_map.covered(permission)]
        for permission in permission_map.permissions
    ]
    assert covered == [[("orders", "list"), ("orders", "get")], [("orders", "get")]]


def test_read_only_narrows_a_role_that_also_writes(tmp_path: Path) -> None:
    text = PERMISSIONS.replace("[list-orders, get-order]}", "[list-orders, create-order]}").replace(
        "roles: [order-reader]}", "roles: [order-reader], when: {read_only: true}}"
    )
    assert load(tmp_path / "permissions.yaml", text).permissions[0].when == Conditions(read_only=True)


def test_callers_may_overlap(tmp_path: Path) -> None:
    text = PERMISSIONS.replace("permissions:", "  web-too: {issuer: https://idp.test, subject: web}\npermissions:")
    permission_map = load(tmp_path / "permissions.yaml", text)
    assert permission_map.callers["web-too"] == permission_map.callers["web"]


def test_a_map_made_in_python_is_checked_as_one_from_a_file() -> None:
    with pytest.raises(ValidationError, match="unknown caller 'wob'"):
        PermissionMap.model_validate(
            {
                "services": {"orders": {"endpoints": {"list": "GET /a"}}},
                "permissions": [{"caller": "wob", "service": "orders", "endpoints": ["list"]}],
            }
        )


def test_a_map_survives_being_written_and_read_again() -> None:
    permission_map = PermissionMap.model_validate(yaml.safe_load(PERMISSIONS))
    written = permission_map.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert PermissionMap.model_validate(written) == permission_map


def test_every_mistake_is_reported_at_once_by_line(tmp_path: Path) -> None:
    text = """\
services:
  orders:
    endpoints:
      list-orders: GET /orders
      get-order: GET orders/{order_id}
      again: GET /orders
    owner: me
  orders: {endpoints: {a: GET /a}}
roles:
  reader: {order: [list-orders], orders: [list-order]}
callers:
  anyone: {issuer: https://idp.test}
  web: {issuer: https://idp.test, subject: web}
permissions:
  - {caller: wob, roles: [raeder], when: {source: [10.0.0.1/8], hours: {from: "8", to: "18:00", timezone: Mars}}}
  - {caller: web, service: orders, endpoints: [get-order], when: {source: []}}
  - {caller: web, service: orders, endpoints: [get-order]}
  - {caller: web, service: !!str orders, endpoints: [get-order]}
eligible:
  - {caller: anyone, service: orders, endpoints: [list-orders], approvers: [web, nobody], max_duration: 1y}
"""
    assert mistakes(load_permissions, tmp_path / "permissions.yaml", text) == EVERY


EVERY: Final = [
    "permissions.yaml:5: services.orders.endpoints.get-order: a path template starts with '/', and 'orders/{order_id}' does not",
    "permissions.yaml:6: services.orders.endpoints.again: GET /orders matches the same requests as 'list-orders', which is GET /orders",
    "permissions.yaml:7: services.orders.owner: unknown key (the keys here: endpoints)",
    "permissions.yaml:8: the key 'orders' is there twice, first on line 2",
    "permissions.yaml:10: roles.reader.order: unknown service 'order' (did you mean 'orders'?)",
    "permissions.yaml:10: roles.reader.orders[0]: unknown endpoint of 'orders': 'list-order' (did you mean 'list-orders'?)",
    "permissions.yaml:12: callers.anyone: this caller is everyone with a token of the issuer: add a subject or claims",
    "permissions.yaml:15: permissions[0].caller: unknown caller 'wob' (did you mean 'web'?)",
    "permissions.yaml:15: permissions[0].roles[0]: unknown role 'raeder' (did you mean 'reader'?)",
    "permissions.yaml:15: permissions[0].when.hours.from: '8' is not an hour, which is written 08:00, up to 24:00",
    "permissions.yaml:15: permissions[0].when.hours.timezone: unknown time zone 'Mars'",
    "permissions.yaml:15: permissions[0].when.source[0]: '10.0.0.1/8' has bits set beyond its prefix (did you mean '10.0.0.0/8'?)",
    "permissions.yaml:16: permissions[1].when.source: is empty, which never means 'any': name what is meant",
    "permissions.yaml:18: permissions[3]: is the same as permissions[2], line 17",
    "permissions.yaml:18: the tag 'tag:yaml.org,2002:str' is refused: what a value is, is seen from how it is written",
    "permissions.yaml:20: eligible[0].approvers[1]: unknown caller 'nobody'",
    "permissions.yaml:20: eligible[0].max_duration: '1y' is not a duration, which is written 250ms, 5s, 30m or 24h",
]


def test_what_is_cut_out_is_no_further_mistake(tmp_path: Path) -> None:
    """A broken endpoint is known by name: the roles and permissions that use it are not blamed."""
    text = PERMISSIONS.replace("GET /orders/{order_id}\n", "GET /orders/{order_id\n")
    (line,) = mistakes(load_permissions, tmp_path / "permissions.yaml", text)
    assert line == (
        "permissions.yaml:5: services.orders.endpoints.get-order: the segment '{order_id' of '/orders/{order_id' is not "
        "a variable: that is a whole segment, '{name}' or '{name:type}', the name made of letters, digits and _"
    )


def test_what_an_entry_names_is_checked_whatever_else_is_wrong_with_it(tmp_path: Path) -> None:
    """No mistake waits for another to be mended, and none is named that only follows from another."""
    text = """\
services:
  orders: {endpoints: {list-orders: GET /orders}}
callers:
  web: {issuer: https://idp.test, subject: web}
  both: {issuer: https://idp.test, spiffe: spiffe://shop.test/web, claims: {exp: x}}
permissions:
  - {caller: opps, roles: [reader], service: orders, endpoints: [nope], credential: {lifetime: 2h}}
  - {caller: opps, roles: [reader], service: orders, endpoints: [nope], credential: {lifetime: 1h}}
  - {caller: opps, roles: [], when: {source: [x]}}
  - {caller: opps, service: order, endpoints: "*"}
  - {caller: opps, service: 5, endpoints: [nope]}
  - {caller: opps, roles: 5, service: order, endpoints: [nope]}
  - {caller: opps, when: {source: [x], hours: {from: "08:00", to: "08:00", days: [x], timezone: UTC}}}
  - {caller: opps, role: [reader]}
  - {caller: opps, service: orders, when: {}}
  - {caller: 5, service: orders, endpoints: [nope], when: {time: x}}
eligible:
  - {caller: opps, service: order, endpoints: [], approvers: [nobody], max_duration: 1y}
"""
    empty = "is empty, which never means 'any': name what is meant"
    source = "when.source[0]: 'x' is not a network: a network is written 10.0.0.0/8 or 2001:db8::/32"
    both = "names both roles and a service's endpoints: write two permissions"
    assert mistakes(load_permissions, tmp_path / "permissions.yaml", text) == [
        "permissions.yaml:5: callers.both.claims.exp: the claim 'exp' is never shown to the policy, so nothing can depend on it",
        "permissions.yaml:5: callers.both: a SPIFFE ID stands alone: leave out issuer, subject and claims",
        "permissions.yaml:7: permissions[0].caller: unknown caller 'opps'",
        "permissions.yaml:7: permissions[0].credential.lifetime: '2h' is outside 1s to 1h",
        "permissions.yaml:7: permissions[0].endpoints[0]: unknown endpoint of 'orders': 'nope'",
        "permissions.yaml:7: permissions[0].roles[0]: unknown role 'reader'",
        f"permissions.yaml:7: permissions[0]: {both}",
        "permissions.yaml:8: permissions[1].caller: unknown caller 'opps'",
        "permissions.yaml:8: permissions[1].endpoints[0]: unknown endpoint of 'orders': 'nope'",
        "permissions.yaml:8: permissions[1].roles[0]: unknown role 'reader'",
        f"permissions.yaml:8: permissions[1]: {both}",
        "permissions.yaml:9: permissions[2].caller: unknown caller 'opps'",
        f"permissions.yaml:9: permissions[2].roles: {empty}",
        f"permissions.yaml:9: permissions[2].{source}",
        "permissions.yaml:10: permissions[3].caller: unknown caller 'opps'",
        "permissions.yaml:10: permissions[3].endpoints: there is no wildcard: endpoints are named one by one",
        "permissions.yaml:10: permissions[3].service: unknown service 'order' (did you mean 'orders'?)",
        "permissions.yaml:11: permissions[4].caller: unknown caller 'opps'",
        "permissions.yaml:11: permissions[4].service: 5 is not a text: put it in quotes",
        "permissions.yaml:12: permissions[5].caller: unknown caller 'opps'",
        "permissions.yaml:12: permissions[5].roles: is not a list",
        "permissions.yaml:12: permissions[5].service: unknown service 'order' (did you mean 'orders'?)",
        f"permissions.yaml:12: permissions[5]: {both}",
        "permissions.yaml:13: permissions[6].caller: unknown caller 'opps'",
        "permissions.yaml:13: permissions[6].when.hours.days[0]: 'x' is not mon, tue, wed, thu, fri, sat or sun",
        "permissions.yaml:13: permissions[6].when.hours: from and to are the same hour, so the window is empty",
        f"permissions.yaml:13: permissions[6].{source}",
        "permissions.yaml:13: permissions[6]: names neither roles nor a service with endpoints",
        "permissions.yaml:14: permissions[7].caller: unknown caller 'opps'",
        "permissions.yaml:14: permissions[7].role: unknown key (did you mean 'roles'?)",
        "permissions.yaml:15: permissions[8].caller: unknown caller 'opps'",
        "permissions.yaml:15: permissions[8].when: is empty: name a condition or leave the key out",
        "permissions.yaml:15: permissions[8]: 'endpoints' is missing: endpoints are named one by one",
        "permissions.yaml:16: permissions[9].caller: 5 is not a text: put it in quotes",
        "permissions.yaml:16: permissions[9].endpoints[0]: unknown endpoint of 'orders': 'nope'",
        "permissions.yaml:16: permissions[9].when.time: unknown key (the keys here: source, hours, claims, read_only, query, path, custom)",
        "permissions.yaml:18: eligible[0].approvers[0]: unknown caller 'nobody'",
        "permissions.yaml:18: eligible[0].caller: unknown caller 'opps'",
        f"permissions.yaml:18: eligible[0].endpoints: {empty}",
        "permissions.yaml:18: eligible[0].max_duration: '1y' is not a duration, which is written 250ms, 5s, 30m or 24h",
        "permissions.yaml:18: eligible[0].service: unknown service 'order' (did you mean 'orders'?)",
    ]


def test_where_there_are_no_services_nobody_is_blamed_for_naming_one(tmp_path: Path) -> None:
    text = "services: {}\nroles: {r: {orders: [a]}}\npermissions: [{caller: web, service: orders, endpoints: [a]}]\n"
    assert mistakes(load_permissions, tmp_path / "permissions.yaml", text) == [
        "permissions.yaml:1: services: is empty, which never means 'any': name what is meant",
        "permissions.yaml:3: permissions[0].caller: unknown caller 'web'",
    ]


def test_indices_are_those_of_the_file_after_something_was_cut_out(tmp_path: Path) -> None:
    text = PERMISSIONS.replace(
        "permissions:\n",
        "permissions:\n  - {caller: web}\n  - {caller: web, roles: [order-reader]}\n",
    )
    assert mistakes(load_permissions, tmp_path / "permissions.yaml", text) == [
        "permissions.yaml:18: permissions[0]: names neither roles nor a service with endpoints",
        "permissions.yaml:20: permissions[2]: is the same as permissions[1], line 19",
    ]


def test_a_flood_of_mistakes_is_reported_in_bounded_time(tmp_path: Path) -> None:
    """Suggestions cost a comparison with every known name; after a budget, mistakes come without."""
    callers = "".join(f"  caller-{n}: {{issuer: https://idp.test, subject: s{n}}}\n" for n in range(2000))
    wrong = "".join(f"  - {{caller: caler-{n}, service: orders, endpoints: [a]}}\n" for n in range(2000))
    text = f"services:\n  orders: {{endpoints: {{a: GET /a}}}}\ncallers:\n{callers}permissions:\n{wrong}"
    found = mistakes(load_permissions, tmp_path / "permissions.yaml", text)
    assert len(found) == 2000
    assert (
        found[0] == "permissions.yaml:2005: permissions[0].caller: unknown caller 'caler-0' (did you mean 'caller-0'?)"
    )
    assert found[-1] == "permissions.yaml:4004: permissions[1999].caller: unknown caller 'caler-1999'"
