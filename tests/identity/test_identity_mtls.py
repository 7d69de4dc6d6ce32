"""The certificate of a connection as an identity: judged once, and again when the authorities change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from ostiary.clock import ManualClock
from ostiary.errors import IdentityInvalid, IdentityMissing
from ostiary.identity import MtlsAuthenticator, build_authenticator
from ostiary.identity.certificates import Anchors, Bundle, CertificateTrust
from ostiary.models import Identity
from ostiary.peer import PeerCertificate
from support.identity import ISSUER, Issuer, SigningKey, exchange, jwks, key_file, settings
from support.tls import NOW, Pair, root, workload

SHOP, OTHER = root("shop"), root("other")
WEB = workload(SHOP, "web")
AUTHORIZATION = b"authorization"


class Judging(CertificateTrust):
    """Counts how often it is asked."""

    judged = 0

    def judge(self, chain: Sequence[bytes], now: float) -> Identity:
        self.judged += 1
        return super().judge(chain, now)


def anchors(*authorities: Pair) -> Anchors:
    pem = b"".join(one.pem for one in authorities)
    return Anchors(trust_domains={"shop.test": Bundle.read(pem)})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW.timestamp())


@pytest.fixture
def trust() -> Judging:
    return Judging(anchors(SHOP))


@pytest.fixture
def certificates(trust: Judging, clock: ManualClock) -> MtlsAuthenticator:
    return MtlsAuthenticator(trust=trust, clock=clock)


def web() -> PeerCertificate:
    return PeerCertificate(WEB.chain)


WEB_IDENTITY = Identity(
    issuer="spiffe://shop.test", subject="spiffe://shop.test/web", method="mtls", expires_at=WEB.ends
)


async def test_the_certificate_of_a_connection_is_judged_once(certificates: MtlsAuthenticator, trust: Judging) -> None:
    peer = web()
    found = [await certificates.identify(exchange(peer=peer)) for _ in range(3)]
    assert found == [WEB_IDENTITY] * 3
    assert found[0] is found[1] is found[2]
    assert trust.judged == 1
    assert await certificates.identify(exchange(peer=web())) == WEB_IDENTITY
    assert trust.judged == 2


async def test_no_certificate_is_no_credential(certificates: MtlsAuthenticator) -> None:
    with pytest.raises(IdentityMissing):
        await certificates.identify(exchange())


@pytest.mark.parametrize(
    "name",
    [b"x-forwarded-client-cert", b"client-cert", b"x-ssl-client-cert", b"x-spiffe-id", b"ssl-client-cert"],
)
async def test_what_headers_say_of_certificates_is_not_looked_at(certificates: MtlsAuthenticator, name: bytes) -> None:
    with pytest.raises(IdentityMissing):
        await certificates.identify(exchange((name, b"URI=spiffe://shop.test/web")))


async def test_an_authority_that_was_removed_is_not_trusted_on_a_connection_that_is_open(
    certificates: MtlsAuthenticator, trust: Judging
) -> None:
    peer = web()
    assert await certificates.identify(exchange(peer=peer)) == WEB_IDENTITY
    trust.replace(anchors(OTHER))
    for _ in range(2):
        with pytest.raises(IdentityInvalid):
            await certificates.identify(exchange(peer=peer))
    assert trust.judged == 2
    trust.replace(anchors(SHOP, OTHER))
    assert await certificates.identify(exchange(peer=peer)) == WEB_IDENTITY


async def test_a_certificate_is_an_identity_until_its_path_ends_and_no_second_longer(
    certificates: MtlsAuthenticator, clock: ManualClock
) -> None:
    peer = web()
    clock.advance(WEB.ends - clock.now() - 1)
    assert await certificates.identify(exchange(peer=peer)) == WEB_IDENTITY
    clock.advance(1)
    with pytest.raises(IdentityInvalid, match="ended"):
        await certificates.identify(exchange(peer=peer))


async def test_a_judgement_of_others_counts_for_nothing(clock: ManualClock) -> None:
    """A verdict that another trust left on the connection, at the same generation."""
    peer = web()
    assert MtlsAuthenticator(trust=CertificateTrust(anchors(SHOP)), clock=clock).certified(exchange(peer=peer))
    with pytest.raises(IdentityInvalid):
        MtlsAuthenticator(trust=CertificateTrust(anchors(OTHER)), clock=clock).certified(exchange(peer=peer))


async def test_the_thumbprint_is_the_certificate_s_own(certificates: MtlsAuthenticator) -> None:
    from cryptography.hazmat.primitives import hashes

    assert certificates.certified(exchange(peer=web())).thumbprint == WEB.certificate.fingerprint(hashes.SHA256())


# With `[mtls, jwt]`.


@pytest.mark.parametrize("cache", [0, 100])
async def test_with_both_proofs_the_token_is_the_subject_and_the_certificate_the_actor(
    certificates: MtlsAuthenticator, clock: ManualClock, tmp_path: Path, cache: int
) -> None:
    issuer = Issuer(clock=clock)
    keys = key_file(tmp_path, jwks(SigningKey()))
    both = build_authenticator(
        [settings(keys)], clock=clock, proofs=("mtls", "jwt"), certificates=certificates, cache_capacity=cache
    )
    await both.start()
    token = issuer.token(claims={"groups": ["a"]}).encode()
    bearing = (AUTHORIZATION, b"Bearer " + token)
    peer = web()
    found = await both.identify(exchange(bearing, peer=peer))
    assert found == Identity(
        issuer=ISSUER,
        subject="web",
        method="jwt",
        expires_at=int(clock.now()) + 300,
        claims={"groups": ["a"]},
        token_id="t-1",
        leeway=10,
        actor={
            "type": "workload",
            "id": "spiffe://shop.test/web",
            "properties": {"issuer": "spiffe://shop.test", "method": "mtls", "claims": {}},
        },
    )
    assert ((await both.identify(exchange(bearing, peer=peer))) is found) is (cache > 0)
    other = await both.identify(exchange(bearing, peer=PeerCertificate(workload(SHOP, "other").chain)))
    assert other.actor is not None
    assert other.actor["id"] == "spiffe://shop.test/other"
    assert other.key != found.key, "what is decided for one actor is not found for another"
    for alone in (exchange(bearing), exchange(peer=peer)):
        with pytest.raises(IdentityMissing):
            await both.identify(alone)
    await both.close()


async def test_with_both_proofs_the_identity_ends_with_the_first(
    certificates: MtlsAuthenticator, clock: ManualClock, tmp_path: Path
) -> None:
    issuer = Issuer(clock=clock)
    keys = key_file(tmp_path, jwks(SigningKey()))
    both = build_authenticator([settings(keys)], clock=clock, proofs=("mtls", "jwt"), certificates=certificates)
    await both.start()
    clock.advance(WEB.ends - clock.now() - 10)
    bearing = (AUTHORIZATION, b"Bearer " + issuer.token().encode())
    found = await both.identify(exchange(bearing, peer=web()))
    assert (found.expires_at, found.ends_at) == (WEB.ends, WEB.ends)
    short = issuer.token(claims={"exp": WEB.ends - 4}).encode()  # accepted for ten seconds after that
    found = await both.identify(exchange((AUTHORIZATION, b"Bearer " + short), peer=web()))
    assert (found.expires_at, found.ends_at) == (WEB.ends - 4, WEB.ends)
    clock.advance(10)
    with pytest.raises(IdentityInvalid, match="ended"):
        await both.identify(exchange(bearing, peer=web()))
    await both.close()


def test_a_proof_by_certificate_needs_somebody_who_knows_certificates(clock: ManualClock) -> None:
    for proofs in (("mtls",), ("mtls", "jwt"), ("xfcc",)):
        with pytest.raises(ValueError, match="certificate"):
            build_authenticator([], clock=clock, proofs=proofs)
