"""What a minted credential says, how long it lives, and when there is none."""

from __future__ import annotations

import hashlib
import re

import jwt
import pytest

from ostiary.clock import ManualClock
from ostiary.credential import Minter, SigningAlgorithm, SigningKey
from ostiary.errors import CredentialUnavailable
from ostiary.models import AccessRequest, Decision
from support.credential import ISSUER, NOW, Catalog, Facts, access_request, allow, documents, encoded, swapper, token_of

KEY = SigningKey.generate("EdDSA")


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256"])
async def test_the_whole_token(algorithm: SigningAlgorithm) -> None:
    key = SigningKey.generate(algorithm)
    credential = await swapper(key).swap(access_request(), allow())
    header, claims = documents(token_of(credential))
    assert header == {"typ": "at+jwt", "alg": algorithm, "kid": key.id}
    assert claims == {
        "iss": ISSUER,
        "aud": "orders",
        "sub": "web",
        "client_id": "web",
        "sub_id": {"format": "iss_sub", "iss": "https://idp.test", "sub": "web"},
        "authorization_details": [
            {
                "type": "ostiary-endpoint",
                "service": "orders",
                "endpoint": "get-order",
                "method": "GET",
                "path": "/orders/{order_id}",
                "beside": ["/orders/admin"],
            }
        ],
        "jti": credential.id,
        "iat": NOW,
        "exp": NOW + 60,
    }
    assert re.fullmatch(r"[A-Za-z0-9_-]{22}", credential.id), "128 bits"
    assert (credential.expires_at, credential.per_call, credential.remove) == (NOW + 60, False, frozenset())
    # An implementation that is not ours agrees about the signature.
    options = {"verify_exp": False, "verify_iat": False}
    public = jwt.PyJWK(key.public.document())
    assert jwt.decode(token_of(credential), public, [algorithm], audience="orders", options=options) == claims


async def test_a_template_with_nothing_beside_it_says_nothing_of_it() -> None:
    credential = await swapper(KEY).swap(access_request(path="/orders"), allow(endpoint="list-orders"))
    assert documents(token_of(credential))[1]["authorization_details"] == [
        {"type": "ostiary-endpoint", "service": "orders", "endpoint": "list-orders", "method": "GET", "path": "/orders"}
    ]


@pytest.mark.parametrize(
    ("query", "bound"), [(None, "/charges"), ("", "/charges"), ("x=1&y=%20", "/charges?x=1&y=%20")]
)
async def test_a_per_call_credential_is_bound_to_its_target(query: str | None, bound: str) -> None:
    request = access_request(service="billing", method="POST", path="/charges", query=query)
    credential = await swapper(KEY).swap(request, allow(service="billing", endpoint="charge", per_call=True))
    assert credential.per_call
    assert documents(token_of(credential))[1]["authorization_details"] == [
        {
            "type": "ostiary-endpoint",
            "service": "billing",
            "endpoint": "charge",
            "method": "POST",
            "path": "/charges",
            "single_use": True,
            "target_sha256": encoded(hashlib.sha256(bound.encode()).digest()),
        }
    ]


@pytest.mark.parametrize(
    ("service_lifetime", "profile", "token_ends", "decision_ends", "seconds"),
    [
        (60, 300, NOW + 3600, None, 60),
        (300, 60, NOW + 3600, None, 60),
        (300, 300, NOW + 20, None, 20),
        (300, 300, NOW + 3600, NOW + 7, 7),
        (300, 300, NOW + 9, NOW + 7, 7),
        (300, 300, NOW + 7, NOW + 9, 7),
        (300, 300, NOW + 1, None, 1),
    ],
    ids=["service", "profile", "token", "decision", "decision<token", "token<decision", "one second"],
)
async def test_it_outlives_nothing_that_it_stands_for(
    service_lifetime: int, profile: int, token_ends: int, decision_ends: int | None, seconds: int
) -> None:
    credential = await swapper(KEY, lifetime=service_lifetime).swap(
        access_request(token_ends=token_ends), allow(lifetime=profile, expires_at=decision_ends)
    )
    claims = documents(token_of(credential))[1]
    assert (claims["iat"], claims["exp"], credential.expires_at) == (NOW, NOW + seconds, NOW + seconds)


async def test_the_instant_is_rounded_down() -> None:
    credential = await swapper(KEY, clock=ManualClock(NOW + 0.9)).swap(access_request(), allow())
    claims = documents(token_of(credential))[1]
    assert (claims["iat"], claims["exp"]) == (NOW, NOW + 60)


@pytest.mark.parametrize(
    ("request_", "decision"),
    [
        (access_request(token_ends=NOW), allow()),
        (access_request(token_ends=NOW - 5), allow()),
        (access_request(), allow(expires_at=NOW)),
        (access_request(), allow(lifetime=0)),
        (access_request(), allow(lifetime=-1)),
    ],
    ids=["token ends now", "token ended", "grant ends now", "no lifetime", "negative lifetime"],
)
async def test_nothing_left_of_the_lifetime_is_no_credential(request_: AccessRequest, decision: Decision) -> None:
    with pytest.raises(CredentialUnavailable, match="nothing is left"):
        await swapper(KEY).swap(request_, decision)


@pytest.mark.parametrize(
    ("request_", "decision"),
    [
        (access_request(), allow(allowed=False)),
        (access_request(), allow(caller=None)),
        (access_request(), allow(endpoint=None)),
        (access_request(), allow(service=None)),
        (access_request(), allow(profile=False)),
        (access_request(), allow(service="billing", endpoint="charge")),
        (access_request(method="POST"), allow()),
        (access_request(), allow(endpoint="head-order")),
        (access_request(), allow(endpoint="unheard-of")),
    ],
    ids=["denied", "caller", "endpoint", "service", "profile", "other service", "method", "HEAD", "unknown"],
)
async def test_a_decision_that_does_not_fit_the_request_is_no_credential(
    request_: AccessRequest, decision: Decision
) -> None:
    with pytest.raises(CredentialUnavailable):
        await swapper(KEY).swap(request_, decision)


async def test_the_template_is_the_one_of_the_decisions_revision() -> None:
    catalog = Catalog()
    await swapper(KEY, catalog=catalog).swap(access_request(), allow(revision="7-ff"))
    assert catalog.revisions == ["7-ff"]


async def test_a_credential_too_large_for_a_header_is_none() -> None:
    wide = Facts("GET", "/orders/{order_id}", tuple(f"/orders/{'x' * 100}{n}" for n in range(200)))
    with pytest.raises(CredentialUnavailable, match="bytes"):
        await swapper(KEY, catalog=Catalog({("orders", "get-order"): wide})).swap(access_request(), allow())


async def test_no_two_are_the_same_and_none_is_printed() -> None:
    swaps = [await swapper(KEY).swap(access_request(), allow()) for _ in range(100)]
    assert len({credential.id for credential in swaps}) == 100
    assert all(token_of(credential).split(".")[1] not in repr(credential) for credential in swaps)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="issuer"):
        Minter(key=KEY, issuer="")
    with pytest.raises(ValueError, match="one second"):
        swapper(KEY, lifetime=0)
