"""What a change of a map comes to: each kind of widening is one, each kind of narrowing is none, and other words for
the same are no change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from ostiary.policy.compiler import compile_map
from ostiary.policy.model import PermissionMap
from ostiary.policy.review.changes import AccessChange
from ostiary.policy.review.compare import compare_maps
from ostiary.policy.review.observed import compare_observed
from ostiary.policy.review.snapshot import Snapshot

MAP = """\
services:
  orders:
    endpoints:
      list: GET /orders
      get: GET /orders/{id}
      put: PUT /orders/{id}
      admin: GET /orders/{id}/admin
      all: GET /orders/**
      tenant: GET /tenants/{tenant}/orders
roles:
  reader: {orders: [list, get, put]}
callers:
  web: {issuer: https://idp.test, subject: web, claims: {env: [prod]}}
  job: {spiffe: spiffe://shop.test/job}
  staff: {issuer: https://idp.test, claims: {groups: [staff]}}
  lead: {issuer: https://idp.test, claims: {groups: [lead]}}
  chief: {issuer: https://idp.test, claims: {groups: [lead], rank: ["1"]}}
permissions:
  - {caller: web, service: orders, endpoints: [list], when: {source: [10.0.0.0/8]}}
  - caller: web
    service: orders
    endpoints: [get]
    when: {hours: {from: "08:00", to: "18:00", days: [mon, tue], timezone: Europe/Paris}}
  - {caller: web, service: orders, endpoints: [admin], when: {claims: {tenant: [acme]}}}
  - {caller: web, roles: [reader], when: {read_only: true, query: {status: [open]}}}
  - {caller: job, service: orders, endpoints: [all], credential: {per_call: true, lifetime: 30s}}
  - {caller: job, service: orders, endpoints: [tenant], when: {path: {tenant: {claim: tenant}}}}
  - {caller: job, service: orders, endpoints: [get], when: {custom: {weekly: {day: sunday}}}}
  - {caller: lead, service: orders, endpoints: [put], shadow: true}
eligible:
  - {caller: staff, service: orders, endpoints: [put], approvers: [lead], approvals: 2, max_duration: 30m, max_uses: 5}
"""

Edit = Callable[[dict[str, Any]], None]


def snapshot(document: dict[str, Any]) -> Snapshot:
    return Snapshot(compile_map(PermissionMap.model_validate(document)))


def edited(edit: Edit) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(MAP)
    edit(document)
    return document


def changes(edit: Edit) -> list[AccessChange]:
    return compare_maps(snapshot(yaml.safe_load(MAP)), snapshot(edited(edit)))[0]


def reverse(edit: Edit) -> list[AccessChange]:
    return compare_maps(snapshot(edited(edit)), snapshot(yaml.safe_load(MAP)))[0]


def when(number: int, **conditions: Any) -> Edit:
    return lambda document: document["permissions"][number]["when"].update(conditions)


def entry(number: int, **changes: Any) -> Edit:
    """Another permission; None takes a key away."""

    def edit(document: dict[str, Any]) -> None:
        changed = document["permissions"][number] | changes
        document["permissions"][number] = {key: value for key, value in changed.items() if value is not None}

    return edit


def eligible(**changes: Any) -> Edit:
    return lambda document: document["eligible"][0].update(changes)


def caller(name: str, **changes: Any) -> Edit:
    return lambda document: document["callers"][name].update(changes)


def endpoint(**templates: str | None) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        found = document["services"]["orders"]["endpoints"]
        for name, template in templates.items():
            found.pop(name, None)
            if template is not None:
                found[name] = template

    return edit


def dropped(number: int, condition: str) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        conditions = document["permissions"][number]["when"]
        del conditions[condition]
        if not conditions:
            del document["permissions"][number]["when"]

    return edit


def added(**permission: Any) -> Edit:
    return lambda document: document["permissions"].append({"service": "orders", **permission})


def removed(number: int) -> Edit:
    return lambda document: document["permissions"].pop(number)


def both(*edits: Edit) -> Edit:
    def edit(document: dict[str, Any]) -> None:
        for each in edits:
            each(document)

    return edit


PARIS = {"from": "08:00", "to": "18:00", "timezone": "Europe/Paris"}

WIDER: dict[str, tuple[Edit, str, str, str]] = {
    "a new permission": (added(caller="staff", endpoints=["list"]), "staff", "list", ""),
    "a shadow that becomes real": (entry(7, shadow=None), "lead", "put", ""),
    "a wider network": (
        when(0, source=["10.0.0.0/7"]),
        "web",
        "list",
        "source 10.0.0.0/8 became source 10.0.0.0/7",
    ),
    "another network besides": (
        when(0, source=["10.0.0.0/8", "192.0.2.0/24"]),
        "web",
        "list",
        "source 10.0.0.0/8 became source 10.0.0.0/8 or 192.0.2.0/24",
    ),
    "a network of the other family": (
        when(0, source=["10.0.0.0/8", "2001:db8::/32"]),
        "web",
        "list",
        "source 10.0.0.0/8 became source 10.0.0.0/8 or 2001:db8::/32",
    ),
    "no network": (dropped(0, "source"), "web", "list", "source 10.0.0.0/8 is demanded no more"),
    "more hours": (
        when(1, hours=PARIS | {"to": "19:00", "days": ["mon", "tue"]}),
        "web",
        "get",
        "hours 08:00–18:00 mon,tue Europe/Paris became hours 08:00–19:00 mon,tue Europe/Paris",
    ),
    "another day": (
        when(1, hours=PARIS | {"days": ["mon", "tue", "sun"]}),
        "web",
        "get",
        "hours 08:00–18:00 mon,tue Europe/Paris became hours 08:00–18:00 mon,tue,sun Europe/Paris",
    ),
    "another zone": (
        when(1, hours=PARIS | {"days": ["mon", "tue"], "timezone": "UTC"}),
        "web",
        "get",
        "hours 08:00–18:00 mon,tue Europe/Paris became hours 08:00–18:00 mon,tue UTC",
    ),
    "another value of a claim": (
        when(2, claims={"tenant": ["acme", "zeta"]}),
        "web",
        "admin",
        "claims tenant = acme became claims tenant = acme or zeta",
    ),
    "read only no more": (dropped(3, "read_only"), "web", "put", ""),
    "another parameter": (
        when(3, query={"status": ["open"], "page": "*"}),
        "web",
        "list",
        "query only status = open became query only page = anything, status = open",
    ),
    "any value of a parameter": (
        when(3, query={"status": "*"}),
        "web",
        "get",
        "query only status = open became query only status = anything",
    ),
    "any path": (dropped(5, "path"), "job", "tenant", "path tenant = the claim tenant is demanded no more"),
    "another argument": (
        when(6, custom={"weekly": {"day": "monday"}}),
        "job",
        "get",
        'custom weekly {"day":"sunday"} became custom weekly {"day":"monday"}',
    ),
    "a longer credential": (
        entry(4, credential={"per_call": True, "lifetime": "31s"}),
        "job",
        "all",
        "a credential for 30s became a credential for 31s",
    ),
    "a reusable credential": (
        entry(4, credential={"lifetime": "30s"}),
        "job",
        "all",
        "a credential for one call became a reusable one",
    ),
    "a claim of the caller dropped": (
        caller("web", claims={"env": ["prod", "test"]}),
        "web",
        "list",
        "more identities are the caller",
    ),
    "another subject": (caller("web", subject="wev"), "web", "admin", "more identities are the caller"),
    "another approver": (
        eligible(approvers=["lead", "staff"]),
        "staff",
        "put",
        "approvers lead became approvers lead or staff",
    ),
    "an approver who is more people": (
        caller("lead", claims={"groups": ["lead", "boss"]}),
        "staff",
        "put",
        "approvers lead became approvers lead",
    ),
    "fewer approvals": (eligible(approvals=1), "staff", "put", "approvals 2 became approvals 1"),
    "a longer grant": (eligible(max_duration="31m"), "staff", "put", "at most 30m became at most 31m"),
    "more uses": (eligible(max_uses=6), "staff", "put", "requests 5 became requests 6"),
    "any number of uses": (
        lambda document: document["eligible"][0].pop("max_uses"),
        "staff",
        "put",
        "requests 5 became any number of requests",
    ),
    "no reason": (eligible(reason_required=False), "staff", "put", "a reason required became no reason required"),
    "a new eligibility": (
        lambda document: document["eligible"].append(
            {"caller": "web", "service": "orders", "endpoints": ["put"], "approvers": ["lead"], "max_duration": "1m"}
        ),
        "web",
        "put",
        "",
    ),
    "standing what was eligible": (
        both(added(caller="staff", endpoints=["put"]), lambda document: document["eligible"].pop()),
        "staff",
        "put",
        "eligible became standing",
    ),
    "a wider template of the same name": (
        endpoint(tenant="GET /tenants/{tenant}/**"),
        "job",
        "tenant",
        "GET /tenants/0/0 was no endpoint",
    ),
    "another method of the same name": (endpoint(all="POST /orders/**"), "job", "all", ""),
    "a broader template that takes over": (
        both(removed(2), endpoint(admin=None)),
        "job",
        "all",
        "GET /orders/0/admin was of 'admin'",
    ),
}


@pytest.mark.parametrize("name", WIDER)
def test_a_widening_is_marked_and_its_reverse_is_a_narrowing(name: str) -> None:
    edit, who, where, why = WIDER[name]
    [found] = [
        each for each in changes(edit) if who in each.callers and where in [place.endpoint for place in each.places]
    ]
    assert found.widening
    if why:
        assert why in found.wider
    assert any(each.narrowing and who in each.callers for each in reverse(edit))


NARROWER: dict[str, Edit] = {
    "a permission goes": removed(0),
    "a condition more": when(0, claims={"tenant": "acme"}),
    "a smaller network": when(0, source=["10.0.0.0/9"]),
    "a claim more of the caller": caller("web", claims={"env": ["prod"], "tenant": "acme"}),
    "a shorter credential": entry(4, credential={"per_call": True, "lifetime": "29s"}),
    "more approvals": eligible(approvals=3),
    "an approver who is fewer people": eligible(approvers=["chief"]),
    "eligible what was standing": both(
        removed(0),
        lambda document: document["eligible"].append(
            {
                "caller": "web",
                "service": "orders",
                "endpoints": ["list"],
                "approvers": ["lead"],
                "max_duration": "1m",
                "when": {"source": ["10.0.0.0/8"]},
            }
        ),
    ),
    "an endpoint that takes paths from a broader one": endpoint(export="GET /orders/{id}/export"),
}


@pytest.mark.parametrize("name", NARROWER)
def test_a_narrowing_widens_nothing(name: str) -> None:
    found = changes(NARROWER[name])
    assert [each for each in found if each.widening] == []
    assert found


def written_out(document: dict[str, Any]) -> None:
    permission = document["permissions"][3]
    del permission["roles"]
    permission |= {"service": "orders", "endpoints": ["get", "list"]}


def nothing(document: dict[str, Any]) -> None:
    pass


SAME: dict[str, Edit] = {
    "nothing": nothing,
    "a network written as two": when(0, source=["10.128.0.0/9", "10.0.0.0/9"]),
    "a permission written as two": both(
        when(0, source=["10.0.0.0/9"]), added(caller="web", endpoints=["list"], when={"source": ["10.128.0.0/9"]})
    ),
    "a network within another": when(0, source=["10.0.0.0/8", "10.1.0.0/16"]),
    "days in another order": when(1, hours=PARIS | {"days": ["tue", "mon"]}),
    "a role written out": written_out,
    "a claim that the caller has anyway": when(0, claims={"env": ["prod", "test"]}),
    "the whole day, every day": when(6, hours={"from": "00:00", "to": "24:00", "timezone": "UTC"}),
    "the default credential written out": entry(0, credential={"lifetime": "60s", "per_call": False}),
    "a variable of another name": endpoint(get="GET /orders/{order_id}"),
    "a permission that a broader one holds": added(caller="web", endpoints=["list"], when={"source": ["10.1.0.0/16"]}),
    "the sections in another order": lambda document: document["permissions"].reverse(),
    "a caller twice": lambda document: document["callers"].update(
        again={"issuer": "https://idp.test", "claims": {"groups": ["staff"]}}
    ),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_in_other_words_is_no_change(name: str) -> None:
    assert changes(SAME[name]) == []
    assert reverse(SAME[name]) == []


def test_callers_that_are_renamed_split_or_joined_let_the_same_people_through() -> None:
    """Of what is standing; a grant is for a name."""

    def standing(*callers: tuple[str, list[str]]) -> Snapshot:
        document: dict[str, Any] = yaml.safe_load(MAP)
        document["eligible"] = []
        document["callers"] = {
            name: {"issuer": "https://idp.test", "claims": {"groups": groups}} for name, groups in callers
        }
        document["permissions"] = [
            {"caller": name, "service": "orders", "endpoints": ["list", "get"]} for name, _ in callers
        ]
        return snapshot(document)

    one = standing(("staff", ["a", "b"]))
    for other in (standing(("crew", ["b", "a"])), standing(("a", ["a"]), ("b", ["b"]))):
        assert compare_maps(one, other)[0] == []
        assert compare_maps(other, one)[0] == []
    [renamed] = compare_maps(one, standing(("crew", ["b", "a"])))[1]
    assert (renamed.kind, renamed.name, renamed.was) == ("renamed", "crew", "staff")


def test_a_stricter_permission_that_goes_away_leaves_the_other_one_s_credential() -> None:
    """Who is let through twice gets the stricter credential of the two."""
    document = edited(added(caller="staff", endpoints=["list"], credential={"lifetime": "10s"}))
    other = edited(nothing)
    for each in (document, other):
        each["permissions"].append({"caller": "lead", "service": "orders", "endpoints": ["list"]})
    found = compare_maps(snapshot(document), snapshot(other))[0]
    assert {(each.kind, each.callers, each.widening) for each in found} == {
        ("lost", ("staff",), False),
        ("changed", ("lead",), True),
        ("changed", ("web",), True),
    }
    [lead] = [each for each in found if each.callers == ("lead",)]
    assert lead.wider == ("what staff had made its credential stricter: standing; credential reusable, 10s",)


def test_the_same_change_of_many_is_one() -> None:
    """Of many endpoints, and for many callers."""
    edits = [added(caller=name, endpoints=["list", "get"]) for name in ("staff", "lead")]
    [found] = changes(both(*edits))
    assert (found.kind, found.callers) == ("gained", ("lead", "staff"))
    assert [place.endpoint for place in found.places] == ["get", "list"]


def test_endpoints_and_callers_are_told_by_name() -> None:
    edit = both(
        endpoint(create="POST /orders", tenant="GET /tenants/{tenant}/all", admin=None),
        caller("chief", claims={"groups": ["lead"]}),
        removed(2),
        lambda document: document["callers"].update(new={"spiffe": "spiffe://shop.test/new"}),
    )
    _, callers, endpoints = compare_maps(snapshot(yaml.safe_load(MAP)), snapshot(edited(edit)))
    assert [(each.kind, each.name, each.before, each.after) for each in endpoints] == [
        ("added", "create", None, "POST /orders"),
        ("changed", "tenant", "GET /tenants/{tenant}/orders", "GET /tenants/{tenant}/all"),
        ("removed", "admin", "GET /orders/{id}/admin", None),
    ]
    assert [(each.kind, each.name) for each in callers] == [("changed", "chief"), ("added", "new")]


CHRISTMAS, NEW_YEAR = "2026-12-24T00:00:00Z", "2027-01-01T00:00:00Z"


def observing(until: str | None) -> Edit:
    return lambda document: document.update(observe={} if until is None else {"orders": {"until": until}})


@pytest.mark.parametrize(
    ("before", "after", "kind", "widening", "narrowing"),
    [
        (None, CHRISTMAS, "added", True, False),
        (CHRISTMAS, NEW_YEAR, "extended", True, False),
        (CHRISTMAS, CHRISTMAS, "kept", False, False),
        (NEW_YEAR, CHRISTMAS, "shortened", False, True),
        (CHRISTMAS, None, "removed", False, True),
    ],
)
def test_what_is_observed_is_told_and_widens_by_beginning_and_lasting(
    before: str | None, after: str | None, kind: str, widening: bool, narrowing: bool
) -> None:
    [found] = compare_observed(snapshot(edited(observing(before))), snapshot(edited(observing(after))))
    assert (found.service, found.kind, found.before, found.after) == ("orders", kind, before, after)
    assert (found.widening, found.narrowing, found.wider) == (widening, narrowing, ())


@pytest.mark.parametrize(
    ("edit", "wider"),
    [
        (lambda document: document["callers"].update(new={"spiffe": "spiffe://shop.test/new"}), ["new"]),
        (caller("job", spiffe="spiffe://shop.test/other"), ["job"]),
        (caller("web", claims={"env": ["prod", "test"]}), ["web"]),
        (caller("web", claims={"env": ["prod"], "tenant": ["acme"]}), []),
        (endpoint(void="DELETE /orders/{id}"), ["DELETE /orders/0"]),
        (both(removed(5), endpoint(tenant=None)), []),
    ],
)
def test_what_is_observed_widens_with_the_callers_and_the_paths(edit: Edit, wider: list[str]) -> None:
    [found] = compare_observed(
        snapshot(edited(observing(CHRISTMAS))), snapshot(edited(both(observing(CHRISTMAS), edit)))
    )
    told = {"new": "new may be", "job": "job may be", "web": "web may be"}
    assert (found.kind, found.widening, len(found.wider)) == ("kept", bool(wider), len(wider))
    assert all(text.startswith(told.get(name, name)) for name, text in zip(wider, found.wider, strict=True))
