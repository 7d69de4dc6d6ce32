"""The binding token of a denial: what it holds, whom it is good for, and that nothing in it can be changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import jwt
import orjson
import pytest

from ostiary.credential import SigningAlgorithm, SigningKey
from ostiary.errors import AccessError, PolicyUnavailable, denial
from ostiary.grants.denials import LIFETIME, Denial, DenialSeal, Invitations
from ostiary.grants.own_host import OwnHost
from ostiary.grants.refusals import DenialExpired, DenialUnbound, GrantRefused
from ostiary.problem import Problems
from support.audit import decision, exchange, request
from support.grants import IDP

NOW = 1_790_000_000
NAME = "https://ostiary.test"
KEY = bytes(range(32))
DENIAL = Denial(
    id="0123456789abcdef0123456789abcdef",
    issuer=IDP,
    subject="ann",
    caller="support",
    service="billing",
    endpoint="refund",
    method="POST",
    revision="7-0123456789abcdef",
    denied_at=NOW,
    expires_at=NOW + LIFETIME,
)
SEAL = DenialSeal(KEY, name=NAME)
TOKEN = SEAL.seal(DENIAL)


def test_what_is_opened_is_what_was_sealed() -> None:
    assert SEAL.open(TOKEN, owner=DENIAL.owner) == DENIAL


def test_a_denial_can_be_asked_about_for_ten_minutes_and_under_the_bundle_that_denied() -> None:
    DENIAL.expect(now=NOW + LIFETIME - 1, revision=DENIAL.revision)
    with pytest.raises(DenialExpired, match="its time is up"):
        DENIAL.expect(now=NOW + LIFETIME, revision=DENIAL.revision)
    with pytest.raises(DenialExpired, match="the policy has changed"):
        DENIAL.expect(now=NOW, revision="8-0123456789abcdef")


def test_it_is_a_jws_with_the_claims_that_the_profile_recommends() -> None:
    claims = jwt.decode(TOKEN, KEY, algorithms=["HS256"], audience=NAME, options={"verify_exp": False})
    assert jwt.get_unverified_header(TOKEN) == {"alg": "HS256", "typ": "ostiary-denial+jwt"}
    assert claims == {
        "iss": NAME,
        "aud": NAME,
        "iat": NOW,
        "exp": NOW + LIFETIME,
        "evaluation_id": DENIAL.id,
        "subject": {"type": "workload", "id": "ann", "properties": {"issuer": IDP}},
        "resource": {"type": "service", "id": "billing", "properties": {"endpoint": "refund"}},
        "action": {"name": "POST"},
        "caller": "support",
        "revision": "7-0123456789abcdef",
    }


@pytest.mark.parametrize("owner", [(IDP, "eve"), ("https://other.test", "ann"), ("", "")])
def test_it_is_good_for_nobody_else(owner: tuple[str, str]) -> None:
    with pytest.raises(DenialUnbound) as refused:
        SEAL.open(TOKEN, owner=owner)
    assert refused.value.detail == ""


def test_not_one_character_can_be_changed() -> None:
    for place, character in enumerate(TOKEN):
        changed = TOKEN[:place] + ("A" if character != "A" else "B") + TOKEN[place + 1 :]
        with pytest.raises(DenialUnbound):
            SEAL.open(changed, owner=DENIAL.owner)


def unsigned(header: dict[str, str]) -> str:
    return jwt.encode(jwt.decode(TOKEN, options={"verify_signature": False}), None, algorithm="none", headers=header)


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "é.é.é",
        TOKEN + "=",
        TOKEN[:-1],
        f"{TOKEN}.",
        TOKEN.rpartition(".")[0],
        TOKEN.rpartition(".")[0] + ".",
        unsigned({"typ": "ostiary-denial+jwt"}),
        jwt.encode({"evaluation_id": "x"}, KEY * 2, algorithm="HS512"),
        "A" * 100_000,
    ],
)
def test_what_is_no_token_of_ours_opens_nothing(token: str) -> None:
    with pytest.raises(DenialUnbound):
        SEAL.open(token, owner=DENIAL.owner)


def test_another_proxy_s_is_not_ours() -> None:
    for other in (DenialSeal(KEY[::-1], name=NAME), DenialSeal(KEY, name="https://other.test")):
        with pytest.raises(GrantRefused) as refused:
            SEAL.open(other.seal(DENIAL), owner=DENIAL.owner)
        assert refused.value.reason == "denial-unbound"


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
def test_who_shares_the_signing_key_shares_the_key_of_denials_and_it_is_another_key(
    algorithm: SigningAlgorithm,
) -> None:
    """So replicas open what one of them sealed, and a start what was sealed before it."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = SigningKey.generate(algorithm)
    again = SigningKey.of(load_pem_private_key(key.pem(), password=None))
    one, other = DenialSeal(key.derive(b"a"), name=NAME), DenialSeal(again.derive(b"a"), name=NAME)
    assert other.open(one.seal(DENIAL), owner=DENIAL.owner) == DENIAL
    derived = {key.derive(b"a"), key.derive(b"b"), SigningKey.generate(algorithm).derive(b"a")}
    assert len(derived) == 3
    assert {len(each) for each in derived} == {32}
    assert all(each not in key.pem() for each in derived)


def test_only_who_is_eligible_is_told_anything() -> None:
    denied_exchange, asked = exchange(), request()
    offers = Invitations(seal=SEAL, own_host=OwnHost("ostiary.test", url=NAME))
    requestable = {"caller": "support", "service": "billing", "endpoint": "refund", "approvers": [], "max_duration": 9}
    denied = replace(decision(), allow=False, requestable=None)
    assert offers.offered(denied_exchange, asked, denied) is None
    assert offers.offered(denied_exchange, asked, replace(denied, allow=True, requestable=requestable)) is None
    offered = offers.offered(denied_exchange, asked, replace(denied, requestable=requestable))
    assert offered is not None
    assert offered["requestable"] == requestable
    token = offered["access_request"]["binding_token"]
    opened = SEAL.open(token, owner=asked.identity.owner)
    assert (opened.id, opened.method, opened.expires_at) == (denied_exchange.id, asked.method, asked.time + LIFETIME)
    assert offered["access_request"]["endpoint"] == f"{NAME}/access/tasks"


@pytest.mark.parametrize(
    ("detail", "refusal", "told"),
    [
        ("full", denial(["grant-required"]), True),
        ("full", denial(["grant-expired"]), True),
        ("full", PolicyUnavailable(), False),
        ("minimal", denial(["grant-required"]), False),
    ],
)
def test_a_denial_alone_says_how_to_get_in_and_not_where_reasons_stay_in_the_audit(
    detail: Literal["full", "minimal"], refusal: AccessError, told: bool
) -> None:
    body = orjson.loads(Problems(detail=detail).body(refusal, "0" * 32, {"access_request": {"endpoint": NAME}}))
    assert ("access_request" in body) is told


@pytest.mark.parametrize(
    ("host", "scheme", "origin"),
    [
        (b"billing.test", "https", "https://ostiary.test"),
        (b"billing.test:8443", "https", "https://ostiary.test:8443"),
        (b"[::1]:8080", "http", "http://ostiary.test:8080"),
        (b"[::1]", "http", "http://ostiary.test"),
    ],
)
def test_the_own_host_is_where_clients_reach_it(host: bytes, scheme: str, origin: str) -> None:
    asked = exchange(headers=[(b"host", host)])
    asked.scope["scheme"] = scheme
    assert OwnHost("ostiary.test").origin(asked) == origin
    assert OwnHost("ostiary.test", url="https://public.test").origin(asked) == "https://public.test"
