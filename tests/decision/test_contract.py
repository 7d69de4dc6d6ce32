"""What it takes for an answer to be believed (DESIGN section 6, SECURITY section 7)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ostiary.decision.contract import FIELDS, parse_decision
from ostiary.errors import AccessDenied, PolicyUnavailable
from ostiary.models import CachePolicy, CredentialProfile, Decision, Grant
from support.opa import ALLOWED, DENIED, NOW, REVISION, UNDEFINED, answer, request

GRANT = Grant(
    id="g-1",
    caller="support",
    issuer="https://idp.test",
    subject="web",
    service="orders",
    endpoints=("get-order",),
    expires_at=NOW + 900,
)
GRANTED = {**ALLOWED, "caller": "support", "permission": None, "grant": "g-1", "expires_at": NOW + 900}
REQUESTABLE = {
    "caller": "support",
    "service": "orders",
    "endpoint": "get-order",
    "approvers": ["support-lead"],
    "max_duration": 1800,
}


def test_a_whole_allow_is_a_decision() -> None:
    assert parse_decision(answer(ALLOWED), request()) == Decision(
        allow=True,
        reasons=(),
        caller="web",
        service="orders",
        endpoint="get-order",
        permission="web/orders/get-order/00000000",
        grant=None,
        credential=CredentialProfile(lifetime=60, per_call=False),
        expires_at=None,
        cache=CachePolicy(max_age=5, vary=()),
        requestable=None,
        observed=False,
        revision=REVISION,
    )


def test_a_whole_denial_is_a_decision_with_its_reasons() -> None:
    denial = {**DENIED, "reasons": ["grant-required"], "requestable": REQUESTABLE}
    decision = parse_decision(answer(denial), request())
    assert decision.document == denial
    assert decision == Decision(
        allow=False,
        reasons=("grant-required",),
        caller="web",
        service="orders",
        endpoint="get-order",
        permission=None,
        grant=None,
        credential=None,
        expires_at=None,
        cache=CachePolicy(max_age=5, vary=()),
        requestable=REQUESTABLE,
        observed=False,
        revision=REVISION,
    )


def test_a_denial_may_say_which_shadow_permission_would_have_allowed_it() -> None:
    denial = {**DENIED, "reasons": ["permission-missing"], "shadow": "web/orders/get-order/00000000"}
    decision = parse_decision(answer(denial), request())
    assert decision.shadow == "web/orders/get-order/00000000"
    assert decision.document == denial


@pytest.mark.parametrize(
    "result",
    [
        None,
        False,
        True,
        "true",
        1,
        [],
        [True],
        {},
        {"allow": "true"},
        {"allow": 1},
        {"allow": 1.0},
        {"allow": [True]},
        {"allow": {}},
        {"allow": {"allow": True}},
        {"allow": None},
        {"Allow": True},
        {"result": {"allow": True}},
        {**ALLOWED, "allow": "true"},
        {**ALLOWED, "allow": 1},
        {key: value for key, value in ALLOWED.items() if key != "allow"},
    ],
    ids=repr,
)
def test_whatever_is_not_literally_true_denies(result: Any) -> None:
    decision = parse_decision(answer(result), request())
    assert decision.allow is False
    assert decision.reasons == ("policy-denied: the policy's answer is neither yes nor no",)
    assert decision.cache == CachePolicy(max_age=0, vary=())
    with pytest.raises(AccessDenied) as refused:
        decision.enforce()
    assert (refused.value.status, refused.value.reason) == (403, "policy-denied")


def test_an_undefined_decision_denies() -> None:
    """OPA answers an undefined rule, and a misspelt path, with 200 and no result."""
    decision = parse_decision(UNDEFINED, request())
    assert (decision.allow, decision.reasons, decision.document) == (
        False,
        ("policy-denied: the policy has no answer",),
        {},
    )
    with pytest.raises(AccessDenied):
        decision.enforce()


def test_a_denial_without_reasons_still_has_one() -> None:
    assert parse_decision(answer({**DENIED, "reasons": []}), request()).reasons == ("policy-denied",)


def test_a_denial_needs_no_revision_but_is_not_cached_without() -> None:
    decision = parse_decision(answer(DENIED, revision=None), request())
    assert (decision.allow, decision.revision, decision.cache) == (False, "", CachePolicy(max_age=0, vary=()))


@given(
    st.dictionaries(
        st.sampled_from(sorted(FIELDS - {"allow"})),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_no_denial_fails_on_what_it_holds(fields: dict[str, Any]) -> None:
    decision = parse_decision(answer({**fields, "allow": False}), request())
    assert decision.allow is False
    with pytest.raises(AccessDenied):
        decision.enforce()


@pytest.mark.parametrize("field", sorted(FIELDS - {"allow"}))
def test_an_allow_without_one_of_its_members_is_no_decision(field: str) -> None:
    partial = {key: value for key, value in ALLOWED.items() if key != field}
    with pytest.raises(PolicyUnavailable, match=field):
        parse_decision(answer(partial), request())


def test_a_bare_allow_is_no_decision() -> None:
    """Also the answer of a policy that was asked something else, or that somebody put in its place."""
    with pytest.raises(PolicyUnavailable):
        parse_decision(answer({"allow": True}), request())


def test_an_allow_with_another_member_is_no_decision() -> None:
    with pytest.raises(PolicyUnavailable, match="'extra'"):
        parse_decision(answer({**ALLOWED, "extra": 1}), request())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reasons", None),
        ("reasons", "none"),
        ("reasons", [1]),
        ("reasons", ["permission-missing"]),
        ("caller", None),
        ("caller", ""),
        ("caller", 1),
        ("service", None),
        ("service", "billing"),
        ("service", ["orders"]),
        ("endpoint", None),
        ("endpoint", ""),
        ("permission", None),
        ("permission", ""),
        ("permission", {}),
        ("grant", "g-1"),
        ("grant", ""),
        ("grant", False),
        ("credential", None),
        ("credential", {}),
        ("credential", {"lifetime": 60}),
        ("credential", {"lifetime": "60", "per_call": False}),
        ("credential", {"lifetime": True, "per_call": False}),
        ("credential", {"lifetime": 0, "per_call": False}),
        ("credential", {"lifetime": -1, "per_call": False}),
        ("credential", {"lifetime": 60.5, "per_call": False}),
        ("credential", {"lifetime": 60, "per_call": 0}),
        ("credential", {"lifetime": 60, "per_call": False, "scope": "all"}),
        ("expires_at", "never"),
        ("expires_at", True),
        ("expires_at", 0),
        ("expires_at", NOW),
        ("cache", None),
        ("cache", {}),
        ("cache", {"max_age": -1, "vary": []}),
        ("cache", {"max_age": 1.5, "vary": []}),
        ("cache", {"max_age": True, "vary": []}),
        ("cache", {"max_age": 5, "vary": "source_ip"}),
        ("cache", {"max_age": 5, "vary": [1]}),
        ("cache", {"max_age": 5, "vary": [], "public": True}),
        ("requestable", {}),
        ("requestable", False),
        ("observed", None),
        ("observed", 0),
        ("shadow", "web/orders/get-order/11111111"),
        ("shadow", False),
    ],
)
def test_an_allow_with_an_unexpected_value_is_no_decision(field: str, value: Any) -> None:
    with pytest.raises(PolicyUnavailable):
        parse_decision(answer({**ALLOWED, field: value}), request())


def test_an_allow_for_another_endpoint_than_the_predicted_is_no_decision() -> None:
    assert parse_decision(answer(ALLOWED), request(endpoint="get-order")).allow
    with pytest.raises(PolicyUnavailable, match="endpoint"):
        parse_decision(answer(ALLOWED), request(endpoint="admin"))


@pytest.mark.parametrize("revision", [None, "", "7", "-abc", "7-", "07-abc", "7-a b", "7-abc\n", "x-abc", "7_abc"])
def test_an_allow_without_a_proper_revision_is_no_decision(revision: str | None) -> None:
    with pytest.raises(PolicyUnavailable):
        parse_decision(answer(ALLOWED, revision=revision), request())


def test_an_answer_is_kept_for_five_seconds_at_most() -> None:
    decision = parse_decision(answer({**ALLOWED, "cache": {"max_age": 3600, "vary": ["query"]}}), request())
    assert decision.cache == CachePolicy(max_age=5, vary=("query",))


OBSERVED = {
    **ALLOWED,
    "reasons": ["permission-missing"],
    "permission": None,
    "expires_at": NOW + 86400,
    "observed": True,
}


class TestAnObservedAllow:
    def test_says_what_it_would_have_been_denied_for_and_when_it_ends(self) -> None:
        document = {**OBSERVED, "shadow": "web/orders/get-order/00000000"}
        decision = parse_decision(answer(document), request())
        assert decision.document == document
        assert (decision.observed, decision.reasons, decision.permission, decision.grant, decision.expires_at) == (
            *(True, ("permission-missing",), None, None),
            NOW + 86400,
        )

    @pytest.mark.parametrize(
        "change",
        [
            {"reasons": []},
            {"expires_at": None},
            {"expires_at": NOW},
            {"permission": "web/orders/get-order/00000000"},
            {"grant": "g-1"},
            {"caller": None},
            {"endpoint": None},
            {"shadow": ""},
            {"observed": False},
        ],
        ids=str,
    )
    def test_that_is_anything_else_is_no_decision(self, change: dict[str, Any]) -> None:
        with pytest.raises(PolicyUnavailable):
            parse_decision(answer({**OBSERVED, **change}), request(grants=(GRANT,)))


class TestAnAllowByGrant:
    def test_names_the_grant_and_ends_with_it(self) -> None:
        decision = parse_decision(answer(GRANTED), request(grants=(GRANT,)))
        assert (decision.permission, decision.grant, decision.expires_at) == (None, "g-1", NOW + 900)

    def test_that_was_not_sent_is_no_decision(self) -> None:
        with pytest.raises(PolicyUnavailable, match="grant"):
            parse_decision(answer(GRANTED), request())

    @pytest.mark.parametrize(
        "other",
        [
            replace(GRANT, caller="web"),
            replace(GRANT, service="billing"),
            replace(GRANT, endpoints=("refund",)),
            replace(GRANT, endpoints=()),
        ],
    )
    def test_that_is_for_something_else_is_no_decision(self, other: Grant) -> None:
        with pytest.raises(PolicyUnavailable, match="grant"):
            parse_decision(answer(GRANTED), request(grants=(other,)))

    @pytest.mark.parametrize("expires_at", [None, NOW + 901, NOW, NOW - 1])
    def test_that_does_not_end_when_it_does_is_no_decision(self, expires_at: int | None) -> None:
        with pytest.raises(PolicyUnavailable):
            parse_decision(answer({**GRANTED, "expires_at": expires_at}), request(grants=(GRANT,)))

    def test_and_by_a_permission_too_is_no_decision(self) -> None:
        with pytest.raises(PolicyUnavailable, match="permission"):
            parse_decision(answer({**GRANTED, "permission": "p"}), request(grants=(GRANT,)))
