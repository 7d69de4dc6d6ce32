"""Who sends this, by the client certificate of the connection it came on.

The certificate is judged once for each connection, and again whenever the authorities change: what is kept is the
judgement with the generation that it was made in, so that each further request costs a comparison of two numbers. An
authority that was removed is therefore not trusted by the next request on a connection that it once vouched for, and a
certificate that has ended is no identity from that second on, however long its connection lives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from ostiary.bounded import BoundedMap
from ostiary.clock import Clock
from ostiary.errors import IdentityInvalid, IdentityMissing
from ostiary.exchange import Exchange
from ostiary.identity.certificates import CertificateTrust, Certified
from ostiary.interfaces import Authenticator
from ostiary.models import Identity
from ostiary.peer import PeerCertificate, peer_certificate

_COMBINED: Final = 10_000
"""Combinations of a token's identity and a certificate's that are kept."""


class CertificateSource(Authenticator, Protocol):
    """Who knows whose certificate a request came with. As an authenticator, its identity is the certificate's."""

    def certified(self, exchange: Exchange) -> Certified:
        """Raises `IdentityMissing` where there is none, `IdentityInvalid` where nobody vouches for it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What was found of a connection's certificate while the authorities were of this generation."""

    trust: CertificateTrust
    generation: int
    certified: Certified | None
    refusal: str


class MtlsAuthenticator:
    """An `Authenticator`, and a `CertificateSource`, for the certificate of the connection itself."""

    def __init__(self, *, trust: CertificateTrust, clock: Clock) -> None:
        self._trust = trust
        self._clock = clock

    async def identify(self, exchange: Exchange) -> Identity:
        return self.certified(exchange).identity

    def certified(self, exchange: Exchange) -> Certified:
        peer = peer_certificate(exchange)
        if peer is None:
            raise IdentityMissing("no client certificate")
        verdict = peer.verdict
        trust = self._trust
        if not isinstance(verdict, _Verdict) or verdict.generation != trust.generation or verdict.trust is not trust:
            verdict = peer.verdict = self._judge(peer)
        certified = verdict.certified
        if certified is None:
            raise IdentityInvalid(verdict.refusal)
        if self._clock.now() >= certified.identity.expires_at:
            raise IdentityInvalid("certificate: its path has ended")
        return certified

    def _judge(self, peer: PeerCertificate) -> _Verdict:
        trust = self._trust
        certified, refusal = None, ""
        try:
            identity = trust.judge(peer.chain, self._clock.now())
            certified = Certified(identity=identity, thumbprint=peer.thumbprint)
        except IdentityInvalid as error:
            refusal = error.detail
        return _Verdict(trust=trust, generation=trust.generation, certified=certified, refusal=refusal)


class ActingAuthenticator:
    """`[mtls, jwt]`, `[xfcc, jwt]`: both proofs are demanded. The token is the subject, the certificate is the actor.

    The identity ends with whichever ends first.
    """

    def __init__(self, *, tokens: Authenticator, certificates: CertificateSource) -> None:
        self._tokens = tokens
        self._certificates = certificates
        # By the ids of two identities, which the entry holds, so that neither id is anybody else's: each combination
        # is made once, and stages that keep what they made of an identity find it again.
        self._combined: BoundedMap[tuple[int, int], tuple[Identity, Identity, Identity]] = BoundedMap(_COMBINED)

    async def identify(self, exchange: Exchange) -> Identity:
        actor = self._certificates.certified(exchange).identity
        subject = await self._tokens.identify(exchange)
        key = (id(subject), id(actor))
        found = self._combined.get(key)
        if found is None:
            found = (subject, actor, _acting(subject, actor))
            self._combined.put(key, found)
        return found[2]


def _acting(subject: Identity, actor: Identity) -> Identity:
    expires_at = min(subject.expires_at, actor.expires_at)
    return Identity(
        issuer=subject.issuer,
        subject=subject.subject,
        method=subject.method,
        expires_at=expires_at,
        leeway=min(subject.ends_at, actor.ends_at) - expires_at,
        claims=subject.claims,
        token_id=subject.token_id,
        actor=actor.document(),  # of the same shape as `subject`
        proved_by=(*subject.proved_by, *actor.marks),
    )
