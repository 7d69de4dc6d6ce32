"""What a real OPA decides about compiled maps: whole decisions for the format's own example, and tables of edges."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ostiary.policy.compiler import compile_map
from ostiary.policy.model import PermissionMap, load_permissions
from ostiary.policy.terms import conditions_digest
from support.policy import (
    DENIED,
    DESIGN,
    FIXTURES,
    MATRIX,
    NOW,
    Evaluator,
    allowed,
    compiled,
    grant,
    question,
    replaced,
    without,
)

NEVER = {"max_age": 0, "vary": []}


@pytest.fixture(scope="module")
def design(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    return Evaluator(opa_binary, tmp_path_factory.mktemp("design"), compiled(DESIGN))


@pytest.fixture(scope="module")
def longer(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    """As `design`, but for the forms: without them there are no short ways."""
    return Evaluator(opa_binary, tmp_path_factory.mktemp("longer"), {**compiled(DESIGN), "forms": {}})


@pytest.fixture(scope="module")
def matrix(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    return Evaluator(opa_binary, tmp_path_factory.mktemp("matrix"), compiled(MATRIX))


@pytest.fixture(scope="module")
def matrix_by_the_long_way(opa_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluator:
    return Evaluator(opa_binary, tmp_path_factory.mktemp("long"), {**compiled(MATRIX), "forms": {}})


def denied(*reasons: str, **changes: Any) -> dict[str, Any]:
    return {**DENIED, "caller": "web", "service": "orders", "reasons": list(reasons), **changes}


def test_the_example_of_the_format_is_judged_as_it_reads(design: Evaluator, longer: Evaluator) -> None:
    when = load_permissions(DESIGN).permissions[1].when
    by_source = {"cache": {"max_age": 5, "vary": ["source_ip"]}}
    predicted = {"cache": {"max_age": 5, "vary": []}}
    support: dict[str, Any] = {"claims": {"groups": ["support"]}, "service": "billing"}
    refund = ("ann", "POST", "/charges/7/refund")
    eligible = {"caller": "support", "service": "billing", "endpoint": "refund", **by_source}
    unprompted = {"cache": {"max_age": 5, "vary": ["segments", "source_ip"]}}
    requestable = {
        "caller": "support",
        "service": "billing",
        "endpoint": "refund",
        "approvers": ["support-lead"],
        "max_duration": 1800,
    }
    table: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (question("web", "GET", "/orders"), allowed("web", "orders", "list-orders")),
        (question(endpoint="get-order"), allowed("web", "orders", "get-order", **predicted)),
        (
            question("web", "POST", "/orders", endpoint="create-order"),
            allowed(
                "web",
                "orders",
                "create-order",
                permission=f"web/orders/create-order/{conditions_digest(when)}",
                **by_source,
            ),
        ),
        (
            question("web", "POST", "/orders", endpoint="create-order", source_ip="192.0.2.1"),
            denied("condition-source", endpoint="create-order", **by_source),
        ),
        (
            question("web", "POST", "/charges", service="billing"),
            allowed("web", "billing", "charge", credential={"lifetime": 30, "per_call": True}),
        ),
        (question("web", "GET", "/orders/42/invoices/2026/1"), denied("permission-missing", endpoint="invoices")),
        (question("web", "DELETE", "/orders/42"), denied("unknown-endpoint")),
        (question("web", "GET", "/orders/"), denied("unknown-endpoint")),
        (question("web", "GET", "/customers"), denied("unknown-endpoint")),
        (question(service="shipping"), denied("unknown-service", service=None)),
        (question("stranger"), denied("unknown-caller", caller=None, endpoint="get-order")),
        (question(issuer="https://evil.test"), denied("unknown-caller", caller=None, endpoint="get-order")),
        (question(endpoint="list-orders"), denied("route-mismatch", cache=NEVER)),
        (
            question(*refund, endpoint="refund", **support),
            denied("grant-required", requestable=requestable, **eligible),
        ),
        (
            question(*refund, endpoint="refund", source_ip="192.0.2.1", **support),
            denied("condition-source", "grant-required", requestable=requestable, **eligible),
        ),
        (
            question(*refund, **support, grants=[grant("support", "refund", subject="ann", service="billing")]),
            allowed("support", "billing", "refund", permission=None, grant="g-1", expires_at=NOW + 900, **unprompted),
        ),
        (
            question("spiffe://shop.test/reporting", "GET", "/orders", issuer="spiffe://shop.test", proof="mtls"),
            denied("permission-missing", caller="reporting", endpoint="list-orders"),
        ),
        (
            question("spiffe://shop.test/reporting", "GET", "/orders", issuer="spiffe://shop.test", proof="jwt"),
            denied("unknown-caller", caller=None, endpoint="list-orders"),
        ),
    ]
    requests = [asked for asked, _ in table]
    assert design.decide(*requests) == [expected for _, expected in table]
    # Most are judged by short ways; without those, the long way comes to the same.
    assert longer.decide(*requests) == [expected for _, expected in table]


def test_the_controls_of_the_attack_runner(opa_binary: Path, tmp_path: Path) -> None:
    evaluator = Evaluator(opa_binary, tmp_path, compiled(FIXTURES / "attack" / "permissions.yaml"))
    table = {
        ("GET", "/orders/123"): [],
        ("POST", "/orders"): [],
        ("GET", "/orders"): ["permission-missing"],
        ("PUT", "/orders/123"): ["permission-missing"],
        ("DELETE", "/orders/123"): ["permission-missing"],
        ("GET", "/orders/admin/users"): ["permission-missing"],
        ("POST", "/orders/123/refund"): ["grant-required"],
        ("PATCH", "/orders/123"): ["unknown-endpoint"],
        ("GET", "/orders/admin"): ["unknown-endpoint"],
        ("GET", "/orders/Admin"): ["unknown-endpoint"],
        ("GET", "/orders/ADMIN/users"): ["unknown-endpoint"],
        ("GET", "/orders/123/Refund"): ["unknown-endpoint"],
        ("GET", "/orders/"): ["unknown-endpoint"],
    }
    decisions = evaluator.decide(*(question("web", method, path) for method, path in table))
    assert [decision["reasons"] for decision in decisions] == list(table.values())
    assert [decision["allow"] for decision in decisions] == [reasons == [] for reasons in table.values()]


def test_the_short_ways_are_the_long_way(matrix: Evaluator, matrix_by_the_long_way: Evaluator) -> None:
    """Whole decisions, for everything that a decision can depend on, with the prediction the proxy would make."""
    identities: list[dict[str, Any]] = [
        *({"subject": name} for name in ("web", "night", "limited", "tenant", "custom", "42", "stranger")),
        *({"subject": "web", "claims": claims} for claims in ({"stage": "prod"}, {"stage": "test"})),
        *({"subject": "ann", "claims": {"groups": groups}} for groups in ("support", ["lead"], ["support", "lead"])),
        {"subject": "lee", "claims": {"groups": "lead", "level": "3"}},
        {"subject": "tenant", "claims": {"tenant": "t-1"}},
        {"subject": "limited", "claims": {"groups": "a", "tier": "gold"}},
        {"subject": "web", "proof": "mtls"},
        {"subject": "spiffe://shop.test/job", "issuer": "spiffe://shop.test", "proof": "mtls"},
    ]
    targets = {
        "get": ("GET", "/orders/42"),
        "list": ("GET", "/orders"),
        "put": ("PUT", "/orders/42"),
        "remove": ("DELETE", "/orders/42"),
        "lines": ("GET", "/orders/42/lines/7"),
        "admin": ("GET", "/orders/admin/users"),
        "refund": ("POST", "/orders/42/refund"),
        "tenant": ("GET", "/tenants/t-1/items"),
        "anything": ("GET", "/any/thing"),
        "docs": ("GET", "/docs/a/b"),
        "shelf": ("GET", "/shelves/s/a/b"),
        "files": ("GET", "/files/a"),
        "7": ("GET", "/seventh/thing"),
        None: ("GET", "/nowhere"),
    }
    circumstances: list[dict[str, Any]] = [
        {},
        {"source_ip": "192.0.2.1"},
        {"source_ip": None},
        {"now": NOW + 39},
        {"now": NOW + 12 * 3600},
        {"query": [["page", "2"]]},
        {"undecodable": True},
        {"grants": [grant("web", "put", "get")]},
    ]
    requests = [
        question(method=method, path=path, service="shop", endpoint=predicted, **identity, **circumstance)
        for identity in identities
        for predicted, (method, path) in targets.items()
        for circumstance in circumstances
    ]
    found = matrix.decide(*requests)
    differing = [
        (request, short, long)
        for request, short, long in zip(requests, found, matrix_by_the_long_way.decide(*requests), strict=True)
        if short != long
    ]
    assert differing == []
    assert {reason for decision in found for reason in decision["reasons"]} >= {
        "permission-missing",
        "unknown-caller",
        "condition-source",
        "condition-hours",
        "grant-required",
    }


def test_what_is_no_request_is_none_where_it_was_predicted_either(
    matrix: Evaluator, matrix_by_the_long_way: Evaluator
) -> None:
    """Whatever stands anywhere, of every type: the short ways answer as the long way does, and no built-in fails."""
    values = [
        None,
        True,
        False,
        0,
        1,
        7,
        -1,
        1.5,
        42,
        10**10,
        "",
        "x",
        [],
        [1],
        ["x", 1],
        [""],
        {},
        {"0": "x"},
        {"x": 1},
    ]
    requests = [
        replaced(good, value, *path)
        for good in (
            question(path="/any/thing", service="shop", endpoint="anything"),
            question(path="/docs/a", service="shop", endpoint="docs"),
            question(service="shop", endpoint="get"),
            question("night", path="/shelves/s/a", service="shop", endpoint="shelf"),
            question("42", path="/seventh/thing", service="shop", endpoint="7"),
            question("42", path="/any/thing", service="shop", endpoint="anything"),
        )
        for path in [*MEMBERS, ("resource", "properties", "endpoint"), ("context", "source_ip")]
        for value in values
    ]
    answers = zip(requests, matrix.decide(*requests), matrix_by_the_long_way.decide(*requests), strict=True)
    assert [(request, short, long) for request, short, long in answers if short != long] == []


MEMBERS = [
    ("subject",),
    ("subject", "id"),
    ("subject", "properties"),
    ("subject", "properties", "issuer"),
    ("subject", "properties", "method"),
    ("subject", "properties", "claims"),
    ("action",),
    ("action", "name"),
    ("resource",),
    ("resource", "id"),
    ("resource", "properties"),
    ("resource", "properties", "segments"),
    ("context",),
    ("context", "time"),
    ("context", "grants"),
]


def test_what_is_no_request_is_denied_and_never_undefined(matrix: Evaluator) -> None:
    good = question(service="shop")
    values = [None, True, 1, "x", [], ["x", 1], {}, {"x": 1}]
    asked: list[Any] = [without(good, *path) for path in MEMBERS]
    asked += [replaced(good, value, *path) for path in MEMBERS for value in (None, True)]
    asked += [None, True, 1, "x", [], {}]
    assert matrix.decide(*asked) == [{**DENIED, "reasons": ["request-malformed"], "cache": NEVER} for _ in asked]
    # Whatever stands anywhere: an answer, and an allow only of what is well-formed.
    every = [replaced(good, value, *path) for path in MEMBERS for value in values]
    decisions = matrix.decide(*every)
    assert all(set(decision) == set(DENIED) for decision in decisions)
    allowing = [request for request, decision in zip(every, decisions, strict=True) if decision["allow"] is not False]
    # A time of 1 and empty, or other, claims are requests as good as any.
    assert [request["context"]["time"] for request in allowing if request["context"]["time"] != NOW] == [1]
    assert all(isinstance(request["subject"]["properties"]["claims"], dict) for request in allowing)


def test_a_batch_answers_as_single_requests_do(matrix: Evaluator) -> None:
    requests = [
        question(service="shop"),
        None,
        question("stranger", service="shop"),
        question(service="shop", claims={"stage": "prod"}),
        question("night", service="shop"),
        question("limited", path="/orders", service="shop", query=[["page", "1"]]),
    ]
    singles = [matrix.query("data.ostiary.authz.decision", request) for request in requests]
    assert matrix.decide(*requests) == singles


@pytest.mark.parametrize("evaluations", [[], None, "x", {}], ids=repr)
def test_a_batch_of_nothing_has_no_answers(matrix: Evaluator, evaluations: Any) -> None:
    assert matrix.query("data.ostiary.authz.decisions", {"evaluations": evaluations}) == []


CONDITIONS: list[tuple[str, dict[str, Any], dict[str, Any], bool]] = [
    ("source", {"source": ["10.0.0.0/8"]}, {"source_ip": "10.1.2.3"}, True),
    ("source", {"source": ["10.0.0.0/8"]}, {"source_ip": "::ffff:10.1.2.3"}, True),
    ("source", {"source": ["10.0.0.0/8"]}, {"source_ip": "11.0.0.1"}, False),
    ("source", {"source": ["10.0.0.0/8"]}, {"source_ip": "10.0.0.0/30"}, False),
    ("source", {"source": ["10.0.0.0/8"]}, {"source_ip": "not an address"}, False),
    ("source", {"source": ["10.0.0.0/8"]}, {"source_ip": None}, False),
    ("source", {"source": ["192.0.2.0/24", "2001:db8::/32"]}, {"source_ip": "2001:db8:1::7"}, True),
    ("source", {"source": ["192.0.2.0/24", "2001:db8::/32"]}, {"source_ip": "2001:db9::7"}, False),
    ("source", {"source": ["0.0.0.0/0"]}, {"source_ip": "::1"}, False),
    ("claims", {"claims": {"tenant": "acme"}}, {"claims": {"tenant": "acme"}}, True),
    ("claims", {"claims": {"tenant": "acme"}}, {"claims": {"tenant": ["x", "acme"]}}, True),
    ("claims", {"claims": {"tenant": "acme"}}, {"claims": {"tenant": "acmé"}}, False),
    ("claims", {"claims": {"tenant": "acme"}}, {"claims": {"tenant": {"acme": "acme"}}}, False),
    ("claims", {"claims": {"tenant": "1"}}, {"claims": {"tenant": 1}}, False),
    ("claims", {"claims": {"a": "1", "b": "2"}}, {"claims": {"a": "1"}}, False),
    ("claims", {"claims": {"a": ["1", "2"]}}, {"claims": {"a": "2"}}, True),
    ("claims", {"claims": {"a": "1"}}, {"claims": {}}, False),
    ("read-only", {"read_only": True}, {}, True),
    ("query", {"query": {"page": "*"}}, {"query": []}, True),
    ("query", {"query": {"page": "*"}}, {"query": [["page", "7"]]}, True),
    ("query", {"query": {"page": "*"}}, {"query": [["page", "7"], ["page", "7"]]}, False),
    ("query", {"query": {"page": "*"}}, {"query": [["Page", "7"]]}, False),
    ("query", {"query": {"page": ["1", "2"]}}, {"query": [["page", "3"]]}, False),
    ("query", {"query": {"page": ["1", "2"]}}, {"query": [["page", "1"], ["sort", "up"]]}, False),
    ("query", {"query": {"page": ["1", "2"]}}, {"query": [["page", "1"]]}, True),
    ("query", {"query": {"page": "*"}}, {"undecodable": True}, False),
    ("path", {"path": {"id": {"claim": "order"}}}, {"claims": {"order": "42"}}, True),
    ("path", {"path": {"id": {"claim": "order"}}}, {"claims": {"order": ["41", "42"]}}, True),
    ("path", {"path": {"id": {"claim": "order"}}}, {"claims": {"order": "43"}}, False),
    ("path", {"path": {"id": {"claim": "order"}}}, {"claims": {"order": 42}}, False),
    ("path", {"path": {"id": {"claim": "order"}}}, {}, False),
]


def conditional(whens: list[dict[str, Any]], template: str = "GET /orders/{id}") -> dict[str, Any]:
    """A map with one service for each condition."""
    document = {
        "services": {f"s{i}": {"endpoints": {"get": template}} for i in range(len(whens))},
        "callers": {"web": {"issuer": "https://idp.test", "subject": "web"}},
        "permissions": [
            {"caller": "web", "service": f"s{i}", "endpoints": ["get"], "when": when} for i, when in enumerate(whens)
        ],
    }
    return compile_map(PermissionMap.model_validate(document))


def test_conditions_hold_or_give_their_reason(opa_binary: Path, tmp_path: Path) -> None:
    evaluator = Evaluator(opa_binary, tmp_path, conditional([when for _, when, _, _ in CONDITIONS]))
    requests = [question(service=f"s{i}", **changes) for i, (_, _, changes, _) in enumerate(CONDITIONS)]
    assert [decision["reasons"] for decision in evaluator.decide(*requests)] == [
        [] if holds else [f"condition-{name}"] for name, _, _, holds in CONDITIONS
    ]


def test_read_only_lets_nothing_be_changed(opa_binary: Path, tmp_path: Path) -> None:
    methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
    document = {
        "services": {"s": {"endpoints": {method.lower(): f"{method} /x" for method in methods}}},
        "roles": {"all": {"s": [method.lower() for method in methods]}},
        "callers": {"web": {"issuer": "https://idp.test", "subject": "web"}},
        "permissions": [{"caller": "web", "roles": ["all"], "when": {"read_only": True}}],
    }
    evaluator = Evaluator(opa_binary, tmp_path, compile_map(PermissionMap.model_validate(document)))
    decisions = evaluator.decide(*(question("web", method, "/x", service="s") for method in methods))
    assert [decision["reasons"] for decision in decisions] == [[]] * 3 + [["condition-read-only"]] * 4


def test_failing_conditions_are_all_named(opa_binary: Path, tmp_path: Path) -> None:
    when = {"source": ["192.0.2.0/24"], "claims": {"a": "1"}, "query": {"page": "*"}, "path": {"id": {"claim": "c"}}}
    evaluator = Evaluator(opa_binary, tmp_path, conditional([when]))
    decision = evaluator.decide(question(service="s0", query=[["x", "1"]]))[0]
    assert decision["reasons"] == ["condition-claims", "condition-path", "condition-query", "condition-source"]
    assert decision["cache"] == {"max_age": 5, "vary": ["query", "segments", "source_ip"]}


DAYS = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
ZONES = ["Europe/Paris", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "UTC", "Pacific/Apia"]


def within(hours: dict[str, Any], instant: int) -> bool:
    """The oracle: on which local day did the window begin that this instant is in?"""
    local = datetime.fromtimestamp(instant, UTC).astimezone(ZoneInfo(hours["timezone"]))
    minute = local.hour * 60 + local.minute
    start, end = (int(text[:2]) * 60 + int(text[3:]) for text in (hours["from"], hours["to"]))
    today, yesterday = DAYS[local.weekday()], DAYS[local.weekday() - 1]
    if start < end:
        return today in hours["days"] and start <= minute < end
    return (today in hours["days"] and minute >= start) or (yesterday in hours["days"] and minute < end)


TRANSITIONS = [
    datetime(2026, 3, 29, 1, tzinfo=UTC),  # Europe/Paris springs forward
    datetime(2026, 10, 25, 1, tzinfo=UTC),  # and falls back
    datetime(2026, 3, 8, 7, tzinfo=UTC),  # America/New_York
    datetime(2026, 11, 1, 6, tzinfo=UTC),
    datetime(2026, 10, 3, 15, 30, tzinfo=UTC),  # Australia/Lord_Howe, by half an hour
]
instants = st.one_of(
    st.integers(1_750_000_000, 1_850_000_000),
    st.builds(
        lambda moment, offset: int(moment.timestamp()) + offset,
        st.sampled_from(TRANSITIONS),
        st.integers(-172_800, 172_800),
    ),
)
hour = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.sampled_from([0, 1, 30, 59]))
windows = st.fixed_dictionaries(
    {
        "from": hour,
        "to": st.one_of(hour, st.just("24:00")),
        "days": st.lists(st.sampled_from(DAYS), min_size=1, unique=True),
        "timezone": st.sampled_from(ZONES),
    }
).filter(lambda hours: hours["from"] != hours["to"])


@settings(max_examples=5, deadline=None)
@given(asked=st.lists(st.tuples(windows, st.lists(instants, min_size=6, max_size=12)), min_size=20, max_size=40))
def test_hours_hold_as_a_clock_on_the_wall_says(
    opa_binary: Path, tmp_path_factory: pytest.TempPathFactory, asked: list[tuple[dict[str, Any], list[int]]]
) -> None:
    """Random windows at random instants, many of them around changes of daylight saving."""
    content = conditional([{"hours": hours} for hours, _ in asked])
    evaluator = Evaluator(opa_binary, tmp_path_factory.mktemp("hours"), content)
    requests = [question(service=f"s{i}", now=now) for i, (_, times) in enumerate(asked) for now in times]
    decisions = evaluator.decide(*requests)
    expected = [within(hours, now) for hours, times in asked for now in times]
    assert [decision["allow"] for decision in decisions] == expected
    assert {tuple(decision["reasons"]) for decision in decisions} <= {(), ("condition-hours",)}
    ends = [min(5, 60 - request["context"]["time"] % 60) for request in requests]
    assert [decision["cache"]["max_age"] for decision in decisions] == ends


def test_a_window_past_midnight_belongs_to_the_day_it_began_on(opa_binary: Path, tmp_path: Path) -> None:
    """Also after a day of 23 hours: "24 hours ago" was then another day."""
    hours = {"from": "22:00", "to": "06:00", "days": ["sat"], "timezone": "Europe/Paris"}
    evaluator = Evaluator(opa_binary, tmp_path, conditional([{"hours": hours}]))
    paris = ZoneInfo("Europe/Paris")
    table = {
        datetime(2026, 3, 28, 21, 59, 59, tzinfo=paris): False,
        datetime(2026, 3, 28, 22, 0, tzinfo=paris): True,
        datetime(2026, 3, 29, 1, 59, tzinfo=paris): True,
        datetime(2026, 3, 29, 5, 59, 59, tzinfo=paris): True,
        datetime(2026, 3, 29, 6, 0, tzinfo=paris): False,
        datetime(2026, 3, 29, 22, 0, tzinfo=paris): False,
        datetime(2026, 3, 28, 3, 0, tzinfo=paris): False,
    }
    requests = [question(service="s0", now=int(moment.timestamp())) for moment in table]
    assert [decision["allow"] for decision in evaluator.decide(*requests)] == list(table.values())
