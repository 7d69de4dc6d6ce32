"""What a service accepts, and everything it does not: one test for each claim, member and part of the request."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.credential import SigningKey, public_jwks
from ostiary.verify import (
    Claims,
    CredentialInvalid,
    CredentialMissing,
    KeySet,
    MemoryReplayStore,
    Refused,
    VerificationUnavailable,
    Verifier,
    verify_token,
)
from support.credential import ISSUER, NOW, access_request, allow, encoded, signed, swapper, token_of

KEY = SigningKey.generate("EdDSA")
EC_KEY = SigningKey.generate("ES256")
KEYS = KeySet.parse(public_jwks([KEY.public, EC_KEY.public]))
HEADER = {"typ": "at+jwt", "alg": "EdDSA", "kid": KEY.id}
DETAIL: dict[str, Any] = {
    "type": "ostiary-endpoint",
    "service": "orders",
    "endpoint": "get-order",
    "method": "GET",
    "path": "/orders/{order_id}",
    "beside": ["/orders/admin"],
}
PAYLOAD: dict[str, Any] = {
    "iss": ISSUER,
    "aud": "orders",
    "sub": "ann",
    "client_id": "support",
    "sub_id": {"format": "iss_sub", "iss": "https://idp.test", "sub": "ann"},
    "authorization_details": [DETAIL],
    "jti": "token-1",
    "iat": NOW,
    "exp": NOW + 60,
}
CLAIMS = Claims(
    issuer=ISSUER,
    subject="ann",
    subject_issuer="https://idp.test",
    caller="support",
    service="orders",
    endpoint="get-order",
    method="GET",
    path="/orders/{order_id}",
    beside=("/orders/admin",),
    jti="token-1",
    issued_at=NOW,
    expires_at=NOW + 60,
    target_sha256=None,
)


def per_call(target: str) -> dict[str, Any]:
    return {"single_use": True, "target_sha256": encoded(hashlib.sha256(target.encode()).digest())}


def payload(**changes: Any) -> dict[str, Any]:
    """The good payload with these members changed; None takes one away."""
    return {name: value for name, value in (PAYLOAD | changes).items() if value is not None}


def detail(**changes: Any) -> dict[str, Any]:
    changed = {name: value for name, value in (DETAIL | changes).items() if value is not None}
    return payload(authorization_details=[changed])


def token(claims: object = PAYLOAD, header: object = HEADER, key: SigningKey = KEY) -> str:
    return signed(key, header, claims)


def verifier(clock: ManualClock | None = None, **settings: Any) -> Verifier:
    clock = clock or ManualClock(NOW)
    return Verifier(issuer=ISSUER, audience="orders", keys=KEYS, clock=clock, **{"leeway": 0, **settings})


async def verify(
    compact: str, *, method: str = "GET", path: bytes = b"/orders/42", query: bytes = b"", now: float = NOW
) -> Claims:
    return await verifier(ManualClock(now)).verify(method, path, query, f"Bearer {compact}")


async def test_the_proxys_own_credential_is_accepted() -> None:
    for key in (KEY, EC_KEY):
        credential = await swapper(key).swap(access_request(), allow())
        claims = await verify(token_of(credential))
        assert claims == Claims(
            issuer=ISSUER,
            subject="web",
            subject_issuer="https://idp.test",
            caller="web",
            service="orders",
            endpoint="get-order",
            method="GET",
            path="/orders/{order_id}",
            beside=("/orders/admin",),
            jti=credential.id,
            issued_at=NOW,
            expires_at=NOW + 60,
            target_sha256=None,
        )
        assert not claims.single_use


async def test_the_token_that_the_other_tests_change_is_accepted() -> None:
    assert await verify(token()) == CLAIMS
    assert await verifier().verify("GET", b"/orders/42", b"a=b", b"bearer " + token().encode()) == CLAIMS


@pytest.mark.parametrize(
    ("claims", "detail_"),
    [
        (payload(iss="https://ostiary.localhost/"), "another issuer"),
        (payload(iss=None), "the claims are not those of a credential of the proxy"),
        (payload(iss=[ISSUER]), "iss is not a text"),
        (payload(aud="billing") | {"authorization_details": [DETAIL | {"service": "billing"}]}, "another audience"),
        (payload(aud=["orders"]), "aud is not a text"),
        (payload(aud="Orders") | {"authorization_details": [DETAIL | {"service": "Orders"}]}, "another audience"),
        (payload(sub=None), "the claims are not those of a credential of the proxy"),
        (payload(sub=""), "sub is not a text"),
        (payload(sub=7), "sub is not a text"),
        (payload(sub="bob"), "the token contradicts itself"),
        (payload(sub_id=None), "the claims are not those of a credential of the proxy"),
        (payload(sub_id={"format": "opaque", "id": "ann"}), "the sub_id is not an issuer and subject"),
        (payload(sub_id={"format": "account", "iss": "i", "sub": "ann"}), "the sub_id is not an issuer and subject"),
        (payload(sub_id={"format": "iss_sub", "iss": "", "sub": "ann"}), "iss is not a text"),
        (payload(client_id=""), "client_id is not a text"),
        (payload(jti=""), "jti is not a text"),
        (payload(jti=None), "the claims are not those of a credential of the proxy"),
        (payload(exp=NOW), "expired"),
        (payload(exp=NOW - 1, iat=NOW - 60), "expired"),
        (payload(exp=str(NOW + 60)), "exp is not a date"),
        (payload(exp=NOW + 60.5), "exp is not a date"),
        (payload(exp=True), "exp is not a date"),
        (payload(exp=2**53), "exp is not a date"),
        (payload(exp=10**30), "payload: a number is out of range"),
        (payload(exp=-1), "exp is not a date"),
        (payload(exp=None), "the claims are not those of a credential of the proxy"),
        (payload(exp=NOW + 3601), "its lifetime is not a credential's"),
        (payload(iat=NOW + 1), "issued in the future"),
        (payload(iat=None), "the claims are not those of a credential of the proxy"),
        (payload(nbf=NOW), "the claims are not those of a credential of the proxy"),
        (payload(cnf={"jkt": "x"}), "the claims are not those of a credential of the proxy"),
        (payload(authorization_details=None), "the claims are not those of a credential of the proxy"),
        (payload(authorization_details=[]), "not exactly one authorization detail"),
        (payload(authorization_details=[DETAIL, DETAIL]), "not exactly one authorization detail"),
        (payload(authorization_details=DETAIL), "not exactly one authorization detail"),
        (payload(authorization_details=["orders"]), "the authorization detail is of another type"),
        (detail(type=None), "the authorization detail is of another type"),
        (detail(type="ostiary-service"), "the authorization detail is of another type"),
        (detail(service="billing"), "the token contradicts itself"),
        (detail(service=None), "the authorization detail has not the members of its type"),
        (detail(endpoint=""), "endpoint is not a text"),
        (detail(endpoint=None), "the authorization detail has not the members of its type"),
        (detail(method=None), "the authorization detail has not the members of its type"),
        (detail(method=["GET"]), "method is not a text"),
        (detail(path=None), "the authorization detail has not the members of its type"),
        (detail(beside="/orders/admin"), "beside is not a list of texts"),
        (detail(beside=[1]), "beside is not a list of texts"),
        (detail(source="10.0.0.0/8"), "the authorization detail has not the members of its type"),
        (detail(single_use=True), "the authorization detail has not the members of its type"),
        (detail(target_sha256="x"), "the authorization detail has not the members of its type"),
        (detail(**per_call("/orders/42") | {"single_use": False}), "bound to one target and not to single use"),
        (detail(**per_call("/orders/42") | {"single_use": "true"}), "bound to one target and not to single use"),
        (detail(path="orders"), "a path template that this version does not know"),
        (detail(path="/orders/{order_id:regex}"), "a path template that this version does not know"),
        (detail(beside=["/orders/{id:int}"]), "path templates that contradict one another"),
        ([PAYLOAD], "payload: not a JSON object"),
        (b"{}x", "payload: not JSON"),
        (b"\xff{}", "payload: not JSON"),
        (b'{"a":NaN}', "payload: not JSON"),
        (b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b"}", "payload: nested too deep"),
        (json.dumps(PAYLOAD).replace("{", '{"sub": "root", ', 1).encode(), "payload: a member occurs twice"),
        (
            json.dumps(PAYLOAD).replace('"type"', '"method": "PUT", "type"', 1).encode(),
            "payload: a member occurs twice",
        ),
    ],
)
async def test_no_other_claim_is_accepted(claims: Any, detail_: str) -> None:
    with pytest.raises(CredentialInvalid) as refusal:
        await verify(token(claims))
    assert refusal.value.detail == detail_


@pytest.mark.parametrize(
    ("header", "detail_"),
    [
        (HEADER | {"typ": "JWT"}, "the header is not that of a credential of the proxy"),
        (HEADER | {"typ": "application/at+jwt"}, "the header is not that of a credential of the proxy"),
        (HEADER | {"typ": "AT+JWT"}, "the header is not that of a credential of the proxy"),
        ({"alg": "EdDSA", "kid": KEY.id}, "the header is not that of a credential of the proxy"),
        ({"alg": "EdDSA", "typ": "at+jwt"}, "the header is not that of a credential of the proxy"),
        ({"typ": "at+jwt", "kid": KEY.id}, "the header is not that of a credential of the proxy"),
        (HEADER | {"crit": ["b64"], "b64": False}, "the header is not that of a credential of the proxy"),
        (HEADER | {"jku": "http://127.0.0.1:1/"}, "the header is not that of a credential of the proxy"),
        (HEADER | {"jwk": KEY.public.document()}, "the header is not that of a credential of the proxy"),
        (HEADER | {"zip": "DEF"}, "the header is not that of a credential of the proxy"),
        (HEADER | {"kid": "../keys/1"}, "the header's kid or alg is not one"),
        (HEADER | {"kid": 1}, "the header's kid or alg is not one"),
        (HEADER | {"kid": ["x"]}, "the header's kid or alg is not one"),
        (HEADER | {"alg": None}, "the header's kid or alg is not one"),
        (HEADER | {"kid": "unknown"}, "no key has the id that the token names"),
        (HEADER | {"alg": "ES256"}, "the algorithm is not the key's"),
        (HEADER | {"alg": "none"}, "the algorithm is not the key's"),
        (HEADER | {"alg": "HS256"}, "the algorithm is not the key's"),
        (HEADER | {"alg": "Ed25519"}, "the algorithm is not the key's"),
        (HEADER | {"alg": "ES256", "kid": EC_KEY.id}, "the signature is not the key's"),
        ([HEADER], "header: not a JSON object"),
        (b"\x00", "header: not JSON"),
        (json.dumps(HEADER).replace("{", '{"alg": "none", ', 1).encode(), "header: a member occurs twice"),
    ],
)
async def test_no_other_header_is_accepted(header: Any, detail_: str) -> None:
    with pytest.raises(CredentialInvalid) as refusal:
        await verify(token(header=header))
    assert refusal.value.detail == detail_


async def test_another_key_with_the_same_id_signs_nothing() -> None:
    with pytest.raises(CredentialInvalid, match="the signature is not the key's"):
        await verify(token(key=SigningKey.generate("EdDSA")))


async def test_a_public_key_is_no_hmac_secret() -> None:
    """CVE-2022-29217: HS256 keyed with what everybody can fetch."""
    public = json.dumps(KEY.public.document()).encode()
    message = token(header=HEADER | {"alg": "HS256"}).rpartition(".")[0]
    forged = f"{message}.{encoded(hmac.digest(public, message.encode(), 'sha256'))}"
    with pytest.raises(CredentialInvalid, match="the algorithm is not the key's"):
        await verify(forged)


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_a_token_that_was_changed_is_refused(part: int) -> None:
    parts = token().split(".")
    parts[part] = parts[part][:-4] + ("AAAA" if not parts[part].endswith("AAAA") else "BBBB")
    with pytest.raises(CredentialInvalid):
        await verify(".".join(parts))


@pytest.mark.parametrize(
    "change",
    [
        lambda compact: compact + "=",
        lambda compact: compact + "\n",
        lambda compact: " " + compact,
        lambda compact: compact + " x",
        lambda compact: compact + ".x",
        lambda compact: compact.rpartition(".")[0],
        lambda compact: compact.rpartition(".")[0] + ".",
        lambda compact: compact.rpartition(".")[0] + ".A",
        lambda compact: compact + "A" * 20_000,
        lambda _: "",
        lambda _: "é",
    ],
)
async def test_only_a_compact_jws_is_a_token(change: Callable[[str], str]) -> None:
    with pytest.raises(CredentialInvalid):
        await verify(change(token()))


@pytest.mark.parametrize("authorization", [None, b"", "Basic dXNlcjpwYXNz", b"Bearer", "DPoP x.y.z", "Bearer\tx.y.z"])
async def test_without_a_bearer_token_there_is_none(authorization: bytes | str | None) -> None:
    expected = CredentialInvalid if authorization == b"Bearer" else CredentialMissing
    with pytest.raises(expected):
        await verifier().verify("GET", b"/orders/42", b"", authorization)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("HEAD", b"/orders/42"),
        ("POST", b"/orders/42"),
        ("get", b"/orders/42"),
        ("GET", b"/orders"),
        ("GET", b"/orders/"),
        ("GET", b"/orders/42/"),
        ("GET", b"/orders/42/invoices"),
        ("GET", b"/charges/42"),
        ("GET", b"/orders/admin"),
        ("GET", b"/orders/Admin"),
        ("GET", b"/orders/%61dmin"),
        ("GET", b"/orders/x/../admin"),
        ("GET", b"/orders//42"),
        ("GET", b"//orders/42"),
        ("GET", b"/orders/4%2f2"),
        ("GET", b"/orders/42;x"),
        ("GET", b"/orders/42?x"),
        ("GET", b"orders/42"),
        ("GET", b""),
        ("GET", b"*"),
        ("GET", b"http://orders/orders/42"),
    ],
)
async def test_no_other_request_is_accepted(method: str, path: bytes) -> None:
    with pytest.raises(CredentialInvalid):
        await verify(token(), method=method, path=path)


async def test_the_wildcard_does_not_reach_what_lies_beside_it() -> None:
    claims = detail(path="/orders/{order_id}/invoices/**", beside=["/orders/admin", "/orders/{order_id}/invoices/{n}"])
    assert await verify(token(claims), path=b"/orders/42/invoices/7/pdf")
    for path in (b"/orders/42/invoices/7", b"/orders/admin/invoices/7/pdf", b"/orders/42/invoices"):
        with pytest.raises(CredentialInvalid):
            await verify(token(claims), path=path)


async def test_a_template_beside_may_be_the_same_with_another_method() -> None:
    for method in ("GET", "POST"):
        claims = detail(method=method, beside=["/orders/{order_id}", "/orders/{id}"])
        with pytest.raises(CredentialInvalid, match="contradict"):
            await verify(token(claims), method=method)
        assert await verify(token(detail(method=method, beside=["/orders/{id}"])), method=method)


async def test_the_leeway_is_for_both_ends() -> None:
    lenient = verifier(ManualClock(NOW + 64.9), leeway=5)
    assert await lenient.verify("GET", b"/orders/42", b"", f"Bearer {token()}") == CLAIMS
    early = verifier(ManualClock(NOW - 5), leeway=5)
    assert await early.verify("GET", b"/orders/42", b"", f"Bearer {token()}") == CLAIMS
    for now in (NOW + 65, NOW - 5.1):
        with pytest.raises(CredentialInvalid):
            await verifier(ManualClock(now), leeway=5).verify("GET", b"/orders/42", b"", f"Bearer {token()}")


async def test_a_per_call_credential_works_once_on_its_target() -> None:
    request = access_request(path="/orders/42", query="page=2&x=%20")
    credential = await swapper(KEY).swap(request, allow(per_call=True))
    authorization = f"Bearer {token_of(credential)}"
    service = verifier()
    wrong = [(b"/orders/42", b"page=3&x=%20"), (b"/orders/42", b""), (b"/orders/42", b"page=2&x=+"),
             (b"/orders/43", b"page=2&x=%20"), (b"/orders/4%32", b"page=2&x=%20")]  # fmt: skip
    for path, query in wrong:
        with pytest.raises(CredentialInvalid, match="for another target"):
            await service.verify("GET", path, query, authorization)
    claims = await service.verify("GET", b"/orders/42", b"page=2&x=%20", authorization)
    assert claims.single_use, "the attempts on other targets have not used it up"
    for _ in range(2):
        with pytest.raises(CredentialInvalid, match="used before"):
            await service.verify("GET", b"/orders/42", b"page=2&x=%20", authorization)


async def test_a_used_credential_is_remembered_through_the_leeway() -> None:
    clock = ManualClock(NOW)
    service = verifier(clock, leeway=5)
    compact = token(detail(**per_call("/orders/42")))
    assert await service.verify("GET", b"/orders/42", b"", f"Bearer {compact}")
    clock.advance(64.9)
    with pytest.raises(CredentialInvalid, match="used before"):
        await service.verify("GET", b"/orders/42", b"", f"Bearer {compact}")


async def test_a_reused_credential_may_come_often() -> None:
    service = verifier()
    for path in (b"/orders/42", b"/orders/42", b"/orders/43"):
        assert await service.verify("GET", path, b"", f"Bearer {token()}") == CLAIMS


async def test_processes_that_share_a_store_share_single_use() -> None:
    store = MemoryReplayStore(clock=ManualClock(NOW))
    one, another = verifier(replays=store), verifier(replays=store)
    compact = token(detail(**per_call("/orders/42")))
    assert await one.verify("GET", b"/orders/42", b"", f"Bearer {compact}")
    with pytest.raises(CredentialInvalid, match="used before"):
        await another.verify("GET", b"/orders/42", b"", f"Bearer {compact}")


def test_a_full_replay_store_refuses_rather_than_forgets() -> None:
    clock = ManualClock(NOW)
    store = MemoryReplayStore(capacity=2, clock=clock)
    assert store.first_use("a", NOW + 10)
    assert store.first_use("b", NOW + 5)
    with pytest.raises(VerificationUnavailable):
        store.first_use("c", NOW + 10)
    clock.advance(5)
    assert store.first_use("c", NOW + 10)
    assert not store.first_use("a", NOW + 10)
    assert len(store) == 2
    clock.advance(5)
    assert store.first_use("d", NOW + 20)
    assert len(store) == 1
    with pytest.raises(ValueError, match="at least one"):
        MemoryReplayStore(capacity=0)


def sync(compact: str | None, path: bytes = b"/orders/42", **more: Any) -> Claims:
    return verify_token(
        None if compact is None else f"Bearer {compact}",
        method="GET",
        raw_path=path,
        query=b"",
        keys=KEYS,
        issuer=ISSUER,
        audience="orders",
        clock=ManualClock(NOW),
        **more,
    )


def test_the_function_for_synchronous_code_checks_the_same() -> None:
    assert sync(token()) == CLAIMS
    with pytest.raises(CredentialMissing):
        sync(None)
    for compact, path in (
        (token(), b"/orders/admin"),
        (token(payload(exp=NOW - 10, iat=NOW - 70)), b"/orders/42"),
        (token(header=HEADER | {"kid": "unknown"}), b"/orders/42"),
    ):
        with pytest.raises(CredentialInvalid):
            sync(compact, path)


def test_the_function_refuses_single_use_credentials_that_nothing_remembers() -> None:
    compact = token(detail(**per_call("/orders/42")))
    with pytest.raises(CredentialInvalid, match="nothing remembers"):
        sync(compact)
    store = MemoryReplayStore(clock=ManualClock(NOW))
    assert sync(compact, first_use=store.first_use).single_use
    with pytest.raises(CredentialInvalid):
        sync(compact, first_use=store.first_use)


@pytest.mark.parametrize(
    "settings",
    [
        {"issuer": ""},
        {"audience": ""},
        {"leeway": -1},
        {"leeway": 31},
        {"keys": None},
        {"jwks_url": "https://ostiary.test/jwks"},
        {"host_header": "ostiary.localhost"},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"verifier|leeway"):
        Verifier(**{"issuer": ISSUER, "audience": "orders", "keys": KEYS, **settings})


def test_no_refusal_and_no_record_quotes_the_token() -> None:
    compact = token(payload(iss="http://evil.test"))
    with pytest.raises(Refused) as refusal:
        sync(compact)
    assert str(refusal.value) == "another issuer"
    assert refusal.value.__cause__ is None


async def test_without_keys_nothing_is_accepted() -> None:
    empty = Verifier(issuer=ISSUER, audience="orders", keys=KeySet({}), clock=ManualClock(NOW))
    with pytest.raises(CredentialInvalid):
        await empty.verify("GET", b"/orders/42", b"", f"Bearer {token()}")
