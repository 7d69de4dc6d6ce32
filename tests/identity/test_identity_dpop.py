"""Proofs of possession: each request signed by the key that its token is bound to (RFC 9449)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import HeaderDuplicated, IdentityInvalid, IdentityMissing, TokenInQuery, TooManyFailures
from ostiary.exchange import Exchange
from ostiary.identity import (
    DpopSettings,
    FailureLimit,
    ListenerAuthenticator,
    MtlsAuthenticator,
    ReplayTable,
    build_authenticator,
)
from ostiary.identity.certificates import Anchors, Bundle, CertificateTrust
from ostiary.peer import PeerCertificate
from support.dpop import Prover
from support.identity import ABSENT, Issuer, SigningKey, b64, exchange, jwks, key_file, settings
from support.tls import NOW, root, workload

HOST = (b"host", b"orders.test")
EVERY = ("ES256", "ES384", "EdDSA", "RS256", "PS256")
Build = Callable[..., ListenerAuthenticator]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW.timestamp())


@pytest.fixture
def prover(clock: ManualClock) -> Prover:
    return Prover(clock=clock)


@pytest.fixture
def token(issuer: Issuer, prover: Prover) -> str:
    return issuer.token(claims={"cnf": prover.cnf})


@pytest.fixture
async def build(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Build]:
    ReplayTable.create(tmp_path / "proofs", capacity=1024, now=clock.now() - 1000)
    made: list[tuple[ListenerAuthenticator, ReplayTable]] = []

    def make(*, origins: dict[str, str] | None = None, **different: Any) -> ListenerAuthenticator:
        replays = ReplayTable.attach(tmp_path / "proofs")
        built = build_authenticator(
            [settings(key_file(tmp_path, jwks(SigningKey())))],
            clock=clock,
            dpop=DpopSettings(algorithms=EVERY, origins=origins or {}),
            replays=replays,
            **different,
        )
        made.append((built, replays))
        return built

    yield make
    for built, replays in made:
        await built.close()
        replays.close()


@pytest.fixture
async def authenticator(build: Build) -> ListenerAuthenticator:
    built = build()
    await built.start()
    return built


def bringing(token: str, *proofs: bytes, scheme: bytes = b"DPoP", **request: Any) -> Exchange:
    headers = [HOST, (b"authorization", scheme + b" " + token.encode()), *((b"dpop", proof) for proof in proofs)]
    return exchange(*headers, **request)


async def refusal(authenticator: ListenerAuthenticator, request: Exchange) -> str:
    with pytest.raises(IdentityInvalid) as refused:
        await authenticator.identify(request)
    return refused.value.detail


@pytest.mark.parametrize("scheme", [b"DPoP", b"dpop", b"DPOP"])
async def test_a_token_and_a_proof_of_its_key_are_an_identity(
    authenticator: ListenerAuthenticator, token: str, prover: Prover, scheme: bytes
) -> None:
    identity = await authenticator.identify(bringing(token, prover.proof(token), scheme=scheme))
    assert (identity.subject, identity.method) == ("web", "jwt")


@pytest.mark.parametrize("algorithm", EVERY)
async def test_every_algorithm_that_is_configured_is_taken(
    authenticator: ListenerAuthenticator, issuer: Issuer, clock: ManualClock, algorithm: str
) -> None:
    prover = Prover(clock=clock, key=SigningKey(algorithm=algorithm, material="2048"))
    token = issuer.token(claims={"cnf": prover.cnf})
    assert (await authenticator.identify(bringing(token, prover.proof(token)))).subject == "web"


async def test_each_request_has_its_own_proof(authenticator: ListenerAuthenticator, token: str, prover: Prover) -> None:
    proof = prover.proof(token)
    assert await authenticator.identify(bringing(token, proof))
    for _ in range(2):
        assert "used already" in await refusal(authenticator, bringing(token, proof))
    assert await authenticator.identify(bringing(token, prover.proof(token)))


async def test_a_proof_is_used_once_by_all_workers_together(build: Build, token: str, prover: Prover) -> None:
    first, second = build(), build()
    for one in (first, second):
        await one.start()
    proof = prover.proof(token)
    assert await first.identify(bringing(token, proof))
    assert "used already" in await refusal(second, bringing(token, proof))


async def test_two_proofs_with_one_id_are_one(authenticator: ListenerAuthenticator, token: str, prover: Prover) -> None:
    """The id is what is used up, whatever else differs."""
    assert await authenticator.identify(bringing(token, prover.proof(token, claims={"jti": "same"})))
    again = prover.proof(token, method="POST", claims={"jti": "same"})
    assert "used already" in await refusal(authenticator, bringing(token, again, method="POST"))


async def test_another_client_may_choose_the_same_id(
    authenticator: ListenerAuthenticator, issuer: Issuer, clock: ManualClock
) -> None:
    for material in ("one", "two"):
        prover = Prover(clock=clock, key=SigningKey(algorithm="ES256", material=material))
        token = issuer.token(claims={"cnf": prover.cnf})
        assert await authenticator.identify(bringing(token, prover.proof(token, claims={"jti": "same"})))


async def test_a_proof_that_was_refused_is_not_used_up(
    authenticator: ListenerAuthenticator, token: str, prover: Prover
) -> None:
    proof = prover.proof(token)
    assert await refusal(authenticator, bringing(token, proof, method="POST")) == "DPoP: htm"
    assert await authenticator.identify(bringing(token, proof))


# A stolen token.


async def test_a_bound_token_is_none_for_bearers_even_with_a_proof(
    authenticator: ListenerAuthenticator, token: str, prover: Prover
) -> None:
    assert await authenticator.identify(bringing(token, prover.proof(token))), "and it is kept from here on"
    for proofs in ([], [prover.proof(token)]):
        expected = "claim: cnf, bound to a key, and no proof of it came along"
        assert await refusal(authenticator, bringing(token, *proofs, scheme=b"Bearer")) == expected


async def test_a_token_that_was_kept_is_of_no_use_without_its_proof(
    authenticator: ListenerAuthenticator, token: str, prover: Prover, clock: ManualClock
) -> None:
    assert await authenticator.identify(bringing(token, prover.proof(token)))
    assert await refusal(authenticator, bringing(token)) == "DPoP: no proof"
    thief = Prover(clock=clock, key=SigningKey(algorithm="ES256", material="a thief"))
    assert await refusal(authenticator, bringing(token, thief.proof(token))) == "claim: cnf, bound to another key"
    forged = prover.proof(token, sign=thief.key.sign)
    assert await refusal(authenticator, bringing(token, forged)) == "DPoP: signature"


async def test_a_token_that_is_bound_to_nothing_takes_no_proof(
    authenticator: ListenerAuthenticator, issuer: Issuer, prover: Prover
) -> None:
    """RFC 9449 section 7.1: with the scheme DPoP the token is bound to the key, or it is refused."""
    token = issuer.token()
    assert await refusal(authenticator, bringing(token, prover.proof(token))) == "DPoP: the token is bound to no key"
    assert (await authenticator.identify(bringing(token, scheme=b"Bearer"))).subject == "web"


async def test_a_bad_token_is_refused_whatever_its_proof(
    authenticator: ListenerAuthenticator, issuer: Issuer, prover: Prover
) -> None:
    token = issuer.token(claims={"cnf": prover.cnf, "aud": "other"})
    assert await refusal(authenticator, bringing(token, prover.proof(token))) == "claim: aud"


async def test_a_token_bound_to_both_wants_both(
    build: Build, issuer: Issuer, prover: Prover, clock: ManualClock
) -> None:
    shop = root("shop")
    trust = CertificateTrust(Anchors(trust_domains={"shop.test": Bundle.read(shop.pem)}))
    authenticator = build(certificates=MtlsAuthenticator(trust=trust, clock=clock))
    await authenticator.start()
    web, other = (PeerCertificate(workload(shop, name).chain) for name in ("web", "other"))
    token = issuer.token(claims={"cnf": {**prover.cnf, "x5t#S256": b64(web.thumbprint)}})
    assert await authenticator.identify(bringing(token, prover.proof(token), peer=web))
    for peer in (None, other):
        assert "certificate" in await refusal(authenticator, bringing(token, prover.proof(token), peer=peer))
    only = issuer.token(claims={"cnf": {"x5t#S256": b64(web.thumbprint)}})
    expected = "DPoP: the token is bound to no key"
    assert await refusal(authenticator, bringing(only, prover.proof(only), peer=web)) == expected


# What a proof says.


@pytest.mark.parametrize(
    ("claims", "detail"),
    [
        ({"htm": "POST"}, "htm"),
        ({"htm": "get"}, "htm"),
        ({"htm": ABSENT}, "htm"),
        ({"htm": ["GET"]}, "htm"),
        ({"htu": ABSENT}, "htu"),
        ({"htu": ""}, "htu"),
        ({"htu": 1}, "htu"),
        ({"htu": "/orders/123"}, "htu"),
        ({"htu": "https://orders.test/orders/123"}, "htu"),
        ({"htu": "ftp://orders.test/orders/123"}, "htu"),
        ({"htu": "http://orders.test:8080/orders/123"}, "htu"),
        ({"htu": "http://evil.test/orders/123"}, "htu"),
        ({"htu": "http://orders.test@evil.test/orders/123"}, "htu"),
        ({"htu": "http://evil.test@orders.test/orders/123"}, "htu"),
        ({"htu": "http://orders.test.evil.test/orders/123"}, "htu"),
        ({"htu": "http://orders.test/orders/124"}, "htu"),
        ({"htu": "http://orders.test/orders/123/"}, "htu"),
        ({"htu": "http://orders.test/orders//123"}, "htu"),
        ({"htu": "http://orders.test/orders/./123"}, "htu"),
        ({"htu": "http://orders.test/x/../orders/123"}, "htu"),
        ({"htu": "http://orders.test/orders%2f123"}, "htu"),
        ({"htu": "http://orders.test/Orders/123"}, "htu"),
        ({"htu": "http://orders.test\t/orders/123"}, "htu"),
        ({"htu": "http://orders.test/orders/123\n"}, "htu"),
        ({"htu": "http://orders.test:99999/orders/123"}, "htu"),
        ({"htu": "http://[::1/orders/123"}, "htu"),
        ({"ath": ABSENT}, "ath"),
        ({"ath": ""}, "ath"),
        ({"ath": 1}, "ath"),
        ({"ath": b64(bytes(32))}, "ath"),
        ({"iat": ABSENT}, "iat"),
        ({"iat": "1"}, "iat"),
        ({"iat": 1.5}, "iat"),
        ({"iat": True}, "iat"),
        ({"iat": -1}, "iat"),
        ({"iat": 10**15}, "iat"),
        ({"jti": ABSENT}, "jti"),
        ({"jti": ""}, "jti"),
        ({"jti": "a b"}, "jti"),
        ({"jti": 7}, "jti"),
        ({"jti": "a" * 257}, "jti"),
        ({"exp": 99999999999}, "exp"),
        ({"nbf": 0}, "nbf"),
    ],
)
async def test_what_a_proof_says_has_to_be_this_request(
    authenticator: ListenerAuthenticator, token: str, prover: Prover, claims: dict[str, Any], detail: str
) -> None:
    assert await refusal(authenticator, bringing(token, prover.proof(token, claims=claims))) == f"DPoP: {detail}"


@pytest.mark.parametrize(
    "url",
    [
        "HTTP://ORDERS.TEST/orders/123",
        "http://orders.test:80/orders/123",
        "http://orders.test/orders/123?page=2",
        "http://orders.test/orders/123?page=2#here",
        "http://orders.test/%6frders/12%33",
    ],
)
async def test_another_spelling_of_the_same_address_is_the_same(
    authenticator: ListenerAuthenticator, token: str, prover: Prover, url: str
) -> None:
    """RFC 3986 section 6.2.2; query and fragment are no part of `htu`."""
    assert await authenticator.identify(bringing(token, prover.proof(token, url=url), query=b"page=1"))


async def test_the_address_is_the_listener_s_own_and_no_header_s_word_for_it(
    authenticator: ListenerAuthenticator, token: str, prover: Prover
) -> None:
    proof = prover.proof(token, url="https://orders.test/orders/123")
    forwarded = [(b"x-forwarded-proto", b"https"), (b"forwarded", b"proto=https"), (b"x-forwarded-host", b"a.test")]
    request = exchange(HOST, (b"authorization", b"DPoP " + token.encode()), (b"dpop", proof), *forwarded)
    assert await refusal(authenticator, request) == "DPoP: htu"


async def test_over_tls_the_address_is_https(authenticator: ListenerAuthenticator, token: str, prover: Prover) -> None:
    headers = [HOST, (b"authorization", b"DPoP " + token.encode())]
    proof = (b"dpop", prover.proof(token, url="https://orders.test/orders/123"))
    assert await authenticator.identify(exchange(*headers, proof, scheme="https"))
    wrong = (b"dpop", prover.proof(token, url="http://orders.test/orders/123"))
    assert await refusal(authenticator, exchange(*headers, wrong, scheme="https")) == "DPoP: htu"


async def test_a_service_that_is_published_elsewhere_is_named_by_its_public_address(
    build: Build, token: str, prover: Prover
) -> None:
    authenticator = build(origins={"orders.test": "https://api.shop.test:8443"})
    await authenticator.start()
    good = prover.proof(token, url="https://api.shop.test:8443/orders/123")
    assert await authenticator.identify(bringing(token, good))
    for url in ("http://orders.test/orders/123", "https://orders.test/orders/123", "https://api.shop.test/orders/123"):
        assert await refusal(authenticator, bringing(token, prover.proof(token, url=url))) == "DPoP: htu"


async def test_a_proof_is_young(
    authenticator: ListenerAuthenticator, issuer: Issuer, prover: Prover, clock: ManualClock
) -> None:
    token = issuer.token(claims={"cnf": prover.cnf, "exp": int(clock.now()) + 3600})
    now = int(clock.now())
    for offset, good in ((-61, False), (-60, True), (5, True), (6, False)):
        request = bringing(token, prover.proof(token, claims={"iat": now + offset}))
        if good:
            assert await authenticator.identify(request)
        else:
            assert await refusal(authenticator, request) == "DPoP: iat"


async def test_a_proof_cannot_be_used_again_for_as_long_as_it_is_young(
    authenticator: ListenerAuthenticator, issuer: Issuer, prover: Prover, clock: ManualClock
) -> None:
    token = issuer.token(claims={"cnf": prover.cnf, "exp": int(clock.now()) + 3600})
    proof = prover.proof(token, claims={"iat": int(clock.now()) + 5})
    assert await authenticator.identify(bringing(token, proof))
    for _ in range(66):
        with pytest.raises(IdentityInvalid):
            await authenticator.identify(bringing(token, proof))
        clock.advance(1)


# How a proof is made.


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"},
        {"typ": "DPoP+JWT"},
        {"typ": ABSENT},
        {"jwk": ABSENT},
        {"jwk": "a"},
        {"jwk": None},
        {"alg": ABSENT},
        {"alg": None},
        {"alg": "none"},
        {"alg": "HS256"},
        {"alg": "ES384"},
        {"alg": "RS256"},
        {"alg": "ES512"},
        {"kid": "k1"},
        {"crit": ["b64"]},
        {"b64": False},
        {"jku": "http://127.0.0.1/keys"},
        {"x5c": []},
    ],
)
async def test_the_header_of_a_proof_has_its_three_members_and_the_algorithm_of_its_key(
    authenticator: ListenerAuthenticator, token: str, prover: Prover, header: dict[str, Any]
) -> None:
    assert (await refusal(authenticator, bringing(token, prover.proof(token, header=header)))).split(":")[0] in (
        "DPoP",
        "header",
    )


async def test_a_proof_shows_no_private_key(authenticator: ListenerAuthenticator, token: str, prover: Prover) -> None:
    for name in ("d", "k", "p"):
        proof = prover.proof(token, header={"jwk": {**prover.jwk, name: "AA"}})
        assert await refusal(authenticator, bringing(token, proof)) == "DPoP: jwk, private or symmetric"


@pytest.mark.parametrize(
    "jwk",
    [
        {},
        {"kty": "oct"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": "RSA", "n": "AA", "e": "AQAB"},
        {"kty": ["EC"]},
    ],
)
async def test_what_is_no_key_proves_nothing(
    authenticator: ListenerAuthenticator, token: str, prover: Prover, jwk: dict[str, Any]
) -> None:
    assert (await refusal(authenticator, bringing(token, prover.proof(token, header={"jwk": jwk})))).startswith(
        "DPoP: "
    )


async def test_a_weak_key_proves_nothing(
    authenticator: ListenerAuthenticator, issuer: Issuer, clock: ManualClock
) -> None:
    weak = Prover(clock=clock, key=SigningKey(algorithm="RS256", material="1024"))
    token = issuer.token(claims={"cnf": weak.cnf})
    assert await refusal(authenticator, bringing(token, weak.proof(token))) == (
        "DPoP: jwk, the algorithm is not the key's"
    )


@pytest.mark.parametrize("shown", [b"", b"a.b", b"a.b.c.d", b"....", b"a" * 5000, b"\xff.\xff.\xff"])
async def test_what_is_no_proof_is_none(authenticator: ListenerAuthenticator, token: str, shown: bytes) -> None:
    assert (await refusal(authenticator, bringing(token, shown))).startswith("DPoP: ")


@pytest.mark.parametrize("body", [b"[]", b"1", b"{", b'{"jti":"a","jti":"b"}', b"\xff"])
async def test_the_body_of_a_proof_is_one_object(
    authenticator: ListenerAuthenticator, token: str, prover: Prover, body: bytes
) -> None:
    assert (await refusal(authenticator, bringing(token, prover.proof(token, claims=body)))).startswith("DPoP payload")


async def test_two_proofs_are_none(authenticator: ListenerAuthenticator, token: str, prover: Prover) -> None:
    with pytest.raises(HeaderDuplicated):
        await authenticator.identify(bringing(token, prover.proof(token), prover.proof(token)))


async def test_a_token_stands_in_its_header_alone(
    authenticator: ListenerAuthenticator, token: str, prover: Prover
) -> None:
    with pytest.raises(TokenInQuery):
        await authenticator.identify(bringing(token, prover.proof(token), query=b"t=" + token.encode()))


@pytest.mark.parametrize("credentials", ["", " ", "a b", "a" * 8193])
async def test_there_is_one_token(authenticator: ListenerAuthenticator, credentials: str) -> None:
    assert await refusal(authenticator, bringing(credentials, b"a.b.c")) == "credentials: not one token"


async def test_where_no_proofs_are_taken_the_scheme_is_another_one(
    tmp_path: Path, clock: ManualClock, token: str, prover: Prover
) -> None:
    authenticator = build_authenticator([settings(key_file(tmp_path, jwks(SigningKey())))], clock=clock)
    await authenticator.start()
    with pytest.raises(IdentityMissing):
        await authenticator.identify(bringing(token, prover.proof(token)))
    assert "cnf" in await refusal(authenticator, bringing(token, scheme=b"Bearer"))
    await authenticator.close()


async def test_bad_proofs_are_counted_like_bad_tokens(
    build: Build, token: str, prover: Prover, clock: ManualClock
) -> None:
    authenticator = build(failures=FailureLimit(clock=clock, rate=1, burst=3))
    await authenticator.start()
    for _ in range(3):
        assert await refusal(authenticator, bringing(token, prover.proof(token, claims={"htm": "PUT"}))) == "DPoP: htm"
    with pytest.raises(TooManyFailures):
        await authenticator.identify(bringing(token, prover.proof(token)))


@pytest.mark.parametrize("broken", [{"algorithms": ()}, {"window": 0}, {"window": 301}, {"leeway": 31}])
def test_settings_that_would_take_too_much_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="proofs"):
        DpopSettings(**{"origins": {}, **broken})


def test_proofs_and_the_store_of_what_was_used_come_together(tmp_path: Path, clock: ManualClock) -> None:
    with pytest.raises(ValueError, match="together"):
        build_authenticator(
            [settings(key_file(tmp_path, jwks(SigningKey())))], clock=clock, dpop=DpopSettings(origins={})
        )
