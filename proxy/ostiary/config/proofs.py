"""What a listener needs for the proofs that it takes: TLS, its authorities, proofs of possession, forwarding peers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, Field, WithJsonSchema

from ostiary.config.fields import FilePath, Frozen
from ostiary.policy.mistakes import StandIn
from ostiary.policy.model import Strict
from ostiary.policy.values import FILLED, Distinct, Duration, Text, mistake
from ostiary.policy.words import closest, quoted
from ostiary.spiffe import SpiffeId, is_trust_domain

PROOFS: Final = ("jwt", "mtls", "xfcc")
_PAIRS: Final = (frozenset({"mtls", "jwt"}), frozenset({"xfcc", "jwt"}))

STAND_IN_PEER: Final = "stand-in"
"""What takes the place of peers that are missing or wrong, so that the rest is checked."""

_DPOP_ALGORITHMS: Final = ("ES256", "ES384", "ES512", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512")


def _proof(value: str) -> str:
    if value in PROOFS:
        return value
    raise mistake(f"{quoted(value)} is not a way to prove an identity{closest(value, PROOFS)}")


def _proofs(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(values) > 1 and frozenset(values) not in _PAIRS:
        raise mistake("two proofs are [mtls, jwt] or [xfcc, jwt]: the token is the caller, the certificate is who acts")
    return values


def _trust_domain(value: str) -> str:
    if value.startswith("spiffe:"):
        raise mistake(f"{quoted(value)} is written without its scheme: shop.test")
    if not is_trust_domain(value):
        raise mistake(f"{quoted(value)} is not a trust domain: lower-case letters, digits and . _ -")
    return value


def _authority(value: str) -> str:
    if value.startswith("spiffe:"):
        raise mistake("the names of a trust domain are proved by its own bundle: put that into 'trust_domains'")
    return value


def _peer(value: str) -> str:
    if not value.startswith("spiffe:"):
        return value
    try:
        return str(SpiffeId.parse(value))
    except ValueError:
        raise mistake(f"{quoted(value)} is not a SPIFFE ID, which is written spiffe://shop.test/ingress") from None


def _dpop_algorithm(value: str) -> str:
    if value in _DPOP_ALGORITHMS:
        return value
    raise mistake(f"{quoted(value)} is not an algorithm that a proof may have{closest(value, _DPOP_ALGORITHMS)}")


Proof: TypeAlias = Annotated[str, AfterValidator(_proof), WithJsonSchema({"enum": list(PROOFS)})]
Proofs: TypeAlias = Annotated[tuple[Proof, ...], Frozen, Distinct, AfterValidator(_proofs), FILLED]
TrustDomain: TypeAlias = Annotated[
    str, AfterValidator(_trust_domain), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9._-]{1,255}$"})
]
_Peer: TypeAlias = Annotated[Text, AfterValidator(_peer)]
_DpopAlgorithm: TypeAlias = Annotated[
    str, AfterValidator(_dpop_algorithm), WithJsonSchema({"enum": list(_DPOP_ALGORITHMS)})
]
_FILLED_MAPPING: Final[Any] = Field(json_schema_extra={"minProperties": 1})


class ClientCa(Strict):
    """An authority of one's own, whose plain client certificates prove identities: those without a SPIFFE ID."""

    issuer: Annotated[Text, AfterValidator(_authority), StandIn("stand-in")]
    """What policy sees as the issuer of these identities. A name of its own: no token's issuer has it."""
    file: Annotated[FilePath, StandIn("stand-in")]
    """PEM file with its certificates. Read again when it changes."""
    subject: Literal["dns", "email", "uri", "common_name"] = "dns"
    """Which name of the certificate is the subject: the one alternative name of this type, or the one common name of
    its subject. A certificate that has none, or several, proves nobody."""


class Tls(Strict):
    """TLS on the data listener. All files are read again when they change; connections that are open stay open."""

    certificate: Annotated[FilePath, StandIn("stand-in")]
    """PEM file of the listener's certificate, those of its intermediate authorities after it."""
    key: Annotated[FilePath, StandIn("stand-in")]
    """PEM file of its private key, without a password."""
    min_version: Literal["TLSv1.2", "TLSv1.3"] = "TLSv1.2"
    """The oldest version that is spoken. The newest is TLS 1.3, which is preferred."""
    trust_domains: Annotated[dict[TrustDomain, FilePath], Distinct, _FILLED_MAPPING] | None = None
    """Whose workloads' certificates (X.509-SVIDs) are taken: a SPIFFE trust domain, and the PEM file with the
    authorities that may vouch for its names, and for no others."""
    client_ca: ClientCa | None = None

    @property
    def asks_clients(self) -> bool:
        """Whether clients are asked for a certificate."""
        return bool(self.trust_domains) or self.client_ca is not None


class Xfcc(Strict):
    """Proxies in front of this one that say, in `X-Forwarded-Client-Cert`, whose certificate they were shown."""

    peers: Annotated[tuple[_Peer, ...], Frozen, Distinct, FILLED, StandIn([STAND_IN_PEER])]
    """Who they are, by the certificates that they show here themselves: SPIFFE IDs, or subjects of `client_ca`."""
    trust_domains: Annotated[tuple[TrustDomain, ...], Frozen, Distinct, FILLED, StandIn(["stand-in"])]
    """The trust domains whose workloads they may name. No others are believed, whoever says so."""


class Dpop(Strict):
    """Tokens that are bound to a key of the client's, which signs a proof for each request (RFC 9449)."""

    algorithms: Annotated[tuple[_DpopAlgorithm, ...], Frozen, Distinct, FILLED] = ("ES256", "EdDSA")
    """The signature algorithms that a proof may have."""
    window: Annotated[int, Duration(least=5, most=300, whole=True)] = 60
    """How old a proof may be. Whole seconds."""
    leeway: Annotated[int, Duration(least=0, most=30, whole=True)] = 5
    """How far a client's clock may be ahead of ours. Whole seconds."""
    proofs: Annotated[int, Field(ge=1024, le=100_000_000)] = 1_000_000
    """How many proofs are remembered until they are too old to be used, by all workers together: 32 bytes each. With
    more, requests with a proof are refused (503)."""
