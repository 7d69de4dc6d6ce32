"""Tokens that are bound to a certificate: good with it, and with nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid
from ostiary.identity import ListenerAuthenticator, MtlsAuthenticator, build_authenticator
from ostiary.identity.certificates import Anchors, Bundle, CertificateTrust
from ostiary.peer import PeerCertificate
from support.identity import Issuer, SigningKey, b64, exchange, jwks, key_file, settings
from support.tls import NOW, root, workload

SHOP = root("shop")
WEB, OTHER = workload(SHOP, "web"), workload(SHOP, "other")


def thumbprint(peer: PeerCertificate) -> str:
    return b64(peer.thumbprint)


def shown(pair: Any) -> PeerCertificate:
    return PeerCertificate(pair.chain)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW.timestamp())


@pytest.fixture
def trust() -> CertificateTrust:
    return CertificateTrust(Anchors(trust_domains={"shop.test": Bundle.read(SHOP.pem)}))


Build = Callable[..., ListenerAuthenticator]


@pytest.fixture(params=[0, 100], ids=["verified each time", "kept"])
async def build(
    request: pytest.FixtureRequest, tmp_path: Path, clock: ManualClock, trust: CertificateTrust
) -> AsyncIterator[Build]:
    """An authenticator that knows client certificates, unless `certificates` says otherwise."""
    built: list[ListenerAuthenticator] = []

    def make(**different: Any) -> ListenerAuthenticator:
        keys = key_file(tmp_path, jwks(SigningKey()))
        given = {"certificates": MtlsAuthenticator(trust=trust, clock=clock), **different}
        built.append(build_authenticator([settings(keys)], clock=clock, cache_capacity=request.param, **given))
        return built[-1]

    yield make
    for one in built:
        await one.close()


def bearing(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


async def refused(authenticator: ListenerAuthenticator, token: str, peer: PeerCertificate | None = None) -> str:
    with pytest.raises(IdentityInvalid) as refusal:
        await authenticator.identify(exchange(bearing(token), peer=peer))
    return refusal.value.detail


async def test_a_bound_token_is_good_with_its_certificate_and_with_nothing_else(build: Build, issuer: Issuer) -> None:
    """Whether it was kept before by a request that had the certificate, or not."""
    authenticator = build()
    await authenticator.start()
    web, other = shown(WEB), shown(OTHER)
    token = issuer.token(claims={"cnf": {"x5t#S256": thumbprint(web)}})
    for _ in range(2):
        assert await refused(authenticator, token) == "claim: cnf, bound to a certificate that did not come along"
        assert await refused(authenticator, token, other) == "claim: cnf, bound to another certificate"
        identity = await authenticator.identify(exchange(bearing(token), peer=web))
        assert (identity.subject, identity.method, identity.actor) == ("web", "jwt", None)


async def test_a_header_that_says_a_certificate_is_none(build: Build, issuer: Issuer) -> None:
    authenticator = build()
    await authenticator.start()
    web = shown(WEB)
    token = issuer.token(claims={"cnf": {"x5t#S256": thumbprint(web)}})
    saying = (b"x-forwarded-client-cert", f"Hash={web.thumbprint.hex()};URI=spiffe://shop.test/web".encode())
    with pytest.raises(IdentityInvalid):
        await authenticator.identify(exchange(bearing(token), saying))


async def test_a_certificate_that_is_no_longer_trusted_proves_no_token(
    build: Build, issuer: Issuer, trust: CertificateTrust
) -> None:
    authenticator = build()
    await authenticator.start()
    web = shown(WEB)
    token = issuer.token(claims={"cnf": {"x5t#S256": thumbprint(web)}})
    assert await authenticator.identify(exchange(bearing(token), peer=web))
    trust.replace(Anchors())
    assert "trust domain" in await refused(authenticator, token, web)


async def test_a_listener_without_client_certificates_takes_no_token_that_is_bound_to_one(
    build: Build, issuer: Issuer
) -> None:
    authenticator = build(certificates=None)
    await authenticator.start()
    web = shown(WEB)
    token = issuer.token(claims={"cnf": {"x5t#S256": thumbprint(web)}})
    expected = "claim: cnf, bound to a certificate, and this listener asks for none"
    assert await refused(authenticator, token) == expected
    assert await refused(authenticator, token, web) == expected


async def test_a_token_that_is_bound_to_a_key_is_none_for_bearers(build: Build, issuer: Issuer) -> None:
    authenticator = build()
    await authenticator.start()
    web = shown(WEB)
    for cnf in ({"jkt": "A" * 43}, {"jkt": "A" * 43, "x5t#S256": thumbprint(web)}):
        token = issuer.token(claims={"cnf": cnf})
        expected = "claim: cnf, bound to a key, and no proof of it came along"
        assert await refused(authenticator, token, web) == expected
        assert await refused(authenticator, token, web) == expected


DIGEST = "A" * 43


@pytest.mark.parametrize(
    "cnf",
    [
        None,
        {},
        [],
        "x5t#S256",
        True,
        {"jwk": {"kty": "EC"}},
        {"jwe": "a.b.c.d.e"},
        {"kid": "k1"},
        {"jku": "https://idp.test/keys"},
        {"x5t#S256": DIGEST, "kid": "k1"},
        {"x5t#S256": DIGEST, "new": 1},
        {"x5t": DIGEST},
        {"X5T#S256": DIGEST},
        {"x5t#S256": None},
        {"x5t#S256": ""},
        {"x5t#S256": DIGEST + "="},
        {"x5t#S256": DIGEST[:-1]},
        {"x5t#S256": DIGEST + "A"},
        {"x5t#S256": DIGEST[:-1] + "B"},
        {"x5t#S256": [DIGEST]},
        {"jkt": DIGEST[:-1] + "/"},
        {"jkt": 1},
    ],
)
async def test_a_binding_that_is_not_understood_refuses(build: Build, issuer: Issuer, cnf: Any) -> None:
    authenticator = build()
    await authenticator.start()
    for peer in (None, shown(WEB)):
        assert (await refused(authenticator, issuer.token(claims={"cnf": cnf}), peer)).startswith("claim: cnf")


async def test_a_listener_may_take_bound_tokens_alone(build: Build, issuer: Issuer) -> None:
    """A token that is bound to nothing is nobody's in particular, whatever certificate it comes with."""
    authenticator = build(bound_tokens=True)
    await authenticator.start()
    web = shown(WEB)
    for peer in (None, web):
        assert await refused(authenticator, issuer.token(), peer) == (
            "token: bound to nothing, and this listener takes bound ones alone"
        )
    token = issuer.token(claims={"cnf": {"x5t#S256": thumbprint(web)}})
    assert (await authenticator.identify(exchange(bearing(token), peer=web))).subject == "web"


async def test_with_both_proofs_a_bound_token_has_to_be_the_actor_s(build: Build, issuer: Issuer) -> None:
    """JWT-067: a token that was replayed by another workload of the mesh."""
    authenticator = build(proofs=("mtls", "jwt"), bound_tokens=True)
    await authenticator.start()
    web, other = shown(WEB), shown(OTHER)
    token = issuer.token(claims={"cnf": {"x5t#S256": thumbprint(web)}})
    identity = await authenticator.identify(exchange(bearing(token), peer=web))
    assert identity.actor is not None
    assert identity.actor["id"] == "spiffe://shop.test/web"
    assert await refused(authenticator, token, other) == "claim: cnf, bound to another certificate"
    assert await refused(authenticator, issuer.token(), other) == (
        "token: bound to nothing, and this listener takes bound ones alone"
    )
