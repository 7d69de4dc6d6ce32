"""Whom a client certificate speaks for: X.509-SVIDs by the bundle of their trust domain, plain ones by one's own CA.

The handshake has joined the client's chain to *some* configured authority. Here it is verified again (RFC 5280, by
`cryptography`), against the authorities of the one trust domain that the certificate names and no others: the CA of one
domain cannot vouch for another's names, and neither can the authority of plain certificates. A certificate that says
`spiffe:` anywhere is an SVID or nothing: two readings of one certificate would be two identities.

What is checked of a path: signatures, validity (the authority's own too), basic constraints, path lengths, name
constraints (those that the library does not know, on URIs for one, refuse the path), unknown critical extensions; that
whoever issues may sign certificates; that extended key usage, where it is limited, includes client authentication, on
every certificate of the path. Revocation lists are not asked: certificates that identify workloads are short-lived.

A certificate's identity ends with the path, at the first `notAfter` in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from ostiary.errors import IdentityInvalid
from ostiary.identity.claims import SUBJECT
from ostiary.identity.keys import KeyUnusable, key_digests
from ostiary.marks import Mark, certificate_mark, thumbprint_mark
from ostiary.models import Identity
from ostiary.spiffe import SpiffeId, domain_id

SubjectKind: TypeAlias = Literal["dns", "email", "uri", "common_name"]
"""Which name of a plain certificate is the subject."""

MAX_AUTHORITIES: Final = 64
_MAX_DEPTH: Final = 6  # intermediate certificates; more is no path that anybody builds on purpose

_DNS: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)(\.(?!-)[a-z0-9_-]{1,63}(?<!-))*")
_CLIENT: Final = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


class BundleError(ValueError):
    """A file of authorities cannot be used. The message is for people, and names no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What a certificate proved. `thumbprint` is the SHA-256 of its DER form (RFC 8705 section 3.1), None where only
    a name was forwarded."""

    identity: Identity
    thumbprint: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainAuthority:
    """The authority of certificates without a SPIFFE ID. `issuer` is what policy sees; `subject` which name is."""

    issuer: str
    subject: SubjectKind
    bundle: Bundle


class Bundle:
    """The authorities that may vouch for one set of names. `pem` is these, and nothing else that the file holds."""

    def __init__(self, authorities: Sequence[x509.Certificate]) -> None:
        self._store = Store(list(authorities))
        self.pem: Final = "".join(one.public_bytes(Encoding.PEM).decode("ascii") for one in authorities)

    @classmethod
    def read(cls, pem: bytes) -> Bundle:
        """Raises `BundleError` for a file that is not one or more certificates of authorities."""
        try:
            authorities = x509.load_pem_x509_certificates(pem)
        except ValueError:
            raise BundleError("holds no certificates in PEM, or a broken one") from None
        if pem.count(b"-----BEGIN ") != len(authorities):
            raise BundleError("holds something else than certificates")  # a private key, for one
        if len(authorities) > MAX_AUTHORITIES:
            raise BundleError(f"holds more than {MAX_AUTHORITIES} certificates")
        for authority in authorities:
            if not _is_authority(authority):
                # One that may not issue would vouch for itself alone, and look like a trusted authority.
                raise BundleError("holds a certificate that is no authority (basicConstraints, keyUsage)")
        return cls(authorities)

    def verify(self, leaf: x509.Certificate, shown: Iterable[x509.Certificate], now: float) -> float:
        """When the path from `leaf` to one of the authorities ends (Unix seconds). Raises `IdentityInvalid`."""
        verifier = (
            PolicyBuilder()
            .store(self._store)
            .time(datetime.fromtimestamp(now, UTC))
            .max_chain_depth(_MAX_DEPTH)
            .extension_policies(ca_policy=_AUTHORITIES, ee_policy=_CLIENTS)
            .build_client_verifier()
        )
        try:
            path = verifier.verify(leaf, list(shown)).chain
        except VerificationError as error:
            raise IdentityInvalid(f"certificate: {_first_line(error)}") from None
        return min(one.not_valid_after_utc.timestamp() for one in path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """All authorities of a listener: of trust domains (without a scheme), and of plain certificates."""

    trust_domains: Mapping[str, Bundle] = field(default_factory=dict)
    plain: PlainAuthority | None = None


class CertificateTrust:
    """Who is trusted now. `generation` moves with every change, so that one number tells whether a judgement holds."""

    def __init__(self, anchors: Anchors | None = None) -> None:
        self._anchors = anchors or Anchors()
        self.generation = 0

    def replace(self, anchors: Anchors) -> None:
        """From now on these are trusted, and nobody else."""
        self._anchors = anchors
        self.generation += 1

    def judge(self, chain: Sequence[bytes], now: float) -> Identity:
        """Whom the first certificate of a chain (DER) speaks for. Raises `IdentityInvalid`, and nothing else."""
        try:
            return self._judge([x509.load_der_x509_certificate(one) for one in chain], now)
        except IdentityInvalid:
            raise
        except Exception as error:  # noqa: BLE001 - a certificate that breaks a parser is a bad one: 401, never 500
            raise IdentityInvalid(f"certificate: unforeseen {type(error).__name__}") from None

    def _judge(self, chain: Sequence[x509.Certificate], now: float) -> Identity:
        leaf, *shown = chain
        names = _alternative_names(leaf)
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        if any(uri.lower().startswith("spiffe:") for uri in uris):
            return self._judge_svid(leaf, shown, uris, now)
        plain = self._anchors.plain
        if plain is None:
            raise IdentityInvalid("certificate: not an X.509-SVID")
        ends = plain.bundle.verify(leaf, shown, now)
        return _identity(plain.issuer, _plain_subject(leaf, names, plain.subject), ends, leaf)

    def _judge_svid(
        self, leaf: x509.Certificate, shown: Sequence[x509.Certificate], uris: Sequence[str], now: float
    ) -> Identity:
        """X.509-SVID sections 2 to 5: exactly one URI, a workload's; a leaf, whose key is for signatures."""
        if len(uris) != 1:
            raise IdentityInvalid("certificate: more than one URI")
        try:
            name = SpiffeId.parse(uris[0])
        except ValueError as error:
            raise IdentityInvalid(f"certificate: {error}") from None
        bundle = self._anchors.trust_domains.get(name.trust_domain)
        if bundle is None:
            raise IdentityInvalid("certificate: of a trust domain that is not configured")
        try:
            usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            raise IdentityInvalid("certificate: an SVID says what its key is for") from None
        if not usage.digital_signature:
            raise IdentityInvalid("certificate: its key is not for signatures")
        return _identity(domain_id(name.trust_domain), name.text, bundle.verify(leaf, shown, now), leaf)


def _identity(issuer: str, subject: str, ends: float, leaf: x509.Certificate) -> Identity:
    return Identity(issuer=issuer, subject=subject, method="mtls", expires_at=int(ends), proved_by=_marks(leaf))


def _marks(leaf: x509.Certificate) -> tuple[Mark, ...]:
    certificate = certificate_mark(leaf.fingerprint(SHA256()))
    try:
        return certificate, thumbprint_mark(key_digests(leaf.public_key())[0])
    except KeyUnusable:  # of a kind that RFC 7638 has no thumbprint for
        return (certificate,)


def _alternative_names(leaf: x509.Certificate) -> x509.SubjectAlternativeName:
    try:
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return x509.SubjectAlternativeName([])


def _plain_subject(leaf: x509.Certificate, names: x509.SubjectAlternativeName, kind: SubjectKind) -> str:
    found: Sequence[object]
    if kind == "dns":
        found = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    elif kind == "email":
        found = names.get_values_for_type(x509.RFC822Name)
    elif kind == "uri":
        found = names.get_values_for_type(x509.UniformResourceIdentifier)
    else:
        found = [attribute.value for attribute in leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(found) != 1:
        raise IdentityInvalid(f"certificate: {len(found) or 'no'} names of the type {kind}, not one")
    subject = found[0]
    if not isinstance(subject, str) or SUBJECT.fullmatch(subject) is None:
        raise IdentityInvalid(f"certificate: its {kind} is not a subject")
    if kind == "dns" and _DNS.fullmatch(subject) is None:
        raise IdentityInvalid("certificate: its DNS name is not one host's")  # a wildcard is many
    return subject


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        extensions = certificate.extensions
        if not extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        return extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound as missing:
        return missing.oid == x509.KeyUsage.oid  # left out, a key may be used for everything (RFC 5280 section 4.2.1.3)
    except ValueError:
        return False


# What is demanded beside the path itself. The library's own profile is the web's, which SVIDs are not of: they need no
# subject, no authority key identifier and no DNS name.


def _issues(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("an issuer that is no authority")


def _signs_certificates(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer whose key is not for certificates")


def _is_a_leaf(_policy: Policy, _certificate: x509.Certificate, constraints: x509.BasicConstraints | None) -> None:
    if constraints is not None and constraints.ca:
        raise ValueError("an authority is no client")


def _is_for_signatures(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and (not usage.digital_signature or usage.key_cert_sign or usage.crl_sign):
        raise ValueError("a client's key is for signatures, and not for certificates or lists")


def _is_for_clients(_policy: Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage | None) -> None:
    if usage is not None and _CLIENT.isdisjoint(usage):
        raise ValueError("not for client authentication")


_AUTHORITIES: Final = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _issues)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_clients)
)
_CLIENTS: Final = (
    ExtensionPolicy.permit_all()
    .may_be_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_a_leaf)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _is_for_signatures)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _is_for_clients)
)


def _first_line(error: Exception) -> str:
    """The library's reason without the certificate that it quotes: names in it are a stranger's text."""
    return str(error).partition(" (encountered")[0].partition("\n")[0][:200]
