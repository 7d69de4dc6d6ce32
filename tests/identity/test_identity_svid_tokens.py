"""JWT-SVIDs: the tokens of a trust domain's workloads, by the rules of their own specification."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid
from ostiary.identity import Discovery, IssuerSettings, JwksUrl, KeyFile, ListenerAuthenticator, build_authenticator
from ostiary.identity.settings import KeyOrigin
from ostiary.models import Identity
from support.identity import ABSENT, AUDIENCE, ISSUER, Issuer, SigningKey, bearing, jwks, settings

DOMAIN = "spiffe://shop.test"
WEB = "spiffe://shop.test/web"
SVID_KEY = SigningKey(id="s1", algorithm="ES256", material="trust domain")
X509_KEY = SigningKey(id="x1", algorithm="ES256", material="authority")
OTHER_KEY = SigningKey(id="o1", algorithm="ES256", material="other domain")


def bundle(*keys: dict[str, Any]) -> bytes:
    """A trust domain's bundle, as SPIRE publishes it."""
    return json.dumps({"keys": keys, "spiffe_sequence": 1, "spiffe_refresh_hint": 300}).encode()


def svid_jwk(key: SigningKey = SVID_KEY, **overrides: Any) -> dict[str, Any]:
    return key.jwk(use="jwt-svid", alg=ABSENT, **overrides)


def file(directory: Path, name: str, document: bytes) -> KeyFile:
    path = directory / name
    path.write_bytes(document)
    return KeyFile(path=path)


def domain(keys: KeyOrigin, **overrides: Any) -> IssuerSettings:
    given: dict[str, Any] = {
        "issuer": DOMAIN,
        "use": "jwt-svid",
        "audience": AUDIENCE,
        "algorithms": ("ES256",),
        "keys": keys,
        "claims": ("groups",),
    }
    return IssuerSettings(**{**given, **overrides})


@pytest.fixture
def svids(clock: ManualClock) -> Issuer:
    return Issuer(clock=clock, key=SVID_KEY)


@pytest.fixture
async def both(tmp_path: Path, clock: ManualClock) -> AsyncIterator[ListenerAuthenticator]:
    """Believes the issuer of plain tokens, and two trust domains."""
    x509 = X509_KEY.jwk(use="x509-svid", alg=ABSENT)
    built = build_authenticator(
        [
            settings(file(tmp_path, "plain", jwks(SigningKey()))),
            domain(file(tmp_path, "shop", bundle(x509, svid_jwk()))),
            domain(file(tmp_path, "other", bundle(svid_jwk(OTHER_KEY))), issuer="spiffe://other.test"),
        ],
        clock=clock,
        cache_capacity=0,
    )
    await built.start()
    yield built
    await built.close()


def svid(issuer: Issuer, *, header: dict[str, Any] | None = None, **claims: Any) -> str:
    given: dict[str, Any] = {"iss": ABSENT, "sub": WEB, "jti": ABSENT, **claims}
    return issuer.token(header=header, claims=given)


async def refusal(authenticator: ListenerAuthenticator, token: str) -> str:
    with pytest.raises(IdentityInvalid) as refused:
        await authenticator.identify(bearing(token))
    return refused.value.detail


async def test_a_jwt_svid_is_its_workload_of_its_trust_domain(both: ListenerAuthenticator, svids: Issuer) -> None:
    assert await both.identify(bearing(svid(svids, groups=["a"]))) == Identity(
        issuer=DOMAIN,
        subject=WEB,
        method="jwt-svid",
        expires_at=int(svids.clock.now()) + 300,
        claims={"groups": ["a"]},
        leeway=5,
    )


@pytest.mark.parametrize("typ", [ABSENT, "JWT", "JOSE"])
async def test_the_types_of_the_specification_are_taken(both: ListenerAuthenticator, svids: Issuer, typ: Any) -> None:
    assert (await both.identify(bearing(svid(svids, header={"typ": typ})))).subject == WEB


@pytest.mark.parametrize("typ", ["at+jwt", "jwt", "jose", "application/jwt", "dpop+jwt", "", None, 1])
async def test_no_other_type_is_taken(both: ListenerAuthenticator, svids: Issuer, typ: Any) -> None:
    assert await refusal(both, svid(svids, header={"typ": typ})) == "header: typ"


@pytest.mark.parametrize("name", ["cty", "x5t", "iss", "nonce", "epk", "any"])
async def test_no_other_member_stands_in_its_header(both: ListenerAuthenticator, svids: Issuer, name: str) -> None:
    assert await refusal(both, svid(svids, header={name: "a"})) == "header: a member that a JWT-SVID has not"


@pytest.mark.parametrize("iss", [ABSENT, "https://spire.shop.test", "spiffe://shop.test", 7, None])
async def test_its_issuer_says_nothing(both: ListenerAuthenticator, svids: Issuer, iss: Any) -> None:
    identity = await both.identify(bearing(svid(svids, iss=iss)))
    assert (identity.issuer, identity.method) == (DOMAIN, "jwt-svid")


async def test_a_token_of_a_plain_issuer_proves_no_spiffe_id(both: ListenerAuthenticator, clock: ManualClock) -> None:
    """Its subject may look like one: the method of proof is `jwt`, which no `spiffe` caller ever matches."""
    identity = await both.identify(bearing(Issuer(clock=clock).token(claims={"sub": WEB})))
    assert (identity.issuer, identity.subject, identity.method) == (ISSUER, WEB, "jwt")


async def test_the_keys_of_a_trust_domain_sign_no_plain_token(both: ListenerAuthenticator, svids: Issuer) -> None:
    assert await refusal(both, svids.token()) == "header: alg"
    assert await refusal(both, svids.token(claims={"sub": WEB})) == "header: alg"


async def test_the_keys_of_a_plain_issuer_sign_no_svid(both: ListenerAuthenticator, clock: ManualClock) -> None:
    plain = Issuer(clock=clock, key=SigningKey(id="s1", algorithm="ES256", material="issuer"))
    assert await refusal(both, svid(plain)) == "signature"


async def test_one_trust_domain_s_keys_sign_nothing_of_another_s(
    both: ListenerAuthenticator, clock: ManualClock
) -> None:
    other = Issuer(clock=clock, key=OTHER_KEY)
    assert await refusal(both, svid(other)) == "key: unknown kid"
    disguised = Issuer(clock=clock, key=replace(OTHER_KEY, id="s1"))
    assert await refusal(both, svid(disguised)) == "signature"
    assert (await both.identify(bearing(svid(other, sub="spiffe://other.test/web")))).issuer == "spiffe://other.test"


async def test_the_keys_of_certificates_sign_no_token(both: ListenerAuthenticator, clock: ManualClock) -> None:
    assert await refusal(both, svid(Issuer(clock=clock, key=X509_KEY))) == "key: unknown kid"


@pytest.mark.parametrize(
    "sub",
    [
        "web",
        "spiffe://evil.test/web",
        "spiffe://shop.test.evil.test/web",
        "spiffe://shop.test",
        "spiffe://shop.test/",
        "spiffe://shop.test/a/../b",
        "spiffe://shop.test//web",
        "SPIFFE://shop.test/web",
        "spiffe://Shop.test/web",
        "spiffe://shop.test/web ",
        "",
        None,
        ABSENT,
        [WEB],
    ],
)
async def test_its_subject_is_a_workload_of_the_trust_domain(
    both: ListenerAuthenticator, svids: Issuer, sub: Any
) -> None:
    assert await refusal(both, svid(svids, sub=sub)) == "claim: iss"


@pytest.mark.parametrize("aud", [ABSENT, None, "", [], "other", ["other"], [AUDIENCE, "other"], {"aud": AUDIENCE}])
async def test_its_audience_is_this_proxy_alone(both: ListenerAuthenticator, svids: Issuer, aud: Any) -> None:
    assert await refusal(both, svid(svids, aud=aud)) == "claim: aud"


async def test_it_ends(both: ListenerAuthenticator, svids: Issuer, clock: ManualClock) -> None:
    token = svid(svids)
    clock.advance(306)
    assert await refusal(both, token) == "claim: exp, expired"
    assert await refusal(both, svid(svids, exp=ABSENT)) == "claim: exp"


async def test_without_the_instant_of_its_issue_its_lifetime_is_counted_from_now(
    both: ListenerAuthenticator, svids: Issuer, clock: ManualClock
) -> None:
    now = int(clock.now())
    assert (await both.identify(bearing(svid(svids, iat=ABSENT, exp=now + 3600)))).expires_at == now + 3600
    assert await refusal(both, svid(svids, iat=ABSENT, exp=now + 3601)) == (
        "claim: exp, the lifetime is too long or none"
    )
    late = await both.identify(bearing(svid(svids, iat=ABSENT, exp=now)))
    assert late.expires_at == now + 5, "within the leeway"


async def test_a_bundle_says_what_its_keys_are_for(tmp_path: Path, clock: ManualClock, svids: Issuer) -> None:
    for use in (ABSENT, "sig", "x509-svid", "JWT-SVID"):
        keys = file(tmp_path, "shop", bundle(SVID_KEY.jwk(use=use)))
        built = build_authenticator([domain(keys)], clock=clock)
        await built.start()
        assert await refusal(built, svid(svids)) == "key: the issuer's keys are not here"
        await built.close()


async def test_a_bundle_is_no_pem_file(tmp_path: Path, clock: ManualClock, svids: Issuer) -> None:
    built = build_authenticator([domain(file(tmp_path, "shop", SVID_KEY.pem()))], clock=clock)
    await built.start()
    assert await refusal(built, svid(svids)) == "key: the issuer's keys are not here"
    await built.close()


@pytest.mark.parametrize(
    "overrides",
    [
        {"issuer": "https://idp.test"},
        {"issuer": "spiffe://Shop.test"},
        {"issuer": "spiffe://shop.test/web"},
        {"use": "jwt"},
        {"keys": Discovery()},
        {"algorithms": ("EdDSA",)},
    ],
)
def test_settings_that_are_no_trust_domain_s_are_refused(overrides: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="issuer"):
        domain(**{"keys": JwksUrl(url="https://shop.test/bundle"), **overrides})
