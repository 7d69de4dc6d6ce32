"""Whatever proves an identity says what it was proved by, so that it can be blocked by that."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid
from ostiary.identity import (
    ListenerAuthenticator,
    MtlsAuthenticator,
    XfccAuthenticator,
    build_authenticator,
)
from ostiary.identity.certificates import Anchors, Bundle, CertificateTrust
from ostiary.identity.keys import key_digests
from ostiary.marks import certificate_mark, digest_mark, key_mark, subject_mark, thumbprint_mark, token_mark
from ostiary.models import Identity
from ostiary.peer import PeerCertificate
from support.identity import ABSENT, ISSUER, Issuer, SigningKey, b64, bearing, exchange, jwks, key_file, settings
from support.tls import NOW, root, workload

SHOP = root("shop")
WEB, INGRESS = workload(SHOP, "web"), workload(SHOP, "ingress")
KEY = SigningKey(algorithm="ES256", material="marks")
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the group of P-256 (SEC 2 section 2.4.2)."""


def thumbprint(key: SigningKey) -> tuple[str, ...]:
    return thumbprint_mark(key_digests(key.private.public_key())[0])


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW.timestamp())


@pytest.fixture
def issuer(clock: ManualClock) -> Issuer:
    return Issuer(clock=clock, key=KEY)


@pytest.fixture
def certificates(clock: ManualClock) -> MtlsAuthenticator:
    trust = CertificateTrust(Anchors(trust_domains={"shop.test": Bundle.read(SHOP.pem)}))
    return MtlsAuthenticator(trust=trust, clock=clock)


@pytest.fixture
async def authenticator(tmp_path: Path, clock: ManualClock) -> AsyncIterator[ListenerAuthenticator]:
    twice = jwks(KEY, KEY.jwk(kid="again"), SigningKey(id="k2", algorithm="ES256", material="another"))
    built = build_authenticator([settings(key_file(tmp_path, twice), algorithms=("ES256",))], clock=clock)
    await built.start()
    yield built
    await built.close()


async def test_a_token_has_the_marks_of_its_subject_of_itself_and_of_its_key_under_all_its_names(
    authenticator: ListenerAuthenticator, issuer: Issuer
) -> None:
    token = issuer.token()
    for _ in range(2):  # the second is kept
        identity = await authenticator.identify(bearing(token))
        assert set(identity.marks) == {
            subject_mark(ISSUER, "web"),
            token_mark(ISSUER, "t-1"),
            digest_mark(token.rpartition(".")[0].encode()),
            key_mark(ISSUER, "k1"),
            key_mark(ISSUER, "again"),
            thumbprint(KEY),
        }


async def test_a_token_without_an_id_is_known_by_its_digest_whatever_its_signature(
    authenticator: ListenerAuthenticator, issuer: Issuer
) -> None:
    """With (r, s) an ECDSA signature, (r, n - s) is one too, which whoever has the token can make."""
    first = issuer.token(claims={"jti": ABSENT})
    signed, _, signature = first.rpartition(".")
    raw = KEY.sign(signed.encode())
    assert b64(raw) != signature  # made anew
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    assert decode_dss_signature(encode_dss_signature(r, ORDER - s)) == (r, ORDER - s)
    other = f"{signed}.{b64(r.to_bytes(32) + (ORDER - s).to_bytes(32))}"
    digest = ("digest", hashlib.sha256(signed.encode()).hexdigest())
    for token in (first, other):
        assert digest in (await authenticator.identify(bearing(token))).marks


async def test_who_acts_is_in_the_marks_and_for_whom_they_act_in_turn(
    authenticator: ListenerAuthenticator, issuer: Issuer
) -> None:
    acting = {"sub": "agent", "act": {"act": {"iss": "https://other.test", "sub": "robot", "act": {"sub": "base"}}}}
    identity = await authenticator.identify(bearing(issuer.token(claims={"act": acting})))
    found = {mark for mark in identity.marks if mark[0] == "subject"}
    assert found == {
        subject_mark(ISSUER, "web"),
        subject_mark(ISSUER, "agent"),
        subject_mark("https://other.test", "robot"),
        subject_mark("https://other.test", "base"),
        subject_mark(ISSUER, "base"),  # whose of the two it is, nobody says
    }


@pytest.mark.parametrize("acting", ["agent", None, {"sub": 1}, {"sub": "a", "iss": 1}, {"sub": "a", "act": []}])
async def test_an_actor_that_cannot_be_read_is_none_that_is_let_through(
    authenticator: ListenerAuthenticator, issuer: Issuer, acting: Any
) -> None:
    with pytest.raises(IdentityInvalid, match="claim: act"):
        await authenticator.identify(bearing(issuer.token(claims={"act": acting})))


async def test_a_bound_token_has_the_marks_of_what_it_is_bound_to(
    tmp_path: Path, clock: ManualClock, issuer: Issuer, certificates: MtlsAuthenticator
) -> None:
    file = key_file(tmp_path, jwks(KEY))
    built = build_authenticator(
        [settings(file, algorithms=("ES256",))], clock=clock, proofs=["mtls", "jwt"], certificates=certificates
    )
    await built.start()
    peer = PeerCertificate(WEB.chain)
    token = issuer.token(claims={"cnf": {"x5t#S256": b64(peer.thumbprint)}})
    identity = await built.identify(exchange((b"authorization", b"Bearer " + token.encode()), peer=peer))
    await built.close()
    marks = set(identity.marks)
    assert {certificate_mark(peer.thumbprint), subject_mark(ISSUER, "web")} < marks
    assert subject_mark("spiffe://shop.test", "spiffe://shop.test/web") in marks  # whose certificate acts


async def test_a_bound_token_has_the_marks_of_whatever_proves_its_certificate(
    tmp_path: Path, clock: ManualClock, issuer: Issuer, certificates: MtlsAuthenticator
) -> None:
    """Also where the token alone says who it is: a key that was stolen is blocked with all that is bound to it."""
    file = key_file(tmp_path, jwks(KEY))
    built = build_authenticator([settings(file, algorithms=("ES256",))], clock=clock, certificates=certificates)
    await built.start()
    peer = PeerCertificate(WEB.chain)
    bound, free = issuer.token(claims={"cnf": {"x5t#S256": b64(peer.thumbprint)}}), issuer.token()

    async def identified(token: str) -> Identity:
        return await built.identify(exchange((b"authorization", b"Bearer " + token.encode()), peer=peer))

    identity, other = await identified(bound), await identified(free)
    again = await identified(bound)
    await built.close()
    shown = (await certificates.identify(exchange(peer=peer))).marks
    assert set(shown) < set(identity.marks)
    assert set(shown).isdisjoint(other.marks)
    assert identity is again


async def test_a_certificate_has_its_own_mark_and_that_of_its_key(certificates: MtlsAuthenticator) -> None:
    peer = PeerCertificate(WEB.chain)
    identity = await certificates.identify(exchange(peer=peer))
    key = x509.load_der_x509_certificate(WEB.chain[0]).public_key()
    assert set(identity.marks) == {
        subject_mark("spiffe://shop.test", "spiffe://shop.test/web"),
        certificate_mark(peer.thumbprint),
        thumbprint_mark(key_digests(key)[0]),
    }


async def test_whom_a_proxy_forwards_has_the_marks_of_the_proxy_that_says_so(certificates: MtlsAuthenticator) -> None:
    peers = [("spiffe://shop.test", "spiffe://shop.test/ingress"), ("spiffe://shop.test", "spiffe://shop.test/web")]
    forwarded = XfccAuthenticator(connections=certificates, peers=peers, trust_domains=["corp"])
    header = (b"x-forwarded-client-cert", b"Hash=%s;URI=spiffe://corp/sa/pay" % (b"0123456789abcdef" * 4))

    async def marks(pair: Any) -> set[tuple[str, ...]]:
        return set((await forwarded.identify(exchange(header, peer=PeerCertificate(pair.chain)))).marks)

    by_ingress, by_web = await marks(INGRESS), await marks(WEB)
    assert {
        subject_mark("spiffe://corp", "spiffe://corp/sa/pay"),
        ("certificate", "0123456789abcdef" * 4),
        subject_mark("spiffe://shop.test", "spiffe://shop.test/ingress"),
        certificate_mark(PeerCertificate(INGRESS.chain).thumbprint),
    } < by_ingress
    assert certificate_mark(PeerCertificate(INGRESS.chain).thumbprint) not in by_web


def test_identities_that_policy_cannot_tell_apart_are_equal_whatever_proved_them() -> None:
    def one(**proved: Any) -> Identity:
        return Identity(issuer=ISSUER, subject="web", method="jwt", expires_at=0, **proved)

    assert one(proved_by=(key_mark(ISSUER, "k1"),)) == one()
    assert one(proved_by=(key_mark(ISSUER, "k1"),)).key == one().key
