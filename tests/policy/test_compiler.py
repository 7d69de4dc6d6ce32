"""The compiled map: what each part of `permissions.yaml` becomes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ostiary.policy.compiler import FORMAT, compile_map
from ostiary.policy.model import Conditions, PermissionMap, load_permissions
from ostiary.policy.routing import route_forms
from ostiary.policy.terms import canonical, conditions_digest
from ostiary.routes import Endpoint
from support.policy import DESIGN, FIXTURES, compiled

WEB = {"issuer": "https://idp.test", "subject": "web"}
SHOP = {"endpoints": {"list": "GET /orders", "get": "GET /orders/{id}", "lines": "GET /orders/{order}/lines"}}


def compile_document(**changes: Any) -> dict[str, Any]:
    document = {"services": {"shop": SHOP}, "callers": {"web": WEB}, **changes}
    return compile_map(PermissionMap.model_validate(document))


def conditions(when: dict[str, Any], *endpoints: str) -> list[dict[str, Any]]:
    """The compiled conditions of a permission, one for each endpoint."""
    found = compile_document(
        permissions=[{"caller": "web", "service": "shop", "endpoints": list(endpoints or ["list"]), "when": when}]
    )
    ids = found["access"]["web"]["shop"]
    return [found["terms"][ids[name]]["standing"][0]["conditions"] for name in endpoints or ["list"]]


def test_the_example_of_the_format_compiles() -> None:
    found = compiled(DESIGN)
    routes, forms = found.pop("routes"), found.pop("forms")
    create = conditions_digest(load_permissions(DESIGN).permissions[1].when)
    standing = {"id": "44136fa3", "credential": {"lifetime": 60, "per_call": False}}
    source = {"conditions": {"when": {"source": ["10.0.0.0/8"]}}}
    nothing: dict[str, Any] = {"vary": [], "hours": False}
    name = "[A-Za-z0-9][A-Za-z0-9_-]{0,127}"
    assert forms == {
        "billing": {
            "charge": ["POST", "%.0[1]scharges", "^[^/]*$"],
            "refund": ["POST", "charges/%[2]s/refund", f"^[^/]*/{name}/[^/]*$"],
        },
        "orders": {
            "list-orders": ["GET", "%.0[1]sorders", "^[^/]*$"],
            "get-order": ["GET", "orders/%[2]s", f"^[^/]*/{name}$"],
            "create-order": ["POST", "%.0[1]sorders", "^[^/]*$"],
            "invoices": ["GET", "orders/%[2]s/invoices/", routes["orders"]["rest"][0][1], [], True],
        },
    }
    assert found == {
        "format": FORMAT,
        "services": {"billing": True, "orders": True},
        "endpoints": {
            "billing": {"charge": "POST /charges", "refund": "POST /charges/{charge_id}/refund"},
            "orders": {
                "list-orders": "GET /orders",
                "get-order": "GET /orders/{order_id}",
                "create-order": "POST /orders",
                "invoices": "GET /orders/{order_id}/invoices/**",
            },
        },
        "callers": {
            "subjects": {"https://idp.test": {"web": ["web"]}},
            "workloads": {"spiffe://shop.test": {"spiffe://shop.test/reporting": ["reporting"]}},
            "claims": {"https://idp.test": {"groups": {"support": ["support"], "support-lead": ["support-lead"]}}},
            "indexed": {"https://idp.test": ["groups"]},
            "demands": {},
        },
        "sole": {"https://idp.test": {"web": "web"}},
        "access": {
            "support": {"billing": {"refund": "0"}},
            "web": {
                "billing": {"charge": "1"},
                "orders": {"create-order": "2", "get-order": "plain", "list-orders": "plain"},
            },
        },
        "terms": {
            "0": {
                "eligible": [
                    {
                        "id": create,
                        "credential": {"lifetime": 60, "per_call": False},
                        "approvers": ["support-lead"],
                        "approvals": 1,
                        "max_duration": 1800,
                        "max_uses": 5,
                        "reason_required": True,
                        **source,
                    }
                ],
                "vary": ["source_ip"],
                "hours": False,
                "depends": True,
            },
            "1": {
                "standing": [{**standing, "credential": {"lifetime": 30, "per_call": True}}],
                **nothing,
                "alone": True,
            },
            "2": {
                "standing": [{**standing, "id": create, **source}],
                "vary": ["source_ip"],
                "hours": False,
                "depends": True,
                "alone": True,
            },
            "plain": {"standing": [standing], **nothing, "alone": True},
        },
        "roles": {"order-reader": {"orders": ["list-orders", "get-order"]}},
        "hooks": {},
    }
    assert set(routes) == {"billing", "orders"}


def test_the_route_index_of_a_service() -> None:
    found = compiled(FIXTURES / "attack" / "permissions.yaml")["routes"]["orders"]
    name = "[A-Za-z0-9][A-Za-z0-9_-]{0,127}"
    rest = found["rest"][0][1]
    assert found == {
        "shapes": [
            [],
            [["=%[1]s", "^[^/]*$"]],
            [["=%[1]s/{}name", f"^[^/]*/{name}$"]],
            [["=%[1]s/{}name/=%[3]s", f"^[^/]*/{name}/[^/]*$"]],
        ],
        "rest": [["=%[1]s/=%[2]s/**", rest, 2]],
        "templates": {
            "=orders": {"GET": "list-orders", "POST": "create-order"},
            "=orders/{}name": {"GET": "get-order", "PUT": "replace-order", "DELETE": "delete-order"},
            "=orders/{}name/=refund": {"POST": "refund"},
            "=orders/=admin/**": {"GET": "admin", "POST": "admin-change", "DELETE": "admin-delete"},
        },
        "guards": {"=orders/{}name": [[1, "=orders"]], "=orders/{}name/=refund": [[1, "=orders"]]},
        "siblings": {"=orders": {"admin": True}},
    }


@pytest.mark.parametrize(
    ("hours", "windows"),
    [
        (
            {"from": "08:00", "to": "18:30", "days": ["mon", "sun"]},
            [{"from": 480, "to": 1110, "days": ["Monday", "Sunday"]}],
        ),
        (
            {"from": "22:00", "to": "06:00", "days": ["sat", "sun"]},
            [
                {"from": 1320, "to": 1440, "days": ["Saturday", "Sunday"]},
                {"from": 0, "to": 360, "days": ["Sunday", "Monday"]},
            ],
        ),
        ({"from": "22:00", "to": "24:00", "days": ["fri"]}, [{"from": 1320, "to": 1440, "days": ["Friday"]}]),
        ({"from": "22:00", "to": "00:00", "days": ["fri"]}, [{"from": 1320, "to": 1440, "days": ["Friday"]}]),
    ],
    ids=["within a day", "past midnight", "to the day's end", "to midnight"],
)
def test_hours_become_minutes_and_windows_past_midnight_two(hours: dict[str, Any], windows: list[Any]) -> None:
    compiled_hours = conditions({"hours": {**hours, "timezone": "Europe/Paris"}})[0]["when"]["hours"]
    assert compiled_hours == {"timezone": "Europe/Paris", "windows": windows}


def test_a_path_condition_knows_the_place_of_its_variable_in_each_template() -> None:
    document = compile_document(
        roles={"reader": {"shop": ["list", "get"]}},
        permissions=[{"caller": "web", "roles": ["reader"], "when": {"path": {"id": {"claim": "order"}}}}],
    )
    ids, terms = document["access"]["web"]["shop"], document["terms"]
    paths = {name: terms[ids[name]]["standing"][0]["conditions"]["when"]["path"] for name in ("list", "get")}
    assert paths == {
        "list": [{"variable": "id", "claim": "order"}],
        "get": [{"variable": "id", "claim": "order", "place": 1}],
    }


def test_conditions_of_the_organisation_stand_apart() -> None:
    assert conditions({"read_only": True, "custom": {"odd": [1]}}) == [
        {"when": {"read-only": True}, "custom": {"odd": [1]}}
    ]


def test_a_permission_is_known_by_its_conditions_whatever_their_order() -> None:
    def digest(when: dict[str, Any]) -> str:
        entry = {"caller": "web", "service": "shop", "endpoints": ["list"], "when": when}
        document = {"services": {"shop": SHOP}, "callers": {"web": WEB}, "permissions": [entry]}
        return conditions_digest(PermissionMap.model_validate(document).permissions[0].when)

    one = digest({"source": ["10.0.0.0/8", "192.0.2.0/24"], "claims": {"a": "1", "b": ["2", "3"]}})
    assert one == digest({"claims": {"b": ["3", "2"], "a": ["1"]}, "source": ["192.0.2.0/24", "10.0.0.0/8"]})
    assert one != digest({"claims": {"b": ["3"], "a": ["1"]}, "source": ["192.0.2.0/24", "10.0.0.0/8"]})
    assert digest({"custom": {"odd": [1, 2]}}) != digest({"custom": {"odd": [2, 1]}})
    assert conditions_digest(None) == "44136fa3"


def test_equal_conditions_written_twice_give_the_strictest_credential() -> None:
    entry = {"caller": "web", "service": "shop", "endpoints": ["list"]}
    document = compile_document(
        permissions=[
            {**entry, "credential": {"lifetime": "30s"}},
            {**entry, "endpoints": ["list", "get"], "credential": {"per_call": True, "lifetime": "2m"}},
        ]
    )
    ids, terms = document["access"]["web"]["shop"], document["terms"]
    assert terms[ids["list"]]["standing"] == [{"id": "44136fa3", "credential": {"lifetime": 30, "per_call": True}}]
    assert terms[ids["get"]]["standing"] == [{"id": "44136fa3", "credential": {"lifetime": 120, "per_call": True}}]


def test_a_caller_is_found_by_one_key_and_checked_for_the_rest() -> None:
    issuer = "https://idp.test"
    callers = {
        "by-subject": {"issuer": issuer, "subject": "s"},
        "and-claim": {"issuer": issuer, "subject": "s", "claims": {"stage": "prod"}},
        "by-claims": {"issuer": issuer, "claims": {"tier": "gold", "groups": ["a", "b"]}},
    }
    found = compile_document(callers=callers)
    assert found["sole"] == {issuer: {"s": "by-subject"}}
    assert found["callers"] == {
        "subjects": {issuer: {"s": ["and-claim", "by-subject"]}},
        "workloads": {},
        "claims": {issuer: {"groups": {"a": ["by-claims"], "b": ["by-claims"]}}},
        "indexed": {issuer: ["groups"]},
        "demands": {
            "and-claim": {"stage": ["prod"]},
            "by-claims": {"groups": ["a", "b"], "tier": ["gold"]},
        },
    }


@pytest.mark.parametrize("number", ["7", "0", "1e5", "12"])
def test_what_a_number_would_find_has_no_short_way(number: str) -> None:
    """OPA finds the key "7" of data by the number 7 as well, so names that could be numbers are judged at length."""
    shop = {"endpoints": {number: "GET /a", f"{number}x": "GET /b"}}
    callers = {"one": {**WEB, "subject": number}, "two": {**WEB, "subject": f"{number}x"}}
    found = compile_document(services={number: shop, "shop": shop}, callers=callers)
    assert {service: set(forms) for service, forms in found["forms"].items()} == {"shop": {f"{number}x"}}
    assert found["sole"] == {WEB["issuer"]: {f"{number}x": "two"}}


def test_whoever_has_a_say_beside_the_map_leaves_no_permission_alone() -> None:
    entry = {"caller": "web", "service": "shop", "endpoints": ["list"]}
    document = {"services": {"shop": SHOP}, "callers": {"web": WEB}, "permissions": [entry]}
    permissions = PermissionMap.model_validate(document)
    standing = [{"id": "44136fa3", "credential": {"lifetime": 60, "per_call": False}}]
    terms: dict[str, Any] = {"standing": standing, "vary": [], "hours": False}
    found = compile_map(permissions)
    assert found["access"] == {"web": {"shop": {"list": "plain"}}}
    assert found["terms"] == {"plain": {**terms, "alone": True}}
    narrowed = compile_map(permissions, hooks=["deny"])
    assert narrowed["access"] == {"web": {"shop": {"list": "0"}}}
    assert narrowed["terms"] == {"0": terms}


def test_a_shadow_is_beside_what_allows_and_what_answers_depend_on_counts_it() -> None:
    entry = {"caller": "web", "service": "shop", "endpoints": ["list"]}
    source = {"source": ["10.0.0.0/8"]}
    found = compile_document(permissions=[entry, {**entry, "when": source, "shadow": True}])
    assert found["access"] == {"web": {"shop": {"list": "0"}}}
    profile = {"lifetime": 60, "per_call": False}
    shadow = {"id": conditions_digest(Conditions(**source)), "credential": profile, "conditions": {"when": source}}
    assert found["terms"] == {
        "0": {
            "standing": [{"id": "44136fa3", "credential": profile}],
            "shadow": [shadow],
            "vary": ["source_ip"],
            "hours": False,
            "depends": True,
        }
    }


UNCONTESTED = [
    (["/files/**"], {"/files/**"}),
    (["/files/**", "/file/{x}", "/files"], {"/files/**"}),
    (["/files/**", "/files/{x}"], set()),
    (["/files/**", "/files/a"], set()),
    (["/files/**", "/{x}/a"], set()),
    (["/files/**", "/files/a/**"], {"/files/a/**"}),
    (["/files/{x}/**", "/files/**"], {"/files/{x}/**"}),
    (["/{x}/**", "/files/**"], set()),
    (["/{x}/**", "/files"], {"/{x}/**"}),
    (["/**"], {"/**"}),
    (["/**", "/"], set()),
]


@pytest.mark.parametrize(("paths", "formed"), UNCONTESTED, ids=[" ".join(paths) for paths, _ in UNCONTESTED])
def test_a_template_for_the_rest_has_a_form_if_no_other_is_asked_before_it(paths: list[str], formed: set[str]) -> None:
    endpoints = [Endpoint.parse(f"e{place}", f"GET {path}") for place, path in enumerate(paths)]
    forms = route_forms(endpoints)
    assert {each.path for each in endpoints if each.template.rest and each.name in forms} == formed


def test_equal_maps_give_equal_bytes() -> None:
    """Order within a file is a matter of taste: it changes neither the tables nor the revision."""
    document = {
        "services": {"a": {"endpoints": {"x": "GET /x", "y": "GET /{y}"}}, "b": {"endpoints": {"z": "GET /z"}}},
        "callers": {"one": WEB, "two": {**WEB, "subject": "two"}},
        "permissions": [
            {"caller": "one", "service": "a", "endpoints": ["x", "y"]},
            {"caller": "two", "service": "b", "endpoints": ["z"], "when": {"read_only": True}},
        ],
    }
    turned = {
        "permissions": document["permissions"][::-1],
        "callers": dict(reversed(document["callers"].items())),
        "services": {
            name: {"endpoints": dict(reversed(service["endpoints"].items()))}
            for name, service in reversed(document["services"].items())
        },
    }
    one, other = (compile_map(PermissionMap.model_validate(each)) for each in (document, turned))
    assert canonical(one) == canonical(other)


def large_map(*, services: int, endpoints: int, callers: int) -> PermissionMap:
    kinds = ("GET /r{i}", "POST /r{i}", "GET /r{i}/{{id}}", "PUT /r{i}/{{id}}", "GET /r{i}/{{id}}/items/{{item:int}}")
    table = {f"e{i}": kinds[i % len(kinds)].format(i=i // len(kinds)) for i in range(endpoints)}
    names = [f"s{i}" for i in range(services)]
    document: dict[str, Any] = {
        "services": {name: {"endpoints": table} for name in names},
        "roles": {f"all-{name}": {name: list(table)} for name in names},
        "callers": {f"c{i}": {"issuer": "https://idp.test", "subject": f"c{i}"} for i in range(services * callers)},
        "permissions": [{"caller": f"c{i}", "roles": [f"all-s{i // callers}"]} for i in range(services * callers)],
    }
    return PermissionMap.model_validate(document)


def test_a_hundred_thousand_permissions_compile_in_seconds(tmp_path: Path) -> None:
    started = time.monotonic()
    found = compile_map(large_map(services=100, endpoints=100, callers=10))
    (tmp_path / "data.json").write_text(json.dumps(found), encoding="utf-8")
    assert time.monotonic() - started < 100  # 7 on the machine that it was written on
    assert sum(len(names) for services in found["access"].values() for names in services.values()) == 100_000
    assert len(found["terms"]) == 1
